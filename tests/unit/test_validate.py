"""Checking operations and places before they enter the mesh."""

import datetime as dt
import math
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shapely
from shapely.geometry import mapping

from mesh.errors import InvalidRequest
from mesh.model import (
    AnyOperation,
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
    Update,
    Upsert,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.regions import RegionMap
from mesh.validate import (
    MAX_DEPTH,
    MAX_ID_BYTES,
    MAX_LIMIT,
    MAX_PLACE_BYTES,
    draft,
    draft_from,
    identifier,
    operation,
    owner,
    properties,
)

SQUARE = mapping(shapely.box(-98, 38, -97, 39))
POINT = {"type": "Point", "coordinates": [-73.99, 40.73]}
LINE = {"type": "LineString", "coordinates": [[-98.0, 38.0], [-97.0, 38.5]]}
HERE = {"lon": -73.99, "lat": 40.73}
NAN = math.nan

GOOD: list[Any] = [
    Nearest(-73.99, 40.73),
    Nearest(-73.99, 40.73, 5, 1_000.0, {"kind": "city"}, Mark(12.5, "ne:1")),
    WithinRadius(-73.99, 40.73, 500.0),
    WithinBox(-75.0, 40.0, -74.0, 41.0),
    WithinBox(170.0, 50.0, -170.0, 55.0),
    WithinPolygon({"type": "Polygon", "coordinates": [[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]]}),
    Intersects(LINE),
    Find(),
    Find({"kind": "city"}, 3),
    Count(),
    Get("ne:1"),
    GetMany(["a", "b"]),
    Insert(Draft(-73.99, 40.73, {"a": [1, {"b": None}]}, "x", None, 1.5)),
    InsertMany([Draft(-73.99, 40.73)]),
    Upsert(Draft(-73.99, 40.73, id="x")),
    Update("x", {"gone": None}),
    Move("x", -73.99, 40.73, 1.0),
    Delete("x"),
    Delete("x", 3),
]


@cache
def the_map() -> RegionMap:
    return RegionMap.load(Path(__file__).parents[2] / "inventory" / "regions.geojson")


class Thing:
    """Something of another library."""

    def __init__(self, interface: Any) -> None:
        self.__geo_interface__ = interface


def refused(call: Any, *arguments: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        call(*arguments)
    return caught.value


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


# -- operations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", GOOD, ids=lambda op: type(op).__name__)
def test_good_operations_pass_unchanged(good: Operation) -> None:
    """What is right comes back equal, and equal again after a trip over the wire."""
    assert operation(good) == good
    wire = msgspec.msgpack.encode(operation(good))
    assert operation(msgspec.msgpack.decode(wire, type=AnyOperation)) == good


def test_every_operation_is_known() -> None:
    """No operation of the model is missing from the table above."""
    assert {type(good) for good in GOOD} == set(AnyOperation.__args__)


@pytest.mark.parametrize(
    ("op", "field", "words"),
    [
        (Nearest("x", 1), "lon", "not str"),
        (Nearest(True, 1), "lon", "not bool"),
        (Nearest(None, 1), "lon", "not null"),
        (Nearest(1, NAN), "lat", "finite"),
        (Nearest(181, 1), "lon", "-180..180"),
        (Nearest(40.73, -99), "lat", "swap"),
        (Nearest(1, 2, 0), "limit", "at least 1"),
        (Nearest(1, 2, -1), "limit", "at least 1"),
        (Nearest(1, 2, True), "limit", "not bool"),
        (Nearest(1, 2, 1.5), "limit", "not float"),
        (Nearest(1, 2, "10"), "limit", "not str"),
        (Nearest(1, 2, None), "limit", "not null"),
        (Nearest(1, 2, 10**30), "limit", "64 bits"),
        (Nearest(1, 2, 10, 0), "max_distance", "more than 0"),
        (Nearest(1, 2, 10, math.inf), "max_distance", "finite"),
        (Nearest(1, 2, 10, None, {"$where": "1"}), "where", "[$]where"),
        (Nearest(1, 2, 10, None, "kind=city"), "where", "is an object"),
        (Nearest(1, 2, after="token"), "after", "mark of a page"),
        (Nearest(1, 2, after=Mark(NAN, "a")), "after", "finite"),
        (Nearest(1, 2, after=Mark(1, "")), "after", "empty"),
        (WithinRadius(1, 2, 0), "radius", "more than 0"),
        (WithinRadius(1, 2, -5), "radius", "-5"),
        (WithinRadius(1, 2, NAN), "radius", "finite"),
        (WithinRadius(1, 2, "5km"), "radius", "not str"),
        (WithinRadius(1, 2, 3e7), "radius", "round the earth"),
        (WithinBox(-74, 41, -73, 40), "south", "west, south, east, north"),
        (WithinBox(40, -100, 41, -73), "south", "swap"),
        (WithinBox(-190, 40, -73, 41), "west", "360"),
        (WithinBox(-74, 40, 200, 41), "east", "-180..180"),
        (WithinBox(-74, 40, -73, 91), "north", "-90..90"),
        (WithinBox(-74, "40", -73, 41), "south", "not str"),
        (WithinPolygon(LINE), "geometry.type", "not a LineString"),
        (WithinPolygon(POINT), "geometry.type", "use intersects"),
        (WithinPolygon(None), "geometry", "not null"),
        (WithinPolygon({"type": "Polygon", "coordinates": []}), "geometry.coordinates", "empty"),
        (Intersects({"type": "GeometryCollection"}), "geometry.type", "Multi"),
        (Find({"$bad": 1}), "where", "[$]bad"),
        (Count({"$bad": 1}), "where", "[$]bad"),
        (Get(""), "id", "empty"),
        (Get(7), "id", "not int"),
        (Get(None), "id", "not null"),
        (Get("x" * 257), "id", "257"),
        (Get("\N{SNOWMAN}" * 86), "id", "258"),
        (Get("a\nb"), "id", "control"),
        (Get("a\0"), "id", "control"),
        (Get("\ud800"), "id", "control"),
        (GetMany("abc"), "ids", "not str"),
        (GetMany(["a", ""]), "ids[1]", "empty"),
        (GetMany(["a"] * 1_001), "ids", "1,001"),
        (Insert(None), "place", "not null"),
        (Insert({"lon": 1, "lat": 2}), "place", "not dict"),
        (Insert(Draft(1, 95)), "lat", "-90..90"),
        (Upsert(Draft(1, 2, id="")), "id", "empty"),
        (InsertMany([Draft(1, 2)] * 1_001), "places", "1,000 at a time"),
        (InsertMany(Draft(1, 2)), "places", "must be a list"),
        (Update("", {}), "id", "empty"),
        (Update("x", None), "patch", "not null"),
        (Update("x", {"$set": 1}), "patch", r"\$set"),
        (Update("x", {"a": "b" * MAX_PLACE_BYTES}), "patch", "1,048,576"),
        (Move("x", 1, 2, None), "timestamp", "not null"),
        (Move("x", 1, 2, NAN), "timestamp", "finite"),
        (Move("x", 1, 2, "now"), "timestamp", "not str"),
        (Move("", 1, 2, 3), "id", "empty"),
        (Move("x", 1, -91, 3), "lat", "swap"),
        (Delete("x", 0), "version", "at least 1"),
        (Delete("x", 1.0), "version", "not float"),
        ({"op": "nearest"}, "op", "dict is not an operation"),
        (None, "op", "not an operation"),
    ],
)
def test_bad_operations_name_the_field(op: Any, field: str, words: str) -> None:
    """Each fault is an `InvalidRequest` that names the field and says what is wrong."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        operation(op)
    assert caught.value.field is not None
    assert caught.value.field == field or (field == "where" and caught.value.field.startswith("where"))


def test_numbers_are_normalised() -> None:
    """Whole numbers become floats, minus zero zero, an empty filter none, numpy's numbers plain."""
    op = operation(Nearest(np.float32(1), -0.0, np.int64(5), 10, {}))
    assert op == Nearest(1.0, 0.0, 5, 10.0)
    assert math.copysign(1, op.lat) == 1.0
    assert (type(op.lon), type(op.limit), type(op.max_distance)) == (float, int, float)


def test_a_limit_above_the_maximum_means_the_maximum() -> None:
    """Too large a limit is clamped, never an error."""
    assert operation(Find(limit=5_000)).limit == MAX_LIMIT
    assert operation(Find(limit=MAX_LIMIT)).limit == MAX_LIMIT


def test_rows_of_a_bulk_write_are_left_to_draft() -> None:
    """One bad row does not refuse the others: the list passes, the row fails by itself, named as the caller likes."""
    rows = [Draft(1, 2), Draft(1, 95)]
    assert operation(InsertMany(rows)).places == rows
    assert draft(rows[0]) == Draft(1.0, 2.0)
    assert refused(draft, rows[1], "places[1].").field == "places[1].lat"


# -- ids and properties ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", ["a", "ne:4f", "geonames:5128581", "K\u00f6ln / 1", "x" * MAX_ID_BYTES, "$a.b"])
def test_ids_are_free_text(good: str) -> None:
    """Any short text without control characters is an id."""
    assert identifier(good) == good


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        (None, "properties", "not null"),
        ([], "properties", "not list"),
        ({"$a": 1}, "properties", "rename"),
        ({"a.b": 1}, "properties", "rename"),
        ({"a\0": 1}, "properties", "rename"),
        ({"": 1}, "properties", "not empty"),
        ({1: 1}, "properties", "must be text"),
        ({"a": {"$b": 1}}, "properties.a", "rename"),
        ({"a": [{"b": {1}}]}, "properties.a[0].b", "use a list"),
        ({"a": (1, 2)}, "properties.a", "use a list"),
        ({"a": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, "properties.a", "ISO 8601"),
        ({"a": b"x"}, "properties.a", "not a JSON value"),
        ({"a": object()}, "properties.a", "not a JSON value"),
        ({"a": [1, NAN]}, "properties.a[1]", "finite"),
        ({"a": math.inf}, "properties.a", "finite"),
        ({"a": 2**63}, "properties.a", "64 bits"),
        ({"a": -(2**63) - 1}, "properties.a", "64 bits"),
        ({"a": "\udcff"}, "properties.a", "surrogate"),
        ({"\udcff": 1}, "properties", "surrogate"),
    ],
)
def test_bad_properties_name_the_path(value: Any, field: str, words: str) -> None:
    """Each value that JSON or MongoDB cannot hold is named with the path to it."""
    error = refused(properties, value)
    assert error.field == field
    assert words in str(error)


def test_good_properties_are_copied() -> None:
    """All JSON values pass, numpy's numbers become plain, and the caller's object stays untouched."""
    given = {"s": "x", "i": 2**63 - 1, "f": 1.5, "b": True, "n": None, "l": [1, {"a": []}], "np": np.int64(4)}
    checked = properties(given)
    assert checked == given
    assert type(checked["np"]) is int
    assert checked["b"] is True
    checked["l"][1]["a"].append(1)
    assert given["l"] == [1, {"a": []}]


def test_nesting_ends_somewhere() -> None:
    """Sixteen levels pass, seventeen do not, and an object that holds itself is refused instead of overflowing."""
    assert properties(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    assert "16" in refused(properties, nested(MAX_DEPTH + 1)).message
    loop: dict[str, Any] = {}
    loop["self"] = loop
    assert refused(properties, loop).field is not None


def test_a_place_has_a_size_limit() -> None:
    """A place of 1 MiB passes; one byte more, or 16 MB, is refused with size and limit."""
    frame = len(msgspec.msgpack.encode(Draft(1.0, 2.0, {"text": "x" * 70_000}))) - 70_000
    fits = Draft(1.0, 2.0, {"text": "x" * (MAX_PLACE_BYTES - frame)})
    assert draft(fits) == fits
    over = refused(draft, Draft(1.0, 2.0, {"text": "x" * (MAX_PLACE_BYTES - frame + 1)}))
    assert over.field == "place"
    assert "1,048,577" in over.message
    assert "1,048,576" in over.message
    assert "16,0" in refused(draft, Draft(1.0, 2.0, {"text": "x" * 16_000_000})).message


# -- places from what users have ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        Draft(-73.99, 40.73, {"n": 1}, "7"),
        Place("7", -73.99, 40.73, {"n": 1}, version=4, region="ne", distance=3.0),
        {"type": "Feature", "id": "7", "geometry": POINT, "properties": {"n": 1}},
        {"type": "Feature", "id": 7, "geometry": POINT, "properties": {"n": 1}, "distance": 3.0, "bbox": None},
        Thing({"type": "Feature", "id": "7", "geometry": POINT, "properties": {"n": 1}}),
        Place("7", -73.99, 40.73, {"n": 1}, version=4, region="ne").to_geojson(),
        {**HERE, "id": "7", "properties": {"n": 1}},
        {**HERE, "id": 7, "properties": {"n": 1}, "timestamp": None},
        {"geometry": POINT, "id": 7, "properties": {"n": 1}},
        {**HERE, "geometry": POINT, "id": 7, "properties": {"n": 1}},
    ],
)
def test_a_place_may_come_in_many_forms(source: object) -> None:
    """Drafts, places, Features, library objects and flat dicts give the same draft."""
    assert draft_from(source) == Draft(-73.99, 40.73, {"n": 1}, "7")


