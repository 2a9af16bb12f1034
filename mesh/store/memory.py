"""The places of one region in this process's memory: the reference that every other store is compared with.

Reads run on two sets of columns: a large base, and the places changed since it was built. A write hides a row of the
base and puts the place among the changed ones; when those become many, the base is built anew.
"""

import copy
import heapq
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import msgspec
from shapely.geometry import shape as to_shape

from mesh.errors import Conflict, InvalidRequest, MeshError, NotFound
from mesh.model import (
    SHAPED_HINT,
    BulkStored,
    Count,
    Draft,
    Find,
    Found,
    Intersects,
    Mark,
    Nearest,
    Place,
    Properties,
    RowError,
    Where,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.store.columns import Columns, Rows, Test
from mesh.store.deadline import Deadline
from mesh.store.patch import merge_patch, new_id
from mesh.store.planar import Area, boxes
from mesh.where import matches

#: Changed places beside the base: few enough to rebuild their columns after each write, many enough to spare the base.
_MAX_CHANGED = 500
_CHECK_EVERY = 1_000


class MemoryStore:
    """A `Store` in memory, for any number of threads; what it returns is shared and must not be modified."""

    def __init__(self, region: str) -> None:
        self.region = region
        self._lock = threading.RLock()
        self._deadline = Deadline()
        self._places: dict[str, Place] = {}
        self._shapes: dict[str, object] = {}
        self._changed: dict[str, Place] = {}
        self._base = Columns([], {})
        self._recent: Columns | None = None

    def time_limit(self, seconds: float) -> AbstractContextManager[None]:
        """Bound everything this thread does with the store inside the block."""
        return self._deadline.limit(seconds)

    def close(self) -> None:
        """Do nothing: the places live as long as the object."""

    # -- writes ---------------------------------------------------------------------------------------------------

    def insert(self, place: Draft) -> Place:
        """Store a new place."""
        with self._writing():
            if place.id in self._places:
                raise Conflict("the id exists", id=place.id)
            return self._put(self._build(place, 1))

    def insert_many(self, places: Sequence[Draft]) -> BulkStored:
        """Store new places, each on its own."""
        ids: list[str | None] = []
        errors = []
        for row, place in enumerate(places):
            try:
                ids.append(self.insert(place).id)
            except MeshError as error:
                ids.append(None)
                errors.append(RowError(row, error.to_dict()))
        return BulkStored(ids, errors)

    def upsert(self, place: Draft) -> Place:
        """Store a place, replacing what has its id."""
        with self._writing():
            held = self._places.get(place.id or "")
            return self._put(self._build(place, max(held.version if held else 0, place.version) + 1))

    def update(self, id: str, patch: Properties) -> Place:  # noqa: A002
        """Merge a patch into the properties."""
        with self._writing():
            held = self._held(id)
            properties = merge_patch(held.properties, copy.deepcopy(patch))
            return self._put(msgspec.structs.replace(held, properties=properties, version=held.version + 1))

    def move(self, id: str, lon: float, lat: float, timestamp: float) -> Place:  # noqa: A002
        """Set the position, unless a newer one is stored."""
        with self._writing():
            held = self._held(id)
            if held.shape is not None:
                raise InvalidRequest("a place with a shape cannot be moved", field="id", hint=SHAPED_HINT)
            if held.timestamp is not None and held.timestamp >= timestamp:
                return held
            moved = {"lon": float(lon), "lat": float(lat), "timestamp": float(timestamp)}
            return self._put(msgspec.structs.replace(held, **moved, version=held.version + 1))

    def delete(self, id: str, version: int | None = None) -> None:  # noqa: A002
        """Remove a place."""
        with self._writing():
            held = self._held(id)
            if version is not None and held.version > version:
                raise Conflict(f"the stored place has version {held.version}, which is newer", id=id)
            self._forget(id)
            del self._places[id]

    # -- reads ----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Place:  # noqa: A002
        """Return one place."""
        self._deadline.check()
        with self._lock:
            return self._held(id)

    def get_many(self, ids: Sequence[str]) -> list[Place]:
        """Return those that exist, in the order asked."""
        self._deadline.check()
        with self._lock:
            return [self._places[id_] for id_ in ids if id_ in self._places]

    def nearest(self, query: Nearest) -> Found:
        """Return the nearest places."""
        reach = float("inf") if query.max_distance is None else query.max_distance
        return self._by_distance(query, reach)

    def within_radius(self, query: WithinRadius) -> Found:
        """Return the places within a radius, nearest first."""
        return self._by_distance(query, query.radius)

    def within_box(self, query: WithinBox) -> Found:
        """Return the places in a box."""
        asked = boxes(query)
        return self._by_id(query, lambda layer: layer.in_boxes(asked))

    def within_polygon(self, query: WithinPolygon) -> Found:
        """Return the places in a polygon."""
        area = Area(query.geometry)
        return self._by_id(query, lambda layer: layer.in_area(area))

    def intersects(self, query: Intersects) -> Found:
        """Return the places whose geometry touches the given one."""
        area = Area(query.geometry)
        return self._by_id(query, lambda layer: layer.touching(area))

    def find(self, query: Find) -> Found:
        """Return the places whose properties match."""
        return self._by_id(query, Columns.rows)

    def count(self, query: Count) -> int:
        """Count the places whose properties match."""
        test = self._test(query.where)
        with self._lock:
            if not query.where:
                return len(self._places)
            return sum(test(place.properties) for place in self._places.values())

    # -- how ------------------------------------------------------------------------------------------------------

    def _writing(self) -> AbstractContextManager[object]:
        self._deadline.check()
        return self._lock

    def _held(self, id_: str) -> Place:
        try:
            return self._places[id_]
        except KeyError:
            raise NotFound("no such place", id=id_) from None

    def _build(self, place: Draft, version: int) -> Place:
        return Place(
            id=place.id or new_id(self.region),
            lon=float(place.lon),
            lat=float(place.lat),
            # A copy: the caller may go on using its own.
            properties=copy.deepcopy(place.properties),
            shape=copy.deepcopy(place.shape),
            version=version,
            timestamp=place.timestamp,
            region=self.region,
        )

    def _put(self, place: Place) -> Place:
        self._forget(place.id)
        self._places[place.id] = self._changed[place.id] = place
        if place.shape is not None:
            self._shapes[place.id] = to_shape(place.shape)
        return place

    def _forget(self, id_: str) -> None:
        self._base.drop(id_)
        self._changed.pop(id_, None)
        self._shapes.pop(id_, None)
        self._recent = None

    def _layers(self) -> list[Columns]:
        if len(self._changed) > _MAX_CHANGED:
            self._base = Columns(self._places.values(), self._shapes)
            self._changed, self._recent = {}, None
        if self._recent is None:
            self._recent = Columns(self._changed.values(), self._shapes)
        return [self._base, self._recent]

    def _test(self, where: Where | None) -> Test:
        self._deadline.check()
        test = matches(where)
        if not where:
            return test
        calls = itertools.count(1)

        def watched(properties: Properties) -> bool:
            # A filter is the only part that takes long, so the clock is looked at here.
            if next(calls) % _CHECK_EVERY == 0:
                self._deadline.check()
            return test(properties)

        return watched

    def _by_distance(self, query: Nearest | WithinRadius, reach: float) -> Found:
        test, bounds, limit = self._test(query.where), (query.after, reach), query.limit + 1
        with self._lock:
            found = [layer.nearest(query.lon, query.lat, bounds, test, limit) for layer in self._layers()]
        hits = sorted(itertools.chain(*found))[: query.limit]
        places = [msgspec.structs.replace(place, distance=distance) for distance, _, place in hits]
        return Found(places, more=sum(map(len, found)) > query.limit)

    def _by_id(self, query: WithinBox | WithinPolygon | Intersects | Find, choose: Callable[[Columns], Rows]) -> Found:
        test = self._test(query.where)
        with self._lock:
            streams = [_stream(layer, choose, query.after, test) for layer in self._layers()]
            merged = heapq.merge(*streams, key=lambda place: place.id)
            places = list(itertools.islice(merged, query.limit + 1))
        return Found(places[: query.limit], more=len(places) > query.limit)


def _stream(layer: Columns, choose: Callable[[Columns], Rows], after: Mark | None, test: Test) -> Iterable[Place]:
    return layer.by_id(choose(layer), after, test)
