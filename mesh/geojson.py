"""Strict reading of the GeoJSON (RFC 7946) that users give: everything wrong is an `InvalidRequest` naming the spot.

MongoDB stores many malformed geometries without a word and then never finds them again, so nothing unchecked may
reach it. Accepted and normalised: altitude is dropped, -0.0 becomes 0.0, either winding passes. Longitude 180 stays
180: it is the user's number, and -180 is the same meridian only on the sphere, not in a box.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

import shapely
from shapely.geometry import shape as to_shape

from mesh.errors import InvalidRequest
from mesh.model import Geometry

#: Positions in one geometry. A detailed county has 2,000; at 5,000 a polygon still checks in a few milliseconds.
MAX_VERTICES = 5_000

_SWAP = "did you swap lon and lat? longitude comes first"
_ALIASES = "Point, LineString, Polygon, MultiPoint, MultiLineString, MultiPolygon"
_GEO_HINT = "a GeoJSON geometry, a Feature, or an object with __geo_interface__"

Coordinates = list[Any]


def number(value: object, field: str) -> float:
    """Return *value* as a finite float; numbers only, so True and "1" are refused."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequest(f"must be a number, not {_kind(value)}", field=field)
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise InvalidRequest(f"must be finite, not {result}", field=field)
    return result + 0.0  # -0.0 + 0.0 is 0.0


def position(
    lon: object, lat: object, *, field: str | None = None, names: tuple[str, str] = ("lon", "lat")
) -> tuple[float, float]:
    """Return a checked (lon, lat) in degrees; an error names *field* if the pair has one name, else one of *names*."""
    lon_field, lat_field = (field, field) if field else names
    x, y = number(lon, lon_field), number(lat, lat_field)
    if not -90.0 <= y <= 90.0:
        hint = _SWAP if abs(x) <= 90.0 and abs(y) <= 180.0 else None
        raise InvalidRequest(f"latitude must be within -90..90, not {y:g}", field=lat_field, hint=hint)
    if not -180.0 <= x <= 180.0:
        hint = "subtract or add 360" if abs(x) <= 360.0 else None
        raise InvalidRequest(f"longitude must be within -180..180, not {x:g}", field=lon_field, hint=hint)
    return x, y


def swap_hint(lon: float, lat: float, region: str) -> str:
    """Return the hint for a position that lies in no region while its swap lies in *region*."""
    return f"did you swap lon and lat? lon={lat:g}, lat={lon:g} lies in region {region}"


def geometry(obj: object, field: str = "geometry", *, max_vertices: int = MAX_VERTICES) -> Geometry:
    """Return a checked copy of a geometry: a dict, a Feature's geometry, or what `__geo_interface__` says."""
    document = _mapping(obj, field)
    if document.get("type") == "Feature":
        document = _mapping(document.get("geometry"), field)
    kind = document.get("type")
    reader = _reader(kind, field)
    coordinates = document.get("coordinates")
    where = f"{field}.coordinates"
    _check_size(coordinates, where, max_vertices)
    checked: Geometry = {"type": kind, "coordinates": reader(coordinates, where)}
    _check_valid(checked, field)
    return checked


def features(obj: object) -> Iterator[dict[str, Any]]:
    """Yield GeoJSON Features from a FeatureCollection, a Feature, a geometry, a list of them, or `__geo_interface__`.

    What is inside a Feature is not checked here, so that a bulk load can report each bad row by itself.
    """
    if isinstance(obj, Mapping) or hasattr(obj, "__geo_interface__"):
        document = _mapping(obj, "features")
        if document.get("type") == "FeatureCollection":
            yield from _each(document.get("features"))
        else:
            yield _feature(document, "features")
    else:
        yield from _each(obj)


def representative_point(geometry: Geometry) -> tuple[float, float]:
    """Return (lon, lat) of a point on a checked geometry: the Point itself, else one that surely lies on the shape."""
    if geometry["type"] == "Point":
        lon, lat = geometry["coordinates"]
        return lon + 0.0, lat + 0.0
    point = shapely.point_on_surface(to_shape(geometry))
    return float(point.x) + 0.0, float(point.y) + 0.0


# -- the seven types: each reader returns clean coordinates or names the spot that is wrong --------------------------