def test_bare_geometries_are_places() -> None:
    """A geometry alone, from a dict or from shapely, is a place without properties."""
    assert draft_from(POINT) == draft_from(shapely.Point(-73.99, 40.73)) == Draft(-73.99, 40.73)
    assert draft_from({"type": "Feature", "geometry": POINT, "properties": None}) == Draft(-73.99, 40.73)


def test_shapes_keep_their_geometry_and_get_a_position_on_it() -> None:
    """What is not a Point becomes the shape, and the position lies on it; a second pass changes nothing."""
    for shape in (LINE, SQUARE):
        made = draft_from({"type": "Feature", "geometry": shape, "properties": {}})
        assert made.shape is not None
        assert made.shape["type"] == shape["type"]
        assert shapely.distance(shapely.geometry.shape(shape), shapely.Point(made.lon, made.lat)) < 1e-9
        assert draft(made) == draft_from(made) == made


def test_a_position_must_lie_on_its_shape() -> None:
    """Someone may choose the point of a shape, but not a point elsewhere."""
    assert draft(Draft(-97.5, 38.5, shape=SQUARE)).lon == -97.5
    error = refused(draft, Draft(-90.0, 38.5, shape=SQUARE))
    assert error.field == "lon"
    assert "on the shape" in (error.hint or "")
    assert draft(Draft(-73.99, 40.73, shape=POINT)) == Draft(-73.99, 40.73)


