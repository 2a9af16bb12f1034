"""The asyncio client. `mesh/client/sync.py` is generated from this file by `scripts/unasync.py`."""

# A call has many keywords, and its timeout travels to the broker, which asyncio.timeout() cannot do.
# ruff: noqa: ASYNC109, PLR0913

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from mesh import geojson, validate
from mesh import where as filters
from mesh.client import plan, writing
from mesh.client.maps import MapCache
from mesh.core.refused import StaleMap
from mesh.core.requests import admin, request
from mesh.errors import InvalidRequest, MeshError, RemoteProtocolError, WrongRegion
from mesh.model import (
    AnyAnswer,
    BulkStored,
    Count,
    Delete,
    Find,
    Get,
    GetMany,
    Intersects,
    Move,
    Nearest,
    Page,
    Place,
    Properties,
    Query,
    Update,
    Where,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.protocol.body import Hello, decode_any
from mesh.protocol.header import ANY_MAP, Kind
from mesh.regions import RegionMap
from mesh.transport.aio import AsyncConnection

T = TypeVar("T")
_ITERABLE = frozenset({"nearest", "within_radius", "within_box", "within_polygon", "intersects", "find"})


class AsyncClient:
    """Asks any broker of a mesh for places anywhere in its regions.

    Longitude (`lon`) and latitude (`lat`) are degrees (WGS84), distances metres, times seconds. A place to be written
    may be a `Place`, a GeoJSON Feature, a dictionary `{"lon": ..., "lat": ..., "id": ..., "properties": {...}}`
    or anything with `__geo_interface__`; a geometry may be GeoJSON or anything with `__geo_interface__`.

    Queries take, besides their own arguments:

    - `limit`: how many places a page holds, 1 to 1,000; more is cut to 1,000.
    - `where`: a filter on properties, `{"population": {"$gte": 10000}}` or the text `"population>=10000 and state=NY"`.
    - `after`: the `next` of an earlier page of the same query, for the page that follows it.
    - `timeout`: seconds for this call, instead of the client's.
    - `require_all`: raise if a region that had to be asked did not answer. Otherwise the page has `partial` set and
      names it in `failed_regions`; if no region answered, its error is raised in any case.

    Args:
        broker: HOST, HOST:PORT, `tcp://HOST:PORT` or `ipc://PATH` of a broker; of several, the next is tried when one
            cannot be reached.
        timeout: seconds for a call with all its retries.
        cache_dir: where region maps are kept, instead of `$XDG_CACHE_HOME/mesh`.
        require_all: what queries do when nothing is said at the call.

    Raises:
        InvalidRequest: an argument is wrong; `field` names it. Every method may raise this.
        RegionUnavailable: no broker, or no data of a region, can be reached.
        Busy: the mesh has too much to do; `retry_after` seconds may help.
        DeadlineExceeded: no answer within the time; a write may or may not have happened.
        ProtocolError: what answers is no broker, or one of another version.

    """

    def __init__(
        self,
        broker: str | Sequence[str],
        *,
        timeout: float = 5.0,
        cache_dir: str | Path | None = None,
        require_all: bool = False,
    ) -> None:
        self._timeout = _seconds(timeout)
        self._require_all = require_all
        self._cache = MapCache(cache_dir)
        self._map: RegionMap | None = None
        self._connection = AsyncConnection(broker)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; safe to call twice."""
        await self._connection.close()

    # -- queries ---------------------------------------------------------------------------------------------------

    async def nearest(
        self,
        *,
        lon: float,
        lat: float,
        limit: int = 10,
        max_distance: float | None = None,
        where: Where | str | None = None,
        after: str | None = None,
        timeout: float | None = None,
        require_all: bool | None = None,
    ) -> Page:
        """Return the places nearest to a position, at most *max_distance* metres away, ordered by (distance, id)."""
        query = Nearest(lon, lat, limit, max_distance, _where(where))
        return await self._query(query, after, timeout, require_all)

    async def within_radius(
        self,
        *,
        lon: float,
        lat: float,
        radius: float,
        limit: int = 100,
        where: Where | str | None = None,
        after: str | None = None,
        timeout: float | None = None,
        require_all: bool | None = None,
    ) -> Page:
        """Return the places at most *radius* metres from a position, ordered by (distance, id)."""
        query = WithinRadius(lon, lat, radius, limit, _where(where))
        return await self._query(query, after, timeout, require_all)

    async def within_box(
        self,
        *,
        west: float,
        south: float,
        east: float,
        north: float,
        limit: int = 100,
        where: Where | str | None = None,
        after: str | None = None,
        timeout: float | None = None,
        require_all: bool | None = None,
    ) -> Page:
        """Return the places in a box in degrees, edges included, ordered by id; west > east crosses 180 degrees."""
        query = WithinBox(west, south, east, north, limit, _where(where))
        return await self._query(query, after, timeout, require_all)

    async def within_polygon(
        self,
        geometry: Any,
        *,
        limit: int = 100,
        where: Where | str | None = None,
        after: str | None = None,
        timeout: float | None = None,
        require_all: bool | None = None,
    ) -> Page:
        """Return the places whose position lies in a Polygon or MultiPolygon, edge included, ordered by id."""
        query = WithinPolygon(geometry, limit, _where(where))
        return await self._query(query, after, timeout, require_all)

    async def intersects(
        self,
        geometry: Any,
        *,
        limit: int = 100,
        where: Where | str | None = None,
        after: str | None = None,
        timeout: float | None = None,
        require_all: bool | None = None,
    ) -> Page:
        """Return the places whose geometry has a point in common with the given one, ordered by id."""
        query = Intersects(geometry, limit, _where(where))
        return await self._query(query, after, timeout, require_all)

    async def find(
        self,
        where: Where | str | None = None,
        *,
        limit: int = 100,
        after: str | None = None,
        timeout: float | None = None,
        require_all: bool | None = None,
    ) -> Page:
        """Return the places whose properties match, wherever they are, ordered by id."""
        return await self._query(Find(_where(where), limit), after, timeout, require_all)

    async def iterate(self, query: str, **arguments: Any) -> AsyncIterator[Place]:
        """Yield all places of a query, page after page: `iterate("find", where="state=NY", limit=1000)`.

        `limit` is the size of a page here. Places that are written meanwhile may be missed.
        """
        if query not in _ITERABLE:
            raise InvalidRequest(f"{query!r} is not one of {', '.join(sorted(_ITERABLE))}", field="query")
        while True:
            page: Page = await getattr(self, query)(**arguments)
            for place in page:
                yield place
            if page.next is None:
                return
            arguments["after"] = page.next

    async def count(self, where: Where | str | None = None, *, timeout: float | None = None) -> int:
        """Return how many places match; a region that does not answer is always an error here."""
        operation = validate.operation(Count(_where(where)))
        return await self._run(lambda regions: plan.count(operation, regions), timeout)

    async def get(self, id: str, *, timeout: float | None = None) -> Place:  # noqa: A002 - the field's name
        """Return one place; `NotFound` if no region holds it."""
        operation = validate.operation(Get(id))
        return await self._run(lambda regions: plan.get(operation.id, regions), timeout)

    async def get_many(
        self, ids: Iterable[str], *, timeout: float | None = None, require_all: bool | None = None
    ) -> Page:
        """Return those of the ids that exist, in the order asked."""
        operation = validate.operation(GetMany(list(ids)))
        wanted = self._require_all if require_all is None else require_all
        return await self._run(lambda regions: plan.get_many(operation.ids, regions, require_all=wanted), timeout)

    # -- writes ----------------------------------------------------------------------------------------------------

    async def insert(self, place: Any, *, timeout: float | None = None) -> Place:
        """Store a new place and return it; without an id it gets one; `Conflict` if its id exists in its region."""
        draft = validate.draft_from(place)
        return await self._run(lambda regions: writing.insert(draft, regions), timeout)

    async def insert_many(self, places: Any, *, timeout: float | None = None) -> BulkStored:
        """Store new places: a FeatureCollection or an iterable of places.

        Returns `ids`, by row (None where the row failed), and `errors` (`row` from 0, `error` as a dictionary). Rows
        succeed or fail one by one; only what concerns all of them is raised.
        """
        rows = _rows(places)
        return await self._run(lambda regions: writing.insert_many(rows, regions), timeout)

    async def upsert(self, place: Any, *, timeout: float | None = None) -> Place:
        """Store a place, replacing the one with its id if there is one, and return it."""
        draft = validate.draft_from(place)
        return await self._run(lambda regions: writing.upsert(draft, regions), timeout)

    async def upsert_many(self, places: Any, *, timeout: float | None = None) -> BulkStored:
        """Store places as `upsert` does, many at once; takes and returns what `insert_many` does."""
        rows = _rows(places)
        return await self._run(lambda regions: writing.upsert_many(rows, regions), timeout)

    async def update(self, id: str, patch: Properties, *, timeout: float | None = None) -> Place:  # noqa: A002
        """Merge *patch* into a place's properties (RFC 7396: None removes) and return the place."""
        operation = validate.operation(Update(id, patch))
        return await self._run(lambda regions: writing.update(operation.id, operation.patch, regions), timeout)

    async def move(
        self,
        id: str,  # noqa: A002
        *,
        lon: float,
        lat: float,
        timestamp: float | None = None,
        timeout: float | None = None,
    ) -> Place:
        """Set a place's position, as measured at *timestamp* (seconds since 1970, default now); return the place.

        A move that is not newer than the stored timestamp changes nothing. A place may move into another region.
        """
        measured = time.time() if timestamp is None else timestamp
        operation = validate.operation(Move(id, lon, lat, measured))
        return await self._run(lambda regions: writing.move(operation, regions), timeout)

    async def delete(self, id: str, *, timeout: float | None = None) -> None:  # noqa: A002
        """Remove a place; `NotFound` if no region holds it."""
        operation = validate.operation(Delete(id))
        await self._run(lambda regions: writing.delete(operation.id, regions), timeout)

    # -- the mesh itself ---------------------------------------------------------------------------------------------

    async def regions(self, *, timeout: float | None = None) -> RegionMap:
        """Return the region map: `names`, `region_of(lon, lat)`, and `data`, its GeoJSON as bytes."""
        return await self._region_map(self._deadline(timeout))

    async def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return what the broker says of itself: region, uptime, workers, peers, queue, counters."""
        answer = decode_any(await self._admin(Kind.STATUS, self._deadline(timeout)))
        if not isinstance(answer, dict):
            raise RemoteProtocolError("the broker's status is not a map")
        return answer

    async def ping(self, *, timeout: float | None = None) -> float:
        """Return the seconds that a message takes to the broker and back, once there is a connection."""
        deadline = self._deadline(timeout)
        await self._hello(deadline)
        start = time.monotonic()
        await self._admin(Kind.PING, deadline)
        return time.monotonic() - start

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _query(self, query: Query, after: str | None, timeout: float | None, require_all: bool | None) -> Page:
        checked = plan.after(validate.operation(query), after)
        wanted = self._require_all if require_all is None else require_all
        return await self._run(lambda regions: plan.query(checked, regions, require_all=wanted), timeout)

    async def _run(
        self,
        make: Callable[[RegionMap], Generator[list[plan.Ask], list[plan.Reply], T]],
        timeout: float | None,
    ) -> T:
        deadline = self._deadline(timeout)
        try:
            return await self._drive(make(await self._region_map(deadline)), deadline)
        except (StaleMap, WrongRegion):
            # The map was redrawn since we fetched it: once more with the new one.
            self._map, self._connection.map_digest = None, ANY_MAP
            return await self._drive(make(await self._region_map(deadline, anew=True)), deadline)

    async def _drive(self, planner: Generator[list[plan.Ask], list[plan.Reply], T], deadline: float) -> T:
        try:
            asks = next(planner)
            while True:
                requests = [request(region, operation) for region, operation in asks]
                asks = planner.send(_replies(await self._connection.ask(requests, deadline - time.monotonic())))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _region_map(self, deadline: float, *, anew: bool = False) -> RegionMap:
        if self._map is None:
            digest = "" if anew else (await self._hello(deadline)).map_digest
            found = self._cache.load(digest)
            if found is None:
                found = RegionMap.from_bytes(await self._admin(Kind.REGIONS, deadline))
                self._cache.save(found)
            self._map, self._connection.map_digest = found, found.digest
        return self._map

    async def _hello(self, deadline: float) -> Hello:
        (outcome,) = await self._connection.ask([admin(Kind.HELLO)], deadline - time.monotonic())
        return _expect(outcome, Hello)

    async def _admin(self, kind: Kind, deadline: float) -> bytes:
        (outcome,) = await self._connection.ask([admin(kind)], deadline - time.monotonic())
        return _expect(outcome, bytes)

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else _seconds(timeout))


def _seconds(timeout: object) -> float:
    seconds = geojson.number(timeout, "timeout")
    if seconds <= 0:
        raise InvalidRequest(f"must be more than 0 seconds, not {seconds:g}", field="timeout")
    return seconds


def _where(where: Where | str | None) -> Where | None:
    return filters.parse(where) if isinstance(where, str) else where


def _rows(places: Any) -> list[Any]:
    if isinstance(places, dict) or hasattr(places, "__geo_interface__"):
        return list(geojson.features(places))
    return list(places)


def _replies(outcomes: Iterable[object]) -> list[plan.Reply]:
    return [outcome for outcome in outcomes if isinstance(outcome, AnyAnswer | MeshError)]


def _expect(outcome: object, kind: type[T]) -> T:
    if isinstance(outcome, MeshError):
        raise outcome
    if not isinstance(outcome, kind):
        raise RemoteProtocolError(f"the broker answered with {type(outcome).__name__} instead of {kind.__name__}")
    return outcome
