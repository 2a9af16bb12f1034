"""Where writes go: planners like those of `mesh.client.plan`.

A write of one place is one ask to the region that owns it. Bulk writes are cut into batches that a broker accepts, and
every row succeeds or fails on its own, named by its index in what the caller gave.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from mesh import validate
from mesh.client.plan import Ask, Reply, get, locate, prefix
from mesh.core.refused import StaleMap
from mesh.errors import Conflict, InvalidRequest, MeshError, NotFound, RemoteProtocolError
from mesh.model import (
    SHAPED_HINT,
    AnyOperation,
    BulkStored,
    Delete,
    Deleted,
    Draft,
    Get,
    Insert,
    InsertMany,
    Move,
    Place,
    Properties,
    RowError,
    Stored,
    Update,
    Upsert,
)
from mesh.regions import RegionMap

#: Rows and bytes of one bulk write: MongoDB takes bulk writes best by the thousand, and a quarter of the largest
#: frame keeps one job from holding up others on the same connection.
MAX_ROWS = 1_000
MAX_BYTES = 2 * 1024 * 1024
#: Single upserts on their way at once; workers put concurrent ones into one bulk write.
UPSERTS_AT_ONCE = 64
# Bulk writes on their way at once: enough to keep each region's workers busy, few enough to stay fair to others.
_BATCHES_AT_ONCE = 4
# How often a move across a border starts over when somebody else changes the place meanwhile.
_MAX_RACES = 5

T = TypeVar("T")
OnePlace = Generator[list[Ask], list[Reply], Place]


def insert(draft: Draft, regions: RegionMap) -> OnePlace:
    """Store a new place in the region that owns its position."""
    (reply,) = yield [(validate.owner(draft, regions), Insert(draft))]
    return _stored(reply)


def upsert(draft: Draft, regions: RegionMap) -> OnePlace:
    """Store a place where it belongs; if its id names another region, it has moved, so it is removed there."""
    owner = validate.owner(draft, regions)
    (reply,) = yield [(owner, Upsert(draft))]
    place = _stored(reply)
    named = prefix(place.id, regions)
    if named is not None and named != owner:
        (reply,) = yield [(named, Delete(place.id))]
        if isinstance(reply, MeshError) and not isinstance(reply, NotFound):
            raise reply
    return place


def update(id: str, patch: Properties, regions: RegionMap) -> OnePlace:  # noqa: A002 - the field's name
    """Patch the properties, in whichever region holds the place."""
    reply = yield from _at_holder(id, lambda _: Update(id, patch), regions)
    return _stored(reply)


def delete(id: str, regions: RegionMap) -> Generator[list[Ask], list[Reply], None]:  # noqa: A002
    """Remove every copy of a place; `NotFound` only if each region said that it holds none."""
    replies = yield [(name, Delete(id)) for name in regions.names]
    if any(isinstance(reply, Deleted) for reply in replies):
        return
    for reply in replies:
        if isinstance(reply, MeshError) and not isinstance(reply, NotFound):
            raise reply
    raise NotFound(f"no region holds a place with the id {id!r}", id=id)


def move(operation: Move, regions: RegionMap) -> OnePlace:
    """Set a position; a place that crosses a border is put into the new region before it leaves the old one.

    A crash in between leaves two copies. The new one bears the later timestamp, so readers take that one.
    """
    target = validate.owner(Draft(operation.lon, operation.lat), regions)
    if prefix(operation.id, regions) == target:
        (reply,) = yield [(target, operation)]
        if not isinstance(reply, NotFound):
            return _stored(reply)
    # Everywhere at once: what is carried over must be the current copy, not one that a crash has left behind.
    place = yield from locate(operation.id, [regions.names])
    if place.region == target:
        (reply,) = yield [(target, operation)]
        return _stored(reply)
    return (yield from _carry_over(place, operation, target))


def _carry_over(place: Place, to: Move, target: str) -> OnePlace:
    if place.shape is not None:
        raise InvalidRequest("a place with a shape cannot be moved", field="id", hint=SHAPED_HINT)
    old = place.region
    if not _is_older(place, to):
        return place
    for _ in range(_MAX_RACES):
        carried = Draft(to.lon, to.lat, place.properties, place.id, None, to.timestamp, place.version)
        (reply,) = yield [(target, Upsert(carried))]
        moved = _stored(reply)
        (reply,) = yield [(old, Delete(place.id, version=place.version))]
        if isinstance(reply, NotFound | Deleted):
            return moved
        if not isinstance(reply, Conflict):
            raise _unexpected(reply)
        # Somebody changed the old copy meanwhile: carry that change over too, or yield to a later measurement.
        (reply,) = yield [(old, Get(place.id))]
        place = _stored(reply)
        if not _is_older(place, to):
            yield [(target, Delete(moved.id, version=moved.version))]
            return place
    raise Conflict("the place is changed by others faster than it can be moved", id=to.id)


def _is_older(place: Place, than: Move) -> bool:
    return place.timestamp is None or place.timestamp < than.timestamp


def _at_holder(
    id: str,  # noqa: A002
    operation: Callable[[str], AnyOperation],
    regions: RegionMap,
) -> Generator[list[Ask], list[Reply], Reply]:
    named = prefix(id, regions)
    if named is not None:
        (reply,) = yield [(named, operation(named))]
        if not isinstance(reply, NotFound):
            return reply
    place = yield from get(id, regions)
    (reply,) = yield [(place.region, operation(place.region))]
    return reply


def _stored(reply: Reply) -> Place:
    if not isinstance(reply, Stored):
        raise _unexpected(reply)
    return reply.place


def _unexpected(reply: Reply) -> MeshError:
    if isinstance(reply, MeshError):
        return reply
    return RemoteProtocolError(f"a region answered a write with {type(reply).__name__}")


# -- bulk -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Batch:
    """Rows for one region: their indexes, what they hold, and how large it is on the wire."""

    region: str
    rows: list[int] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    size: int = 0


class Rows:
    """The rows of a bulk write: which region each belongs to, and how each ended."""

    def __init__(self, places: Sequence[object], regions: RegionMap) -> None:
        self.ids: list[str | None] = [None] * len(places)
        self.errors: list[RowError] = []
        self.batches: list[Batch] = []
        self._open: dict[str, Batch] = {}
        for row, place in enumerate(places):
            try:
                draft = validate.draft_from(place)
                self._add(row, draft, validate.owner(draft, regions))
            except InvalidRequest as error:
                self.fail(row, error)

    def fail(self, row: int, error: MeshError) -> None:
        """Record why a row was not stored."""
        self.errors.append(RowError(row, error.to_dict()))

    def take(self, batch: Batch, reply: Reply) -> None:
        """Record how a batch ended."""
        if isinstance(reply, StaleMap) and not any(self.ids):
            raise reply  # nothing is stored yet, so planning all of it anew is safe
        if isinstance(reply, MeshError):
            for row in batch.rows:
                self.fail(row, reply)
        elif isinstance(reply, BulkStored):
            for row, stored in zip(batch.rows, reply.ids, strict=True):
                self.ids[row] = stored
            self.errors += [RowError(batch.rows[error.row], error.error) for error in reply.errors]
        elif isinstance(reply, Stored):
            for row in batch.rows:
                self.ids[row] = reply.place.id

    def result(self) -> BulkStored:
        """Return how each row ended, errors in the order of rows."""
        return BulkStored(self.ids, sorted(self.errors, key=lambda error: error.row))

    def _add(self, row: int, draft: Draft, region: str) -> None:
        size = len(msgspec.msgpack.encode(draft))
        batch = self._open.get(region)
        if batch is None or len(batch.rows) >= MAX_ROWS or batch.size + size > MAX_BYTES:
            batch = self._open[region] = Batch(region)
            self.batches.append(batch)
        batch.rows.append(row)
        batch.drafts.append(draft)
        batch.size += size


def insert_many(places: Sequence[object], regions: RegionMap) -> Generator[list[Ask], list[Reply], BulkStored]:
    """Store new places, each in the region that owns it."""
    rows = Rows(places, regions)
    for some in _chunks(rows.batches, _BATCHES_AT_ONCE):
        replies = yield [(batch.region, InsertMany(batch.drafts)) for batch in some]
        for batch, reply in zip(some, replies, strict=True):
            rows.take(batch, reply)
    return rows.result()


def upsert_many(places: Sequence[object], regions: RegionMap) -> Generator[list[Ask], list[Reply], BulkStored]:
    """Store places, replacing those with the same id, many at once; of equal ids in *places* the last one stays."""
    rows = Rows(places, regions)
    for some in _chunks(_one_by_one(rows.batches), UPSERTS_AT_ONCE):
        replies = yield [(batch.region, Upsert(batch.drafts[0])) for batch in some]
        for batch, reply in zip(some, replies, strict=True):
            rows.take(batch, reply)
        yield from _remove_strays(some, rows, regions)
    return rows.result()


def _remove_strays(some: list[Batch], rows: Rows, regions: RegionMap) -> Generator[list[Ask], list[Reply], None]:
    # As in `upsert`: a place whose id names another region has moved away from there.
    strays: list[Batch] = []
    asks: list[Ask] = []
    for batch in some:
        stored = rows.ids[batch.rows[0]]
        named = prefix(stored, regions) if stored else None
        if stored and named and named != batch.region:
            strays.append(batch)
            asks.append((named, Delete(stored)))
    for batch, reply in zip(strays, (yield asks) if asks else [], strict=True):
        if not isinstance(reply, NotFound):
            rows.take(batch, reply)


def _one_by_one(batches: list[Batch]) -> list[Batch]:
    # Two upserts of one id on their way at the same time could be done in either order; only the last one counts.
    rows = [
        (row, batch.region, draft) for batch in batches for row, draft in zip(batch.rows, batch.drafts, strict=True)
    ]
    single: dict[object, Batch] = {}
    for row, region, draft in sorted(rows, key=lambda item: item[0]):
        key = row if draft.id is None else draft.id
        earlier = single.pop(key, None)
        single[key] = Batch(region, [*(earlier.rows if earlier else ()), row], [draft])
    return list(single.values())


def _chunks(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
