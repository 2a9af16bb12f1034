"""The queries of `MongoStore`.

Theory of operation. MongoDB finds candidates, `mesh.geo` and `planar` decide, so that every store gives one answer:

- Distance: `find` with `$nearSphere` and a limit, never `$geoNear` with `$limit` (60 ms against 1: it fills a 4 MB
  batch first). MongoDB breaks ties as it likes and the mesh by id, so a page is cut only where the distance grows;
  else the query is asked again for more. Nearly always one round trip does.
- Without a filter a circle that probably holds enough is asked first (`reach`): `$geoWithin` costs MongoDB 0.4 ms where
  `$nearSphere` costs 2.2. If the circle held enough, it held the nearest; if not, the query is asked as above.
- A filtered `$nearSphere` that finds too little walks the whole sphere (11.5 s on 1M places). It is asked in rings,
  and after each the filter's own index answers, if the matches are few; only many matches, all far, make it walk.
- Boxes and areas: `$box` on the 2d index, since GeoJSON edges are great circles to MongoDB, then `planar`.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from pymongo.collection import Collection

from mesh import geo
from mesh.model import (
    Find,
    Found,
    Intersects,
    Mark,
    Nearest,
    Where,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.store.documents import Document, geometries_in, near, positions_in, to_filter, to_place
from mesh.store.planar import Area, boxes
from mesh.store.reach import Reach

#: Metres: far above the rounding of either side, so no hit is lost and no page cut between two equal distances.
_SLACK_M = 1e-3
#: A filtered nearest looks within so many metres first, and then fetches all matches of the filter if there are so few.
_SEARCH = ((50_000.0, 200), (400_000.0, 2_000))
#: A guessed circle is no bargain if it holds so many times the places wanted.
_MOST_IN_CIRCLE = 10
_MAX_PARTS = 8
_GROWTH = 4

Places = Collection[Any]
#: What an ordered query finds: (distance in metres, id, document).
_Hit = tuple[float, str, Document]


def nearest(places: Places, region: str, query: Nearest, memory: Reach) -> Found:
    """Return the nearest places."""
    if query.where or query.after is not None:
        return _by_distance(places, region, query)
    found = _in_a_guessed_circle(places, region, query, memory) or _by_distance(places, region, query)
    if len(found.places) == query.limit:
        memory.learn(query.lon, query.lat, query.limit, found.places[-1].distance or 0.0)
    return found


def _in_a_guessed_circle(places: Places, region: str, query: Nearest, memory: Reach) -> Found | None:
    """Return the nearest places if a circle of the guessed radius holds them and one more, else None."""
    wanted = query.limit + 1
    radius = memory.guess(query.lon, query.lat, wanted)
    if radius is None or (query.max_distance is not None and query.max_distance <= radius):
        return None
    circle = [[query.lon, query.lat], (radius + _SLACK_M) / geo.EARTH_RADIUS_M]
    most = _MOST_IN_CIRCLE * wanted
    documents = _first(places, {"loc": {"$geoWithin": {"$centerSphere": circle}}}, most)
    if len(documents) == most:
        return None  # there may be more, and the nearest among them
    hits = _hits(documents, query, radius)
    return _found(hits, region, query.limit) if len(hits) >= wanted else None


def _by_distance(places: Places, region: str, query: Nearest) -> Found:
    reach = geo.HALF_CIRCUMFERENCE_M if query.max_distance is None else query.max_distance
    if not query.where or reach <= _SEARCH[-1][0]:
        return _in_order(places, region, query, query.max_distance)
    for ring, few in _SEARCH:
        if query.after is None or query.after.distance < ring:
            found = _in_order(places, region, query, ring)
            if found.more:
                return found
        documents = list(places.find(to_filter(query.where)).limit(few + 1).batch_size(few + 1))
        if len(documents) <= few:
            return _found(_hits(documents, query, reach), region, query.limit)
    return _in_order(places, region, query, query.max_distance)


def within_radius(places: Places, region: str, query: WithinRadius) -> Found:
    """Return the places within a radius, nearest first."""
    return _in_order(places, region, query, query.radius)


def within_box(places: Places, region: str, query: WithinBox) -> Found:
    """Return the places in a box."""
    asked = boxes(query)

    def inside(document: Document) -> bool:
        lon, lat = document["loc"]["coordinates"]
        return any(west <= lon <= east and south <= lat <= north for west, south, east, north in asked)

    return _by_id(places, region, query, positions_in(asked), inside)


def within_polygon(places: Places, region: str, query: WithinPolygon) -> Found:
    """Return the places in a polygon."""
    area = Area(query.geometry)
    candidates = positions_in(area.parts(_MAX_PARTS))
    return _by_id(places, region, query, candidates, lambda document: _position_in(area, document))


def intersects(places: Places, region: str, query: Intersects) -> Found:
    """Return the places whose geometry touches the given one."""
    area = Area(query.geometry)

    def touches(document: Document) -> bool:
        shape = document.get("shape")
        return area.touches(shape) if shape else _position_in(area, document)

    return _by_id(places, region, query, geometries_in(area.parts(_MAX_PARTS), area.bounds), touches)


def find(places: Places, region: str, query: Find) -> Found:
    """Return the places whose properties match."""
    cursor = places.find(_both({}, query.where, query.after)).sort("_id", 1).limit(query.limit + 1)
    return _page(list(cursor), region, query.limit)


def count(places: Places, where: Where | None) -> int:
    """Count the places whose properties match."""
    if where:
        return places.count_documents(to_filter(where))
    # Through the index on _id nothing is fetched; the collection's own counter is wrong after a crash.
    return places.count_documents({}, hint="_id_")


# -- by distance -----------------------------------------------------------------------------------------------------


def _in_order(places: Places, region: str, query: Nearest | WithinRadius, reach: float | None) -> Found:
    low = query.after.distance - _SLACK_M if query.after else 0.0
    asked = near(query.lon, query.lat, low, None if reach is None else reach + _SLACK_M) | to_filter(query.where)
    wanted = size = query.limit + 1
    while True:
        documents = _first(places, asked, size)
        hits = _hits(documents, query, reach)
        if len(documents) < size or _is_cut(hits, documents, query, wanted):
            return _found(hits, region, query.limit)
        size *= _GROWTH


def _first(places: Places, asked: Document, size: int) -> list[Document]:
    # The bare command: a cursor object that is thrown away at once costs 4 % of a nearest-10.
    command: Document = {"find": places.name, "filter": asked, "limit": size, "batchSize": size + 1}
    if len(asked) == 1:
        # Without a filter there is nothing to plan, and two geo indexes to choose from.
        command["hint"] = {"loc": "2dsphere"}
    if places.read_concern.document:
        command["readConcern"] = places.read_concern.document
    said = places.database.command(command, read_preference=places.read_preference)["cursor"]
    if not said["id"]:
        documents: list[Document] = said["firstBatch"]
        return documents
    # The documents do not fit into one batch of 16 MB.
    places.database.command({"killCursors": places.name, "cursors": [said["id"]]})
    return list(places.find(asked).limit(size))


def _hits(documents: list[Document], query: Nearest | WithinRadius, reach: float | None) -> list[_Hit]:
    lon, lat, after = query.lon, query.lat, query.after
    hits = [(geo.distance(lon, lat, *document["loc"]["coordinates"]), document["_id"], document)
            for document in documents]  # fmt: skip
    if reach is not None:
        hits = [hit for hit in hits if hit[0] <= reach]
    if after is not None:
        hits = [hit for hit in hits if _is_after(hit, after)]
    hits.sort(key=lambda hit: hit[:2])
    return hits


def _is_after(hit: _Hit, mark: Mark) -> bool:
    return hit[:2] > (mark.distance, mark.id)


def _is_cut(hits: list[_Hit], documents: list[Document], query: Nearest | WithinRadius, wanted: int) -> bool:
    """Tell whether no document that MongoDB still holds back can belong into this page."""
    if len(hits) < wanted:
        return False
    last = geo.distance(query.lon, query.lat, *documents[-1]["loc"]["coordinates"])
    return hits[query.limit - 1][0] < last - _SLACK_M


def _found(hits: list[_Hit], region: str, limit: int) -> Found:
    return Found([to_place(document, region, distance) for distance, _, document in hits[:limit]], len(hits) > limit)


# -- by id ------------------------------------------------------------------------------------------------------------


def _by_id(
    places: Places,
    region: str,
    query: WithinBox | WithinPolygon | Intersects,
    candidates: Document,
    keep: Callable[[Document], bool],
) -> Found:
    cursor = places.find(_both(candidates, query.where, query.after)).sort("_id", 1).batch_size(query.limit + 2)
    with closing(cursor):
        return _page(list(islice(_kept(cursor, keep), query.limit + 1)), region, query.limit)


def _kept(documents: Iterator[Document], keep: Callable[[Document], bool]) -> Iterator[Document]:
    return (document for document in documents if keep(document))


def _both(candidates: Document, where: Where | None, after: Mark | None) -> Document:
    parts = [part for part in (candidates, to_filter(where), {"_id": {"$gt": after.id}} if after else {}) if part]
    return {"$and": parts} if parts else {}


def _position_in(area: Area, document: Document) -> bool:
    return area.touches_position(*document["loc"]["coordinates"])


def _page(documents: list[Document], region: str, limit: int) -> Found:
    return Found([to_place(document, region) for document in documents[:limit]], more=len(documents) > limit)