@pytest.mark.parametrize(
    ("source", "field", "words"),
    [
        (None, "place", "not null"),
        (7, "place", "lon and lat"),
        ("-74,40", "place", "not str"),
        ([-74, 40], "place", "not list"),
        ({}, "lon", "is missing"),
        ({"lon": 1}, "lat", "is missing"),
        ({"lon": 1, "lat": None}, "lat", "is missing"),
        ({"lng": 1, "lat": 2}, "lng", "did you mean 'lon'"),
        ({"longitude": 1, "latitude": 2}, "longitude", "did you mean 'lon'"),
        ({**HERE, "propertys": {}}, "propertys", "did you mean 'properties'"),
        ({**HERE, "Geometry": {}}, "Geometry", "did you mean 'geometry'"),
        ({**HERE, "population": 3}, "population", "into 'properties'"),
        ({**HERE, 3: 4}, "3", "into 'properties'"),
        ({**HERE, "id": True}, "id", "not bool"),
        ({**HERE, "id": 1.5}, "id", "not float"),
        ({**HERE, "id": ""}, "id", "empty"),
        ({**HERE, "properties": []}, "properties", "not list"),
        ({**HERE, "properties": 0}, "properties", "not int"),
        ({**HERE, "timestamp": "now"}, "timestamp", "not str"),
        ({"lon": "-73", "lat": 40}, "lon", "not str"),
        ({"lon": 40, "lat": -100}, "lat", "swap"),
        ({"lon": 0, "geometry": SQUARE}, "lat", "not null"),
        ({"type": "Feature"}, "geometry", "not null"),
        ({"type": "Feature", "geometry": {"type": "Point"}}, "geometry.coordinates", "position"),
        ({"type": "GeometryCollection", "geometries": []}, "geometry.type", "not supported"),
        ({"type": "FeatureCollection", "features": []}, "type", "into 'properties'"),
    ],
)
def test_bad_places_name_the_field(source: object, field: str, words: str) -> None:
    """Each fault in what a user gives is named, misspelt keys with the right one."""
    error = refused(draft_from, source)
    assert error.field == field
    assert words in str(error)


