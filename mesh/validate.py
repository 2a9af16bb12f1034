"""What may enter the mesh: checks operations and places, and brings them into one normal form.

The client calls this at its edge, so that a mistake is named before anything is sent; the worker calls it again,
because a client is not to be trusted. Everything wrong is an `InvalidRequest` with the field and, where one is
known, a hint. All functions are idempotent: what they return passes again unchanged.
"""

import difflib
import unicodedata
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar, cast

import msgspec
import shapely
from msgspec.structs import replace
from shapely.geometry import shape as to_shape

from mesh import where as filters
from mesh.errors import InvalidRequest
from mesh.geo import HALF_CIRCUMFERENCE_M
from mesh.geojson import geometry, number, position, representative_point, swap_hint
from mesh.model import (
    Count,
    Delete,
    Draft,
    Find,
    Get,
    GetMany,
    Insert,
    InsertMany,
    Intersects,
    Mark,
    Move,
    Nearest,
    Operation,
    Place,
    Properties,
    Update,
    Upsert,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.regions import OFFSHORE_M, RegionMap

#: Places in one page. A larger limit is not an error but means this, as OGC API Features has it.
MAX_LIMIT = 1_000
#: Ids in one get_many, rows in one insert_many: about what one MongoDB batch takes without holding up others.
MAX_IDS = 1_000
MAX_ROWS = 1_000
#: Bytes of UTF-8: room for any key people use, and a list of MAX_IDS still fits one message.
MAX_ID_BYTES = 256
#: Bytes of a place in msgpack. MongoDB's own limit is 16 MB, but one such place would fill a page of a thousand.
MAX_PLACE_BYTES = 1024 * 1024
#: Objects and lists inside each other, the properties themselves being the first. MongoDB stops at 100.
MAX_DEPTH = 16

# Room to count on within the 64 bits that a store has for it.
_LAST_VERSION = 2**53
# Degrees (0.1 m) that the position of a shaped place may stand off its shape.
_ON_SHAPE = 1e-6
_KEYS = ("lon", "lat", "id", "properties", "geometry", "timestamp")
_ALIASES = {"lng": "lon", "long": "lon", "longitude": "lon", "latitude": "lat", "_id": "id", "props": "properties"}
_GEOMETRIES = {"Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon", "GeometryCollection"}

Op = TypeVar("Op", bound=Operation)


def operation(op: Op) -> Op:
    """Return the operation checked and normalised.

    Of an `InsertMany` only the list is checked: its rows fail one by one, so give each of them to `draft`.
    """
    check = _CHECKS.get(type(op))
    if check is None:
        raise InvalidRequest(f"{type(op).__name__} is not an operation", field="op")
    return cast("Op", check(op))


def draft(place: object, field: str = "") -> Draft:
    """Return a place to be written, checked and normalised; *field* is what to put before the names of its fields."""
    if not isinstance(place, Draft):
        raise InvalidRequest(f"must be a place, not {_kind(place)}", field=field.rstrip(".") or "place")
    lon, lat = position(place.lon, place.lat, names=(f"{field}lon", f"{field}lat"))
    checked = Draft(
        lon=lon,
        lat=lat,
        properties=properties(place.properties, f"{field}properties"),
        id=None if place.id is None else identifier(place.id, f"{field}id"),
        shape=None if place.shape is None else geometry(place.shape, f"{field}geometry"),
        timestamp=None if place.timestamp is None else number(place.timestamp, f"{field}timestamp"),
        version=_version(place.version, f"{field}version"),
    )
    _check_size(len(msgspec.msgpack.encode(checked)), field.rstrip(".") or "place")
    return _with_shape(checked, field)


def draft_from(obj: object) -> Draft:
    """Return a checked place from what users have.

    That is a `Draft`, a `Place`, a GeoJSON Feature or geometry, anything with `__geo_interface__`, or a flat dict with
    `lon` and `lat` (or `geometry`), `id`, `properties`, `timestamp`. What is not a Point keeps its shape, and its
    position is a point on it.
    """
    if isinstance(obj, Draft):
        return draft(obj)
    if isinstance(obj, Place):
        return draft(Draft(obj.lon, obj.lat, obj.properties, obj.id, obj.shape, obj.timestamp))
    if not isinstance(obj, Mapping):
        obj = getattr(obj, "__geo_interface__", obj)
    if not isinstance(obj, Mapping):
        hint = "give a dict with lon and lat, a GeoJSON Feature, or an object with __geo_interface__"
        raise InvalidRequest(f"must be a place, not {_kind(obj)}", field="place", hint=hint)
    if obj.get("type") == "Feature":
        # Foreign members (RFC 7946 section 6.1), such as our own region and distance, mean nothing here.
        return _from_parts({key: obj.get(key) for key in ("geometry", "properties", "id")})
    return _from_parts({"geometry": obj}) if obj.get("type") in _GEOMETRIES else _from_flat(obj)


def owner(place: Draft, regions: RegionMap) -> str:
    """Return the region that owns a checked place; one outside all, or with a shape in two, is refused."""
    region = regions.region_of(place.lon, place.lat)
    if region is None:
        message = f"lon={place.lon:g}, lat={place.lat:g} is in no region, nor within {OFFSHORE_M / 1000:g} km of one"
        raise InvalidRequest(
            message, field="geometry" if place.shape else "lon", hint=swapped(place.lon, place.lat, regions)
        )
    others = [name for name in regions.regions_of_shape(place.shape) if name != region] if place.shape else []
    if others:
        message = f"the shape lies in region {region} and reaches into {', '.join(others)}"
        raise InvalidRequest(message, field="geometry", hint="split it at the border and store the parts")
    return region


# -- single values ----------------------------------------------------------------------------------------------------


def identifier(value: object, field: str = "id") -> str:
    """Return a checked id: text of 1 to 256 bytes without control characters."""
    if not isinstance(value, str):
        raise InvalidRequest(f"must be text, not {_kind(value)}", field=field)
    if not value:
        raise InvalidRequest("must not be empty", field=field)
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in value):
        raise InvalidRequest("must not contain control characters", field=field)
    size = len(value.encode())
    if size > MAX_ID_BYTES:
        raise InvalidRequest(f"has {size:,} bytes, where at most {MAX_ID_BYTES} are allowed", field=field)
    return str(value)


