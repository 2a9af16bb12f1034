"""Places as MongoDB documents: `{_id, loc, props, v, ts?, shape?, bbox?}`.

`loc` is always a Point, so that all the geo indexes see every place. `shape` stays out of them: MongoDB's edges are
great circles. What it touches is found through `bbox` [west, south, east, north] and decided by `planar.Area`.
"""

from typing import Any

from bson.int64 import Int64
from shapely.geometry import shape as to_shape

from mesh.geo import Box
from mesh.model import Draft, Geometry, Place, Where

Document = dict[str, Any]
#: Degrees (0.1 mm): MongoDB's answer about an edge may be off by rounding, so it is asked for a little more.
_HAIR = 1e-9
_NOT_PLAIN = (Int64, dict, list)


def to_document(place: Draft, id: str, version: int = 1) -> Document:  # noqa: A002
    """Return the document to store for a draft."""
    document: Document = {"_id": id, "loc": point(place.lon, place.lat), "props": place.properties, "v": version}
    if place.timestamp is not None:
        document["ts"] = float(place.timestamp)
    if place.shape is not None:
        document |= {"shape": place.shape, "bbox": list(to_shape(place.shape).bounds)}
    return document


def to_place(document: Document, region: str, distance: float | None = None) -> Place:
    """Return the place of a document."""
    lon, lat = document["loc"]["coordinates"]
    return Place(
        document["_id"], lon, lat, _plain(document["props"]), document.get("shape"), document["v"], document.get("ts"),
        region, distance,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    # pymongo decodes what was stored as a 64-bit integer to a subclass of int, which msgspec refuses to encode. A type
    # registry would convert it too, but costs every query 4 %.
    if type(value) is Int64:
        return int(value)
    if isinstance(value, dict):
        for name, held in value.items():
            if type(held) in _NOT_PLAIN:
                value[name] = _plain(held)
        return value
    return [_plain(held) for held in value] if isinstance(value, list) else value


def point(lon: float, lat: float) -> Geometry:
    """Return a GeoJSON Point."""
    return {"type": "Point", "coordinates": [float(lon), float(lat)]}


def to_filter(where: Where | None) -> Document:
    """Return MongoDB's filter for a checked one: property names get the prefix of where they are stored."""
    return {
        (name if name in {"$and", "$or"} else f"props.{name}"): (
            [to_filter(part) for part in value] if name in {"$and", "$or"} else value
        )
        for name, value in (where or {}).items()
    }


def near(lon: float, lat: float, low: float, high: float | None) -> Document:
    """Return the filter for places from *low* to *high* metres away, in the order of distance."""
    asked: Document = {"$geometry": point(lon, lat)}
    if low > 0:
        asked["$minDistance"] = low
    if high is not None:
        asked["$maxDistance"] = high
    return {"loc": {"$nearSphere": asked}}


def positions_in(boxes: list[Box]) -> Document:
    """Return the filter for positions in one of the boxes, a hair wider."""
    # $box with the 2d index on the bare coordinates; a GeoJSON polygon would have great circles for edges.
    asked = [{"loc.coordinates": {"$geoWithin": {"$box": [[w - _HAIR, s - _HAIR], [e + _HAIR, n + _HAIR]]}}}
             for w, s, e, n in boxes]  # fmt: skip
    return asked[0] if len(asked) == 1 else {"$or": asked}


def geometries_in(boxes: list[Box], whole: Box) -> Document:
    """Return the filter for places whose position lies in one of the boxes or whose bounding box touches *whole*."""
    west, south, east, north = whole
    overlap = {
        "bbox.0": {"$lte": east + _HAIR},
        "bbox.1": {"$lte": north + _HAIR},
        "bbox.2": {"$gte": west - _HAIR},
        "bbox.3": {"$gte": south - _HAIR},
    }
    return {"$or": [*(positions_in([box]) for box in boxes), overlap]}