# -- owners ---------------------------------------------------------------------------------------------------------


def test_a_place_has_one_owner() -> None:
    """Points belong to the region they lie in, shapes to the one they lie in wholly, coasts to the nearest."""
    assert owner(draft_from(HERE), the_map()) == "ne"
    assert owner(draft_from(SQUARE), the_map()) == "mw"
    assert owner(draft_from(shapely.box(-73.6, 40.3, -73.2, 40.5)), the_map()) == "ne"


def test_swapped_positions_are_recognised() -> None:
    """A US position the wrong way round is refused, and the hint shows it the right way round with its region."""
    error = refused(owner, draft_from({"lon": 40.73, "lat": -73.99}), the_map())
    assert error.field == "lon"
    assert error.hint == "did you swap lon and lat? lon=-73.99, lat=40.73 lies in region ne"


def test_foreign_positions_are_refused() -> None:
    """Outside all regions there is no owner, and nothing to suspect."""
    for lon, lat in [(2.35, 48.86), (-60.0, 35.0), (151.2, -33.9)]:
        error = refused(owner, draft_from({"lon": lon, "lat": lat}), the_map())
        assert (error.field, error.hint) == ("lon", None)
        assert "50 km" in error.message
    assert refused(owner, draft_from(shapely.box(2, 48, 3, 49)), the_map()).field == "geometry"


