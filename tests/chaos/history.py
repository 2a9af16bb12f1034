"""What clients did and saw: plain data, from which the checker judges and which a report can print.

A *key* is the id of a place that one client alone writes. The operations on a key have numbers from 1, and each leaves
a trace of its own in the place: an insert or upsert is its `base`, an update a mark `m<number>` among its properties,
and whatever sets the position also sets the timestamp to its number. So a place says which operations made it so.
"""

from dataclasses import dataclass
from enum import StrEnum

from mesh.model import Place


class Outcome(StrEnum):
    """How a request ended for the one who asked."""

    OK = "ok"
    #: An error that promises that nothing was done.
    REFUSED = "refused"
    #: An error that leaves open whether it was done.
    UNKNOWN = "unknown"
    #: An answer or an error that the mesh must never give.
    WRONG = "wrong"
    #: No outcome within the deadline and its margin.
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class Seen:
    """A copy of a place as somebody saw it, reduced to what operations leave in it."""

    region: str
    version: int
    base: int
    marks: frozenset[int]
    #: The number of the operation that set the position.
    at: int
    lon: float = 0.0
    lat: float = 0.0

    def __str__(self) -> str:
        marks = ",".join(map(str, sorted(self.marks)))
        return f"v{self.version} in {self.region} base={self.base} marks=[{marks}] at={self.at}"


@dataclass(slots=True)
class Op:
    """One write of one client."""

    client: str
    key: str
    number: int
    kind: str
    #: The region the position lies in; of an update or delete, the one that the client believes the place to be in.
    region: str
    lon: float
    lat: float
    started: float
    ended: float = 0.0
    outcome: Outcome = Outcome.STUCK
    seen: Seen | None = None
    error: str = ""

    def __str__(self) -> str:
        end = f"{self.ended:9.3f}" if self.ended else "    never"
        what = f"{self.kind} #{self.number} {self.region}"
        return f"{self.started:9.3f} {end}  {self.client}  {what:<22} {self.outcome}  {self.seen or ''} {self.error}"


@dataclass(frozen=True, slots=True)
class Read:
    """One look at a key; *seen* is None when the mesh said that there is no such place."""

    client: str
    key: str
    started: float
    ended: float
    seen: Seen | None
    #: Whether it is promised to be as new as the primary.
    primary: bool = True

    def __str__(self) -> str:
        return f"{self.started:9.3f} {self.ended:9.3f}  {self.client}  get{'':<19} {self.seen or 'no such place'}"


def seen_of(place: Place) -> Seen:
    """Return what operations left in a place; ValueError for one that no client of ours can have written."""
    rest = dict(place.properties)
    base = rest.pop("base", None)
    if not isinstance(base, int) or place.timestamp is None:
        raise ValueError(f"{place.id} was not written by a client: {place}")
    if any(name != f"m{number}" for name, number in rest.items()):
        raise ValueError(f"{place.id} has properties that nobody wrote: {place.properties}")
    marks = frozenset(rest.values())
    return Seen(place.region, place.version, base, marks, int(place.timestamp), place.lon, place.lat)


def properties(number: int) -> dict[str, int]:
    """Return the properties of an insert or upsert."""
    return {"base": number}


def patch(number: int) -> dict[str, int]:
    """Return the patch of an update."""
    return {f"m{number}": number}
