"""Clients that write places of their own and read each other's, at a steady rate whatever becomes of the answers.

An open loop: request number i is due at start + i/rate and goes out then, answered earlier ones or not. Five writers
own their keys; a key has one operation at a time, and many keys are under way at once. Readers look at keys of all
writers, and ask for places that never change, whose right answer is known.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mesh import AsyncClient
from mesh.errors import Busy, Conflict, InvalidRequest, MeshError, NotFound, StoreOverloaded
from mesh.geo import distance
from mesh.model import Draft, Place
from tests.chaos.history import Op, Outcome, Read, patch, properties, seen_of
from tests.chaos.schedule import REGIONS

DEADLINE_SECONDS = 2.0
#: How much later than its deadline an outcome may come before the client counts as stuck.
MARGIN_SECONDS = 1.0
#: Around these, writers' places lie; well inside their regions.
HOMES = {
    "ne": (-74.006, 40.714), "south": (-84.388, 33.749), "mw": (-89.4, 40.2), "sw": (-97.743, 30.267),
    "ca": (-118.244, 34.052),
}  # fmt: skip
#: Around these, places that never change; so far from the others that no answer mixes them.
STILL = {
    "ne": (-73.76, 42.65), "south": (-81.38, 28.54), "mw": (-93.6, 41.6), "sw": (-104.99, 39.74),
    "ca": (-122.68, 45.52),
}  # fmt: skip
STILL_EACH = 40
#: A key is given up after so many operations, or so many of unknown outcome.
LONGEST_HISTORY, MOST_UNKNOWN = 12, 2
#: Keys of one writer alive at once; beyond, one is deleted or left alone before a new one comes.
MOST_KEYS = 40
#: What the next operation on a key is, and how often.
KINDS = {"update": 8, "upsert": 2, "move": 3, "cross": 2, "delete": 1}
NEW_KEY = 0.25
#: Errors of writes to one region that promise that nothing was done. All others leave it open. A move across a border
#: and a delete ask several regions, so even these say nothing about the others. Tighten as the mesh promises more.
NOTHING_DONE = (Busy, StoreOverloaded, InvalidRequest, NotFound, Conflict)

#: In place of a region, of a request that needs them all.
EVERYWHERE = "all"

T = TypeVar("T")


@dataclass
class Key:
    """A place of a writer, as far as the writer knows."""

    id: str
    region: str
    number: int = 0
    unknown: int = 0
    busy: bool = False


@dataclass(slots=True)
class Sample:
    """How one request ended, for the figures: seconds since the run began."""

    kind: str
    region: str
    #: The region of the broker that the client asks as long as it is there.
    via: str
    due: float
    sent: float
    ended: float
    outcome: Outcome
    error: str = ""


@dataclass
class Log:
    """All that happened."""

    began: float = field(default_factory=time.monotonic)
    ops: list[Op] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    #: What was wrong in itself, without a history to explain it.
    wrong: list[str] = field(default_factory=list)

    def now(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self.began


def still_places() -> dict[str, list[Draft]]:
    """Return the places that never change, by region."""
    chance = random.Random("still")
    return {
        region: [
            Draft(lon + chance.uniform(-0.2, 0.2), lat + chance.uniform(-0.2, 0.2), {"still": n}, f"still-{region}-{n}")
            for n in range(STILL_EACH)
        ]
        for region, (lon, lat) in STILL.items()
    }


class Writer:
    """Owns keys and decides what happens to them next."""

    def __init__(self, name: str, via: str, client: AsyncClient, log: Log, chance: random.Random) -> None:
        self.name, self._via, self._client, self._log, self._chance = name, via, client, log, chance
        self.keys: list[Key] = []
        self._made = 0

    async def write(self, due: float) -> None:
        """Do one operation."""
        key, kind = self._next()
        key.busy = True
        op = self._op(key, kind)
        self._log.ops.append(op)
        await self._perform(op, key, due)
        self._learn(op, key)

    def _next(self) -> tuple[Key, str]:
        idle = [key for key in self.keys if not key.busy]
        if not idle or (len(self.keys) < MOST_KEYS and self._chance.random() < NEW_KEY):
            return self._new_key(), "insert"
        key = self._chance.choice(idle)
        if key.unknown:  # what would touch two regions has too many fates then
            return key, self._chance.choice(["update", "update", "upsert", "move"])
        (kind,) = self._chance.choices(list(KINDS), list(KINDS.values()))
        return key, kind

    def _new_key(self) -> Key:
        self._made += 1
        region = self._chance.choice(REGIONS)
        prefix = f"{region}:" if self._made % 2 else ""  # ids that name a region take other ways
        self.keys.append(Key(f"{prefix}{self.name}-{self._made}", region))
        return self.keys[-1]

    def _op(self, key: Key, kind: str) -> Op:
        key.number += 1
        region = key.region
        if kind == "cross":
            kind, region = "move", self._chance.choice([name for name in REGIONS if name != key.region])
        lon, lat = (round(middle + self._chance.uniform(-0.05, 0.05), 6) for middle in HOMES[region])
        return Op(self.name, key.id, key.number, kind, region, lon, lat, self._log.now())

    async def _perform(self, op: Op, key: Key, due: float) -> None:
        place: Place | None = None
        try:
            place = await within(self._ask(op))
            op.outcome = Outcome.OK
            op.seen = seen_of(place) if place else None
        except TimeoutError:
            op.outcome = Outcome.STUCK
        except MeshError as error:
            certain = isinstance(error, NotFound) or (isinstance(error, NOTHING_DONE) and _one_write(op, key))
            op.outcome, op.error = Outcome.REFUSED if certain else Outcome.UNKNOWN, told(error)
        except Exception as error:  # noqa: BLE001 - whatever else is raised is a finding
            op.outcome, op.error = Outcome.WRONG, repr(error)
            self._log.wrong.append(f"{op.kind} of {op.key}: {error!r}; {place}")
        op.ended = self._log.now()
        note(
            self._log, Sample(f"write {op.kind}", op.region, self._via, due, op.started, op.ended, op.outcome, op.error)
        )

    async def _ask(self, op: Op) -> Place | None:
        client = self._client
        whole = {"id": op.key, "lon": op.lon, "lat": op.lat, "properties": properties(op.number)}
        match op.kind:
            case "insert":
                return await client.insert({**whole, "timestamp": float(op.number)})
            case "upsert":
                return await client.upsert({**whole, "timestamp": float(op.number)})
            case "update":
                return await client.update(op.key, patch(op.number))
            case "move":
                return await client.move(op.key, lon=op.lon, lat=op.lat, timestamp=float(op.number))
        await client.delete(op.key)
        return None

    def _learn(self, op: Op, key: Key) -> None:
        key.busy = False
        open_ = op.outcome not in {Outcome.OK, Outcome.REFUSED}
        key.unknown += open_
        crossed = op.region != key.region
        if op.outcome is Outcome.OK:
            key.region = op.region
        gone = op.kind == "delete" or (op.kind == "insert" and op.outcome is Outcome.REFUSED)
        tired = key.number >= LONGEST_HISTORY or key.unknown >= MOST_UNKNOWN
        if gone or tired or (open_ and crossed):
            self.keys.remove(key)


class Reader:
    """Looks at keys, and at places that never change."""

    def __init__(self, name: str, via: str, client: AsyncClient, log: Log, chance: random.Random) -> None:
        self.name, self._via, self._client, self._log, self._chance = name, via, client, log, chance
        self._still = still_places()

    async def get(self, writers: Iterable[Writer], due: float) -> None:
        """Look at a key."""
        keys = [key for writer in writers for key in writer.keys]
        if not keys:
            return
        key = self._chance.choice(keys)
        # An id that names no region is looked for in all of them.
        started, region = self._log.now(), key.region if ":" in key.id else EVERYWHERE
        seen = None
        try:
            with contextlib.suppress(NotFound):
                seen = seen_of(await within(self._client.get(key.id)))
            outcome, error = Outcome.OK, ""
            self._log.reads.append(Read(self.name, key.id, started, self._log.now(), seen))
        except Exception as raised:  # noqa: BLE001
            outcome, error = self._failed(raised, f"get of {key.id}")
        kind = "read get all" if region == EVERYWHERE else "read get"
        note(self._log, Sample(kind, region, self._via, due, started, self._log.now(), outcome, error))

    async def nearest(self, region: str, due: float) -> None:
        """Ask for places whose order is known."""
        lon, lat = (middle + self._chance.uniform(-0.1, 0.1) for middle in STILL[region])
        wanted = sorted(self._still[region], key=lambda draft: (distance(lon, lat, draft.lon, draft.lat), draft.id))
        started = self._log.now()
        outcome, error = Outcome.OK, ""
        try:
            page = await within(self._client.nearest(lon=lon, lat=lat, limit=3))
            if page.partial:
                outcome, error = Outcome.REFUSED, f"partial: {', '.join(page.failed_regions)}"
            elif [place.id for place in page] != [draft.id for draft in wanted[:3]]:
                outcome, error = Outcome.WRONG, f"nearest to {lon}, {lat}: {[place.id for place in page]}"
                self._log.wrong.append(error)
        except Exception as raised:  # noqa: BLE001
            outcome, error = self._failed(raised, f"nearest in {region}")
        note(self._log, Sample("read nearest", region, self._via, due, started, self._log.now(), outcome, error))

    def _failed(self, error: Exception, what: str) -> tuple[Outcome, str]:
        if isinstance(error, TimeoutError):
            return Outcome.STUCK, what
        if isinstance(error, MeshError) and not isinstance(error, InvalidRequest):
            return Outcome.REFUSED, told(error)
        self._log.wrong.append(f"{what}: {error!r}")
        return Outcome.WRONG, repr(error)


def _one_write(op: Op, key: Key) -> bool:
    """Return whether an operation writes to one region only, so that a refusal there says all."""
    prefix, named, _ = key.id.partition(":")
    elsewhere = op.kind == "upsert" and bool(named) and prefix != op.region  # it also removes what is there
    return op.kind != "delete" and op.region == key.region and not elsewhere


async def within(asked: Awaitable[T]) -> T:
    """Await an outcome that has to come; TimeoutError if it does not."""
    task = asyncio.ensure_future(asked)
    # Twice: a loop that was itself held up finds the client's timer and ours due at once, and owes the client a turn.
    for seconds in (DEADLINE_SECONDS + MARGIN_SECONDS, MARGIN_SECONDS):
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
    task.cancel()
    raise TimeoutError


def told(error: MeshError) -> str:
    """Return an error as one line, its code first."""
    return f"{error.code}: {error.message}"


def note(log: Log, sample: Sample) -> None:
    """Count a request."""
    log.samples.append(sample)
    log.counts[sample.outcome.value] += 1


class Load:
    """All clients of a run, and the loop that keeps them at their rate."""

    def __init__(self, brokers: dict[str, str], cache: Path, seed: int, log: Log) -> None:
        self.log = log
        self._chance = random.Random(seed)
        self._clients: list[AsyncClient] = []
        ends = list(brokers.values())
        self.writers, self.readers = [], []
        for number, region in enumerate(brokers):
            order = [*ends[number:], *ends[:number]]  # one's own broker first, the others when it is away
            client, other = (self._client(order, cache) for _ in range(2))
            chance = random.Random(f"{seed} {region}")
            self.writers.append(Writer(f"w{number + 1}", region, client, log, chance))
            self.readers.append(Reader(f"r{number + 1}", region, other, log, chance))

    async def prepare(self) -> None:
        """Store the places that never change, and meet every broker."""
        for drafts in still_places().values():
            stored = await self._clients[0].insert_many(drafts, timeout=30)
            if stored.errors:
                raise RuntimeError(f"the mesh takes no places: {stored.errors[0]}")
        for client in self._clients:
            await client.regions(timeout=10)

    async def run(self, rate: float, seconds: float) -> None:
        """Ask at a rate, a third of it writes, then wait for what is under way."""
        begun = self.log.now()
        under_way: set[asyncio.Task[None]] = set()
        for number in range(int(rate * seconds)):
            due = begun + number / rate
            await asyncio.sleep(max(0.0, due - self.log.now()))
            task = asyncio.create_task(self._one(number, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def capacity(self, seconds: float, at_once: int = 64) -> float:
        """Return how many requests a second are answered when there are always so many open."""
        until, before = self.log.now() + seconds, len(self.log.samples)

        async def again(number: int) -> None:
            while self.log.now() < until:
                await self._one(number, self.log.now())
                number += 1

        await asyncio.gather(*(again(number) for number in range(at_once)))
        return (len(self.log.samples) - before) / seconds

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            await client.close()

    async def _one(self, number: int, due: float) -> None:
        who = number // 3 % len(REGIONS)
        if number % 3 == 0:
            await self.writers[who].write(due)
        elif number % 3 == 1:
            await self.readers[who].get(self.writers, due)
        else:
            await self.readers[who].nearest(self._chance.choice(REGIONS), due)

    def _client(self, brokers: list[str], cache: Path) -> AsyncClient:
        self._clients.append(AsyncClient(brokers, timeout=DEADLINE_SECONDS, cache_dir=cache))
        return self._clients[-1]