def properties(value: object, field: str = "properties") -> Properties:
    """Return a checked copy of JSON properties; numpy's numbers become plain ones."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"must be an object, not {_kind(value)}", field=field)
    return cast("Properties", _json(value, field, 1))


def _json(value: object, field: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, field)
    if isinstance(value, Integral):
        return _integer(int(value), field)
    if isinstance(value, Real):
        return number(value, field)
    if isinstance(value, (Mapping, list)):
        return _container(value, field, depth)
    hints = {"datetime": "use ISO 8601 text or seconds since 1970", "tuple": "use a list", "set": "use a list"}
    raise InvalidRequest(f"{_kind(value)} is not a JSON value", field=field, hint=hints.get(_kind(value)))


def _container(value: Mapping[Any, Any] | list[Any], field: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"more than {MAX_DEPTH} objects and lists inside each other", field=field)
    if isinstance(value, list):
        return [_json(item, f"{field}[{index}]", depth + 1) for index, item in enumerate(value)]
    return {_key(name, field): _json(item, f"{field}.{name}", depth + 1) for name, item in value.items()}


def _key(name: object, field: str) -> str:
    # MongoDB would read `$` as an operator and `.` as a path, and cannot hold NUL in a name.
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"a key must be text and not empty, not {name!r:.40}", field=field)
    if name.startswith("$") or "." in name or "\0" in name:
        raise InvalidRequest(f"the key {name!r:.80} starts with $ or contains . or NUL", field=field, hint="rename it")
    return _text(name, field)


def _text(value: str, field: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("contains half a surrogate pair, which is no Unicode text", field=field) from error
    return str(value)


def _integer(value: int, field: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidRequest("an integer must fit into 64 bits", field=field, hint="store it as text")
    return value


def _check_size(size: int, field: str) -> None:
    if size > MAX_PLACE_BYTES:
        message = f"takes {size:,} bytes, where at most {MAX_PLACE_BYTES:,} are allowed"
        raise InvalidRequest(message, field=field, hint="keep large content elsewhere and store a link to it")


def _whole(value: object, field: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidRequest(f"must be a whole number, not {_kind(value)}", field=field)
    if value < least:
        raise InvalidRequest(f"must be at least {least}, not {value}", field=field)
    return _integer(int(value), field)


def _version(value: object, field: str) -> int:
    version = _whole(value, field, least=0)
    if version > _LAST_VERSION:
        raise InvalidRequest(f"must be at most {_LAST_VERSION}, not {version}", field=field)
    return version


def _metres(value: object, field: str) -> float:
    metres = number(value, field)
    if metres <= 0:
        raise InvalidRequest(f"must be more than 0 metres, not {metres:g}", field=field)
    if metres > HALF_CIRCUMFERENCE_M:
        hint = f"half the earth's circumference is {HALF_CIRCUMFERENCE_M:,.0f} m"
        raise InvalidRequest(f"{metres:,.0f} metres reach round the earth", field=field, hint=hint)
    return metres


def _mark(value: object) -> Mark | None:
    if value is None:
        return None
    if not isinstance(value, Mark):
        raise InvalidRequest(f"must be the mark of a page, not {_kind(value)}", field="after")
    return Mark(number(value.distance, "after"), identifier(value.id, "after"))


def _listed(value: object, field: str, most: int) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"must be a list, not {_kind(value)}", field=field)
    if len(value) > most:
        hint = f"send {most:,} at a time"
        raise InvalidRequest(f"has {len(value):,} entries, where at most {most:,} are allowed", field=field, hint=hint)
    return list(value)


# -- operations -------------------------------------------------------------------------------------------------------


def _paged(op: Any) -> dict[str, Any]:
    limit = min(_whole(op.limit, "limit", least=1), MAX_LIMIT)
    return {"limit": limit, "where": filters.check(op.where, "where"), "after": _mark(op.after)}


def _nearest(op: Nearest) -> Nearest:
    lon, lat = position(op.lon, op.lat)
    reach = None if op.max_distance is None else _metres(op.max_distance, "max_distance")
    return replace(op, lon=lon, lat=lat, max_distance=reach, **_paged(op))


def _within_radius(op: WithinRadius) -> WithinRadius:
    lon, lat = position(op.lon, op.lat)
    return replace(op, lon=lon, lat=lat, radius=_metres(op.radius, "radius"), **_paged(op))


def _within_box(op: WithinBox) -> WithinBox:
    west, south = position(op.west, op.south, names=("west", "south"))
    east, north = position(op.east, op.north, names=("east", "north"))
    if south > north:
        hint = "did you swap them? the order is west, south, east, north"
        raise InvalidRequest(f"south ({south:g}) is north of north ({north:g})", field="south", hint=hint)
    return replace(op, west=west, south=south, east=east, north=north, **_paged(op))


def _within_polygon(op: WithinPolygon) -> WithinPolygon:
    area = geometry(op.geometry)
    if area["type"] not in {"Polygon", "MultiPolygon"}:
        hint = "use intersects for lines and points"
        raise InvalidRequest(
            f"must be a Polygon or MultiPolygon, not a {area['type']}", field="geometry.type", hint=hint
        )
    return replace(op, geometry=area, **_paged(op))


def _insert_many(op: InsertMany) -> InsertMany:
    return replace(op, places=_listed(op.places, "places", MAX_ROWS))


def _get_many(op: GetMany) -> GetMany:
    ids = _listed(op.ids, "ids", MAX_IDS)
    return replace(op, ids=[identifier(item, f"ids[{index}]") for index, item in enumerate(ids)])


def _update(op: Update) -> Update:
    patch = properties(op.patch, "patch")
    _check_size(len(msgspec.msgpack.encode(patch)), "patch")
    return replace(op, id=identifier(op.id), patch=patch)


def _move(op: Move) -> Move:
    lon, lat = position(op.lon, op.lat)
    return replace(op, id=identifier(op.id), lon=lon, lat=lat, timestamp=number(op.timestamp, "timestamp"))


def _delete(op: Delete) -> Delete:
    version = None if op.version is None else _whole(op.version, "version", least=1)
    return replace(op, id=identifier(op.id), version=version)


_CHECKS: dict[type[Operation], Callable[[Any], Operation]] = {
    Nearest: _nearest,
    WithinRadius: _within_radius,
    WithinBox: _within_box,
    WithinPolygon: _within_polygon,
    Intersects: lambda op: replace(op, geometry=geometry(op.geometry), **_paged(op)),
    Find: lambda op: replace(op, **_paged(op)),
    Count: lambda op: replace(op, where=filters.check(op.where, "where")),
    Get: lambda op: replace(op, id=identifier(op.id)),
    GetMany: _get_many,
    Insert: lambda op: replace(op, place=draft(op.place)),
    Upsert: lambda op: replace(op, place=draft(op.place)),
    InsertMany: _insert_many,
    Update: _update,
    Move: _move,
    Delete: _delete,
}


# -- places from what users have --------------------------------------------------------------------------------------


def _with_shape(place: Draft, field: str) -> Draft:
    if place.shape is None:
        return place
    if place.shape["type"] == "Point":  # the position says it all
        lon, lat = place.shape["coordinates"]
    else:
        lon, lat = place.lon, place.lat
    away = shapely.distance(to_shape(place.shape), shapely.Point(place.lon, place.lat))
    if away > _ON_SHAPE:
        hint = "leave lon and lat out: a point on the shape is chosen"
        raise InvalidRequest("the position does not lie on the geometry", field=f"{field}lon", hint=hint)
    return replace(place, lon=lon, lat=lat, shape=None if place.shape["type"] == "Point" else place.shape)


def _from_flat(row: Mapping[str, Any]) -> Draft:
    for key in row:
        if key not in _KEYS:
            raise InvalidRequest("is not a field of a place", field=str(key), hint=_nearest_key(str(key)))
    if row.get("geometry") is not None:
        return _from_parts(row, lon=row.get("lon"), lat=row.get("lat"))
    for key in ("lon", "lat"):
        if row.get(key) is None:
            raise InvalidRequest("is missing", field=key, hint="a place needs lon and lat, or a geometry")
    given = {key: row[key] for key in ("lon", "lat", "timestamp") if key in row}
    return draft(Draft(**given, id=_id(row), properties=_properties(row)))


def _from_parts(row: Mapping[str, Any], lon: object = None, lat: object = None) -> Draft:
    shape = geometry(row.get("geometry"))
    x, y = representative_point(shape) if lon is None and lat is None else position(lon, lat)
    return draft(Draft(x, y, _properties(row), _id(row), shape, row.get("timestamp")))


def _properties(row: Mapping[str, Any]) -> Properties:
    # RFC 7946 section 3.2: the properties of a Feature may be null.
    given = row.get("properties")
    return {} if given is None else cast("Properties", given)


def _id(row: Mapping[str, Any]) -> str | None:
    # The same section: the id of a Feature may be a number.
    given = row.get("id")
    whole = isinstance(given, Integral) and not isinstance(given, bool)
    return str(given) if whole else cast("str | None", given)


def _nearest_key(key: str) -> str:
    known = _ALIASES.get(key.lower())
    near = [known] if known else difflib.get_close_matches(key.lower(), _KEYS, n=1)
    return f"did you mean {near[0]!r}?" if near else "put what describes the place into 'properties'"


def swapped(lon: float, lat: float, regions: RegionMap) -> str | None:
    """Return the hint for a position outside all regions whose swap lies inside one, None if that is not so."""
    if regions.region_of(lon, lat) is not None or not -90.0 <= lon <= 90.0:
        return None
    region = regions.region_of(lat, lon)
    return swap_hint(lon, lat, region) if region else None


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