def test_a_shape_across_a_border_must_be_split() -> None:
    """The error names both regions; each part, cut at the border, has an owner."""
    whole = shapely.box(-98, 36, -97, 38)
    error = refused(owner, draft_from(whole), the_map())
    assert error.field == "geometry"
    assert "mw" in error.message
    assert "sw" in error.message
    assert error.hint == "split it at the border and store the parts"
    north = whole - shapely.box(-180, -90, 180, 37.1)
    assert owner(draft_from(north), the_map()) == "mw"


def test_a_line_over_water_to_another_region_is_refused() -> None:
    """A ferry line whose ends belong to two coasts has no single owner, though it meets no polygon of the other."""
    line = {"type": "LineString", "coordinates": [[-74.7, 38.9], [-74.95, 38.4]]}
    assert "reaches into" in refused(owner, draft_from(line), the_map()).message


def test_a_search_for_shapes_asks_the_owner_of_every_shape_it_meets() -> None:
    """Whatever shape `owner` accepts, a search that meets it asks its owner: near borders, off coasts, far at sea."""
    random = np.random.default_rng(31)
    around = [(-75.0, 38.7), (-80.5, 40.6), (-96.5, 37.0), (-93.8, 29.7), (-122.5, 37.5), (-84.0, 42.0), (-114.6, 35.0)]
    met = 0
    for _ in range(400):
        at = around[random.integers(len(around))] + random.normal(0, 0.4, 2)
        ends = at + random.normal(0, 0.7, (3, 2))
        shape = shapely.LineString(ends) if random.random() < 0.5 else shapely.Polygon(ends)
        try:
            mine = owner(draft_from(shape), the_map())
        except InvalidRequest:
            continue
        part = shapely.line_interpolate_point(shapely.boundary(shapely.buffer(shape, 1e-9)), random.random())
        for search in (shape, shapely.buffer(part, 0.05), shapely.box(*(at - 0.3), *(at + 0.3))):
            if shapely.intersects(search, shape):
                met += 1
                assert mine in the_map().regions_in_geometry(mapping(search), shapes=True)
    assert met > 300
