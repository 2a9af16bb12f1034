"""What breaks, whom it hits, when, and for how long: plain data from a seed, so that any run can be had again.

One fault at a time: each has healed, and the mesh has had a pause, before the next begins. With `overlap` a second one
may begin while the first lasts. Kinds come in rounds, each kind once a round in a new order, so that a short run
has met as many kinds as it can.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

REGIONS = ("ne", "south", "mw", "sw", "ca")

#: Kind -> seconds that it lasts, least and most. What takes connections down lasts longer than the second after which
#: silence means death, half of the time.
KINDS: dict[str, tuple[float, float]] = {
    "kill broker": (0.2, 3.0),
    "kill worker": (0.2, 2.0),
    "kill mongod": (0.2, 3.0),
    "stop broker": (0.5, 4.0),
    "stop worker": (0.5, 4.0),
    "stop mongod": (0.5, 4.0),
    "restart broker": (0.1, 0.5),
    "no descriptors": (1.0, 4.0),
    "slow reader": (2.0, 5.0),
    "full disk": (1.0, 4.0),
    "clock step": (1.0, 3.0),
    "link down": (0.5, 4.0),
    "one way": (0.5, 4.0),
    "cut pair": (1.0, 4.0),
    "slow link": (2.0, 5.0),
}
#: Seconds before the first fault, between two, and after the last one, in which the mesh must be quiet again.
CALM_SECONDS = 3.0
PAUSE_SECONDS = (1.5, 4.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: *whom* is a region, and what it means besides is the kind's affair."""

    at: float
    seconds: float
    kind: str
    whom: str
    #: A second party (`cut pair`, `one way`), a program (`no descriptors`), a direction.
    other: str = ""

    def __str__(self) -> str:
        other = f" ({self.other})" if self.other else ""
        return f"{self.at:8.2f} s  {self.kind:<14} {self.whom}{other} for {self.seconds:.2f} s"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def plan(
    seed: int,
    seconds: float,
    kinds: Sequence[str],
    *,
    workers: int = 2,
    overlap: bool = False,
    durations: Mapping[str, tuple[float, float]] = KINDS,
) -> list[Fault]:
    """Return the faults of a run; the same arguments give the same faults."""
    chance = random.Random(seed)
    found: list[Fault] = []
    at = CALM_SECONDS
    for kind in _rounds(kinds, chance):
        least, most = durations[kind]
        lasts = round(chance.uniform(least, most), 2)
        if at + lasts + CALM_SECONDS > seconds:
            break
        whom = chance.choice(REGIONS)
        found.append(Fault(round(at, 2), lasts, kind, whom, _other(kind, whom, workers, chance)))
        at += (0.3 * lasts if overlap else lasts) + chance.uniform(*PAUSE_SECONDS)
    return found


def _rounds(kinds: Sequence[str], chance: random.Random) -> Iterator[str]:
    while kinds:
        yield from chance.sample(list(kinds), len(kinds))


def _other(kind: str, whom: str, workers: int, chance: random.Random) -> str:
    """Return what a kind wants to know besides the region."""
    others = [region for region in REGIONS if region != whom]
    match kind:
        case "kill worker" | "stop worker":
            return str(chance.randint(1, workers))
        case "no descriptors":
            return chance.choice(["broker", "worker", "mongod"])
        case "cut pair" | "one way":
            return chance.choice(others)
        case "clock step":
            return chance.choice(["+3600", "-3600", "+2", "-2"])
        case _:
            return ""
