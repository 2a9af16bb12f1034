"""The places service: operations on the places of any region, answered from that region's shard."""

import logging
from collections.abc import Callable
from threading import Lock

from mesh import validate
from mesh.errors import InvalidRequest, MeshError, StoreError, WrongRegion
from mesh.model import (
    AnyAnswer,
    AnyOperation,
    BulkStored,
    Draft,
    Failed,
    Found,
    Insert,
    InsertMany,
    Move,
    Query,
    RowError,
    Upsert,
)
from mesh.protocol import body as wire
from mesh.protocol import header, limits
from mesh.regions import RegionMap
from mesh.store.base import Store
from mesh.store.perform import perform

log = logging.getLogger("mesh.places")
_MAX_BYTES = limits.MAX_FRAME_BYTES - header.SIZE


class Places:
    """Runs operations on the shards; connects to a shard when the first request for it comes."""

    name = "places"
    inline = False

    def __init__(self, served_by: str, open_shard: Callable[[str], Store], regions: RegionMap) -> None:
        self._served_by = served_by
        self._open_shard = open_shard
        self._regions = regions
        self._shards: dict[str, Store] = {}
        self._lock = Lock()

    def handle(self, region: str, body: bytes, seconds: float) -> bytes:
        """Run one operation; whatever goes wrong becomes a `Failed` answer."""
        pages = False
        try:
            operation = validate.operation(wire.decode_operation(body))
            pages = isinstance(operation, Query)
            store = self.open(region)
            with store.time_limit(seconds):
                answer = self._run(operation, store)
        except MeshError as error:
            answer = Failed(error.to_dict())
        except Exception:
            log.exception("a request to %s failed unexpectedly", region)
            answer = Failed(StoreError(f"the worker {self._served_by} failed; its log says more").to_dict())
        return self._encode(answer, pages=pages)

    def _encode(self, answer: AnyAnswer, *, pages: bool) -> bytes:
        """Return the reply; of a page that no message could hold, its first part, which says that there is more."""
        content = wire.encode(wire.Reply(answer, self._served_by))
        while pages and len(content) > _MAX_BYTES and isinstance(answer, Found) and len(answer.places) > 1:
            answer = Found(answer.places[: len(answer.places) // 2], more=True)
            content = wire.encode(wire.Reply(answer, self._served_by))
        return content

    def close(self) -> None:
        """Close all shards."""
        for store in self._shards.values():
            store.close()

    def open(self, region: str) -> Store:
        """Return the store of a region, made at the first call; it connects when it is first asked something."""
        store = self._shards.get(region)
        if store is None:
            with self._lock:
                store = self._shards.get(region) or self._open_shard(region)
                self._shards[region] = store
        return store

    def _run(self, operation: AnyOperation, store: Store) -> AnyAnswer:
        match operation:
            case InsertMany():
                return self._insert_many(operation, store)
            case Insert() | Upsert():
                self._check_owner(operation.place, store)
            case Move():
                self._check_owner(Draft(operation.lon, operation.lat), store)
        return perform(store, operation)

    def _insert_many(self, operation: InsertMany, store: Store) -> BulkStored:
        """Store the rows that may be stored here; the others fail one by one."""
        errors: list[RowError] = []
        good: list[int] = []
        for row, place in enumerate(operation.places):
            try:
                self._check_owner(place, store)
                good.append(row)
            except InvalidRequest as error:
                errors.append(RowError(row, error.to_dict()))
        done = store.insert_many([operation.places[row] for row in good])
        ids: list[str | None] = [None] * len(operation.places)
        for row, place_id in zip(good, done.ids, strict=True):
            ids[row] = place_id
        errors += [RowError(good[failed.row], failed.error) for failed in done.errors]
        return BulkStored(ids, sorted(errors, key=lambda failed: failed.row))

    def _check_owner(self, place: Draft, store: Store) -> None:
        """Refuse a write whose position is another region's, and name that one."""
        owner = validate.owner(place, self._regions)
        if owner != store.region:
            raise WrongRegion(
                f"{place.lon}, {place.lat} lies in {owner}, not in {store.region}",
                region=owner,
                field="lon",
                hint=f"write it to {owner}",
            )
