"""Which regions to ask, and what their answers mean together: planners without any IO.

A planner is a generator. It yields a batch of asks, all to be sent at once; it is sent the list of their outcomes, in
the same order; it returns the result. Whoever drives it (`mesh.client.aio`, or a test) does the sending.

Why a nearest may leave regions out: nothing that a region owns is nearer than its lower bound (`mesh.regions`), so a
region whose bound is beyond the k-th place found so far cannot change the first k. Equal distances are ordered by id,
so a bound that equals the k-th distance must still be asked.
"""

import math
from collections.abc import Generator, Iterable, Sequence

from msgspec.structs import replace

from mesh.client import cursor, merge
from mesh.core.refused import StaleMap
from mesh.errors import (
    Busy,
    DeadlineExceeded,
    MeshError,
    NotFound,
    RegionUnavailable,
    RemoteProtocolError,
    StoreError,
)
from mesh.geo import HALF_CIRCUMFERENCE_M
from mesh.model import (
    AnyAnswer,
    AnyOperation,
    Count,
    Counted,
    Find,
    Found,
    Get,
    GetMany,
    Intersects,
    Nearest,
    Page,
    Place,
    Query,
    Stored,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.regions import RegionMap

Ask = tuple[str, AnyOperation]
Reply = AnyAnswer | MeshError

#: Metres: a region this near is asked at once with the home region, which saves a round trip where it matters.
BORDER_M = 10_000.0
# Metres: more than the rounding of any engine that compares a distance with a maximum; what it lets in is cut off.
_SLACK_M = 0.001
#: What a query survives: the answer lacks a region and says so.
SURVIVABLE = (RegionUnavailable, Busy, DeadlineExceeded, StoreError)


class Tally:
    """The answers of a query so far, and the regions that failed."""

    def __init__(self, *, require_all: bool) -> None:
        self.found: list[Found] = []
        self.failed: dict[str, MeshError] = {}
        self.asked: list[str] = []
        self._require_all = require_all

    def add(self, asks: Iterable[Ask], replies: Iterable[Reply]) -> None:
        """Take in replies; what a query cannot survive is raised."""
        for (region, _), reply in zip(asks, replies, strict=True):
            self.asked.append(region)
            if isinstance(reply, Found):
                self.found.append(reply)
            else:
                self.failed[region] = survivable(reply)

    def page(self, query: Query, *, more: bool = False) -> Page:
        """Return the merged page."""
        self.check()
        places, cut_off = merge.merge(self.found, query.limit) if self.found else ([], False)
        follow = self._next(query, places) if more or cut_off else None
        return Page(places, follow, bool(self.failed), tuple(self.failed), tuple(self.asked))

    def check(self) -> None:
        """Raise the first error if no region answered, or if all had to."""
        if self.failed and (self._require_all or not self.found):
            raise next(iter(self.failed.values()))

    @staticmethod
    def _next(query: Query, places: Sequence[Place]) -> str | None:
        return cursor.encode(query, merge.mark(places[-1])) if places else None


def survivable(reply: Reply) -> MeshError:
    """Return the error of a region that failed; raises it where going on without that region would be wrong."""
    if not isinstance(reply, MeshError):
        raise RemoteProtocolError(f"a region answered with {type(reply).__name__}, which was not the question")
    if isinstance(reply, StaleMap) or not isinstance(reply, SURVIVABLE):
        raise reply
    return reply


# -- queries ----------------------------------------------------------------------------------------------------------


def nearest(query: Nearest, regions: RegionMap, *, require_all: bool) -> Generator[list[Ask], list[Reply], Page]:
    """Ask the region at the position, then those that may hold something nearer than the last place found."""
    bounds = regions.lower_bounds(query.lon, query.lat)
    reach = math.inf if query.max_distance is None else query.max_distance
    home = min(bounds, key=bounds.__getitem__)
    tally = Tally(require_all=require_all)
    first = [name for name, bound in bounds.items() if bound <= min(BORDER_M, reach) or name == home]
    asks: list[Ask] = [(name, query) for name in first]
    tally.add(asks, (yield asks))
    horizon = min(merge.kth_distance(tally.found, query.limit), reach)
    if others := [name for name, bound in bounds.items() if bound <= horizon and name not in first]:
        narrow = (
            query
            if horizon == reach
            else replace(query, max_distance=min(horizon + _SLACK_M, reach, HALF_CIRCUMFERENCE_M))
        )
        asks = [(name, narrow) for name in others]
        tally.add(asks, (yield asks))
    _pardon(tally, bounds, query.limit)
    # Beyond the last place there is whatever a region not asked, or asked only that far, has within reach.
    full = sum(len(found.places) for found in tally.found) >= query.limit
    beyond = any(bound <= reach for name, bound in bounds.items() if name not in first)
    return tally.page(query, more=full and beyond)


def _pardon(tally: Tally, bounds: dict[str, float], limit: int) -> None:
    # A region asked only because it is near the border, which the answer turned out not to need, has not failed it.
    if tally.failed and tally.found:
        horizon = merge.kth_distance(tally.found, limit)
        tally.failed = {name: error for name, error in tally.failed.items() if bounds[name] <= horizon}


def everywhere(
    query: WithinRadius | WithinBox | WithinPolygon | Intersects | Find, regions: RegionMap, *, require_all: bool
) -> Generator[list[Ask], list[Reply], Page]:
    """Ask every region that may hold a part of the answer, all at once."""
    tally = Tally(require_all=require_all)
    asks: list[Ask] = [(name, query) for name in touched(query, regions)]
    if asks:
        tally.add(asks, (yield asks))
    return tally.page(query)


def touched(query: WithinRadius | WithinBox | WithinPolygon | Intersects | Find, regions: RegionMap) -> Sequence[str]:
    """Return the regions that may hold a part of the answer."""
    match query:
        case WithinRadius():
            return regions.regions_in_circle(query.lon, query.lat, query.radius)
        case WithinBox():
            return regions.regions_in_box(query.west, query.south, query.east, query.north)
        case WithinPolygon():
            return regions.regions_in_geometry(query.geometry)
        case Intersects():
            return regions.regions_in_geometry(query.geometry, shapes=True)
        case Find():
            return regions.names


def query(query: Query, regions: RegionMap, *, require_all: bool) -> Generator[list[Ask], list[Reply], Page]:
    """Return the planner for a checked query."""
    if isinstance(query, Nearest):
        return nearest(query, regions, require_all=require_all)
    return everywhere(query, regions, require_all=require_all)


def count(query: Count, regions: RegionMap) -> Generator[list[Ask], list[Reply], int]:
    """Ask every region; a count that lacks one would be a wrong number, so then the region's error is raised."""
    total = 0
    for reply in (yield [(name, query) for name in regions.names]):
        if not isinstance(reply, Counted):
            raise survivable(reply)
        total += reply.count
    return total


# -- by id ------------------------------------------------------------------------------------------------------------


def prefix(id: str, regions: RegionMap) -> str | None:  # noqa: A002 - the field's name
    """Return the region that gave out an id (`ne:...`), None for ids that callers chose."""
    name, colon, _ = id.partition(":")
    return name if colon and name in regions.names else None


def get(id: str, regions: RegionMap) -> Generator[list[Ask], list[Reply], Place]:  # noqa: A002
    """Ask the region that the id names, then all others; `NotFound` only if each of them said so."""
    named = prefix(id, regions)
    if named is None:
        return locate(id, [regions.names])
    return locate(id, [(named,), [name for name in regions.names if name != named]])


def locate(id: str, batches: Sequence[Sequence[str]]) -> Generator[list[Ask], list[Reply], Place]:  # noqa: A002
    """Ask batch after batch of regions until one holds the place; return its current copy.

    Nobody having it is asked about once more: a place that crosses a border meanwhile is put into its new region just
    after that one was asked, and leaves its old one just before.
    """
    failed: list[MeshError] = []
    for batch in batches:
        copies = yield from _copies(id, batch, failed)
        if copies:
            return merge.newest(copies)[id]
    copies = [] if failed else (yield from _copies(id, [name for batch in batches for name in batch], failed))
    if copies:
        return merge.newest(copies)[id]
    if failed:
        raise failed[0]
    raise NotFound(f"no region holds a place with the id {id!r}", id=id)


def _copies(
    id: str,  # noqa: A002
    batch: Sequence[str],
    failed: list[MeshError],
) -> Generator[list[Ask], list[Reply], list[Place]]:
    copies: list[Place] = []
    for reply in (yield [(name, Get(id)) for name in batch]):
        if isinstance(reply, Stored):
            copies.append(reply.place)
        elif not isinstance(reply, NotFound):
            failed.append(survivable(reply))
    return copies


def get_many(ids: Sequence[str], regions: RegionMap, *, require_all: bool) -> Generator[list[Ask], list[Reply], Page]:
    """Ask each region for the ids that name it and all for the rest, then all for those not found; keep the order."""
    tally = Tally(require_all=require_all)
    asks: list[Ask] = [(name, GetMany(mine)) for name in regions.names if (mine := _addressed(ids, name, regions))]
    if asks:
        tally.add(asks, (yield asks))
    found = merge.newest(place for answer in tally.found for place in answer.places)
    # Ids that name a region and were not there may have moved; the others have been asked for everywhere already.
    rest = [each for each in ids if each not in found and prefix(each, regions)]
    asks = [(name, GetMany(mine)) for name in regions.names if (mine := _moved(rest, name, regions))]
    if asks:
        tally.add(asks, (yield asks))
    tally.check()
    found = merge.newest(place for answer in tally.found for place in answer.places)
    asked = tuple(dict.fromkeys(tally.asked))
    places = [found[each] for each in dict.fromkeys(ids) if each in found]
    return Page(places, None, bool(tally.failed), tuple(tally.failed), asked)


def _addressed(ids: Sequence[str], region: str, regions: RegionMap) -> list[str]:
    return [each for each in ids if prefix(each, regions) in {None, region}]


def _moved(ids: Sequence[str], region: str, regions: RegionMap) -> list[str]:
    return [each for each in ids if prefix(each, regions) != region]


def after(query: Query, token: str | None) -> Query:
    """Return the query for the page that *token* names; raises `InvalidRequest` for a token of another query."""
    return query if token is None else replace(query, after=cursor.decode(query, token))