def _position(value: object, field: str) -> Coordinates:
    items = _list(value, field, "a position [lon, lat]")
    if len(items) not in {2, 3}:
        raise InvalidRequest(f"a position has 2 numbers (or 3 with an altitude), not {len(items)}", field=field)
    return list(position(items[0], items[1], field=field))


def _line(value: object, field: str) -> Coordinates:
    line = _several(_position)(value, field)
    if len(line) < 2:
        raise InvalidRequest("a line needs at least 2 positions", field=field)
    return line


def _ring(value: object, field: str) -> Coordinates:
    ring = _several(_position)(value, field)
    if ring[0] != ring[-1]:
        raise InvalidRequest("the ring is not closed", field=field, hint="repeat the first position at the end")
    if len(ring) < 4:
        raise InvalidRequest(
            f"a ring needs at least 4 positions, the last equal to the first, not {len(ring)}", field=field
        )
    return ring


def _several(reader: Callable[[object, str], Coordinates]) -> Callable[[object, str], Coordinates]:
    def read(value: object, field: str) -> Coordinates:
        items = _list(value, field, "a list")
        if not items:
            raise InvalidRequest("must not be empty", field=field)
        return [reader(item, f"{field}[{index}]") for index, item in enumerate(items)]

    return read


_READERS: dict[str, Callable[[object, str], Coordinates]] = {
    "Point": _position,
    "MultiPoint": _several(_position),
    "LineString": _line,
    "MultiLineString": _several(_line),
    "Polygon": _several(_ring),
    "MultiPolygon": _several(_several(_ring)),
}


def _reader(kind: object, field: str) -> Callable[[object, str], Coordinates]:
    if kind == "GeometryCollection":
        advice = "store its members one by one, or use a Multi... type"
        raise InvalidRequest("a GeometryCollection is not supported", field=f"{field}.type", hint=advice)
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        hint = next((f"did you mean {name}?" for name in _READERS if name.lower() == str(kind).lower()), None)
        said = "is missing" if kind is None else f"is {kind!r:.80}"
        raise InvalidRequest(f"the type {said}, not one of {_ALIASES}", field=f"{field}.type", hint=hint)
    return reader


def _check_size(coordinates: object, field: str, limit: int) -> None:
    count = _count(coordinates, 4)
    if count > limit:
        message = f"{count:,} positions, where at most {limit:,} are allowed"
        raise InvalidRequest(message, field=field, hint="simplify the geometry or split it")


def _count(value: object, depth: int) -> int:
    # No geometry nests deeper than four lists; anything deeper is refused by its reader.
    if not isinstance(value, (list, tuple)) or depth == 0 or not value:
        return 0
    if not isinstance(value[0], (list, tuple)):
        return 1
    return sum(_count(item, depth - 1) for item in value)


def _check_valid(checked: Geometry, field: str) -> None:
    if checked["type"] in {"Point", "MultiPoint"}:
        return
    built = to_shape(checked)
    if not shapely.is_valid(built):
        reason = shapely.is_valid_reason(built)
        hint = "edges must not cross or overlap; shapely.make_valid() can repair many shapes"
        raise InvalidRequest(f"not a valid {checked['type']}: {reason}", field=field, hint=hint)


# -- shapes of input ----------------------------------------------------------------------------------------------


def _each(items: object) -> Iterator[dict[str, Any]]:
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        hint = "give a FeatureCollection, a Feature or a list of Features"
        raise InvalidRequest(f"must be a list of Features, not {_kind(items)}", field="features", hint=hint)
    for index, item in enumerate(items):
        field = f"features[{index}]"
        yield _feature(_mapping(item, field), field)


def _feature(document: Mapping[str, Any], field: str) -> dict[str, Any]:
    if document.get("type") == "Feature":
        return dict(document)
    if document.get("type") in _READERS:
        return {"type": "Feature", "geometry": dict(document), "properties": {}}
    raise InvalidRequest(f"must be a Feature, not {document.get('type')!r:.80}", field=f"{field}.type")


def _mapping(obj: object, field: str) -> Mapping[str, Any]:
    if not isinstance(obj, Mapping):
        obj = getattr(obj, "__geo_interface__", obj)
    if not isinstance(obj, Mapping):
        raise InvalidRequest(f"must be GeoJSON, not {_kind(obj)}", field=field, hint=_GEO_HINT)
    return obj


def _list(value: object, field: str, wanted: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"must be {wanted}, not {_kind(value)}", field=field)
    return list(value)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
