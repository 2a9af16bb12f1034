"""Reading the GeoJSON that users give."""

import math
import time
from typing import Any

import numpy as np
import pytest
import shapely

from mesh.errors import InvalidRequest
from mesh.geojson import MAX_VERTICES, features, geometry, number, position, representative_point, swap_hint

RING = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
HOLE = [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]]
POLYGON = {"type": "Polygon", "coordinates": [RING]}

EVERY_TYPE: dict[str, Any] = {
    "Point": [1, 2],
    "MultiPoint": [[1, 2], [3, 4]],
    "LineString": [[1, 2], [3, 4]],
    "MultiLineString": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
    "Polygon": [RING, HOLE],
    "MultiPolygon": [[RING], [[[10, 0], [14, 0], [14, 4], [10, 0]]]],
}


class Thing:
    """Something of another library."""

    def __init__(self, interface: Any) -> None:
        self.__geo_interface__ = interface


def refused(obj: object, field: str = "geometry") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        geometry(obj, field)
    return caught.value


def circle(vertices: int) -> dict[str, Any]:
    angles = np.linspace(0, 2 * math.pi, vertices - 1, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist()
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


# -- numbers and positions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "not bool"),
        ("1", "not str"),
        (None, "not null"),
        ([1], "not list"),
        (1j, "not complex"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-math.inf, "finite"),
        (10**400, "finite"),
        (np.bool_(1), "not bool"),
    ],
)
def test_only_finite_numbers_are_numbers(value: object, words: str) -> None:
    """Each impostor is refused with its field and what it is."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        number(value, "radius")
    assert caught.value.field == "radius"


@pytest.mark.parametrize("value", [1, 1.5, np.float32(1.5), np.float64(2), np.int64(3)])
def test_numbers_of_numpy_are_numbers(value: Any) -> None:
    """Whatever is a real number comes back as a plain float."""
    assert type(number(value, "lon")) is float
    assert number(value, "lon") == float(value)


@pytest.mark.parametrize(
    ("lon", "lat", "field", "hint"),
    [
        (40.7, -174.0, "lat", "swap"),
        (40.7, 100.0, "lat", "swap"),
        (100.0, 91.0, "lat", None),
        (1.0, 500.0, "lat", None),
        (181.0, 0.0, "lon", "360"),
        (-286.0, 40.7, "lon", "360"),
        (1e6, 0.0, "lon", None),
        ("-74", 40.7, "lon", None),
        (-74, None, "lat", None),
    ],
)
def test_bad_positions_name_the_number(lon: Any, lat: Any, field: str, hint: str | None) -> None:
    """The wrong one of the two is named, and a likely swap is suspected aloud."""
    with pytest.raises(InvalidRequest) as caught:
        position(lon, lat)
    assert caught.value.field == field
    assert (hint or "") in (caught.value.hint or "")
    assert (caught.value.hint is None) == (hint is None)


def test_positions_are_normalised() -> None:
    """Minus zero becomes zero; 180 and -180 stay what the user said."""
    lon, lat = position(-0.0, -0.0)
    assert math.copysign(1, lon) == math.copysign(1, lat) == 1.0
    assert position(180, 90) == (180.0, 90.0)
    assert position(-180, -90) == (-180.0, -90.0)


def test_a_pair_may_have_names_of_its_own() -> None:
    """Bounds of a box and positions in a list are named as the user knows them."""
    with pytest.raises(InvalidRequest) as caught:
        position(1, 95, names=("west", "south"))
    assert caught.value.field == "south"
    with pytest.raises(InvalidRequest) as caught:
        position(1, 95, field="geometry.coordinates[3]")
    assert caught.value.field == "geometry.coordinates[3]"


def test_the_swap_hint_names_the_region() -> None:
    """The hint shows the position the right way round."""
    assert swap_hint(40.73, -73.99, "ne") == "did you swap lon and lat? lon=-73.99, lat=40.73 lies in region ne"


# -- geometries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "coordinates"), EVERY_TYPE.items())
def test_every_type_is_read_from_every_source(kind: str, coordinates: Any) -> None:
    """A dict, a Feature, a library's object and a shapely geometry give the same checked geometry."""
    plain = {"type": kind, "coordinates": coordinates}
    expected = geometry(plain)
    assert expected == plain
    assert geometry({"type": "Feature", "geometry": plain, "properties": None}) == expected
    assert geometry(Thing(plain)) == expected
    assert geometry(Thing({"type": "Feature", "geometry": plain})) == expected
    assert geometry(shapely.geometry.shape(plain)) == expected
    assert geometry(expected) == expected


def test_altitude_is_dropped_and_winding_is_free() -> None:
    """A third number is ignored; rings turning either way pass as they are."""
    assert geometry({"type": "Point", "coordinates": [1, 2, 300]}) == {"type": "Point", "coordinates": [1.0, 2.0]}
    clockwise = {"type": "Polygon", "coordinates": [RING[::-1]]}
    assert geometry(clockwise) == clockwise


def test_the_input_is_not_touched() -> None:
    """What comes back is a copy, with plain lists and floats."""
    given = {"type": "LineString", "coordinates": ((1, 2, 3), (-0.0, 4))}
    checked = geometry(given)
    assert given["coordinates"] == ((1, 2, 3), (-0.0, 4))
    assert checked["coordinates"] == [[1.0, 2.0], [0.0, 4.0]]
    assert all(type(value) is float for pair in checked["coordinates"] for value in pair)


@pytest.mark.parametrize(
    ("obj", "field", "words"),
    [
        (None, "geometry", "not null"),
        (7, "geometry", "not int"),
        ("POINT (1 2)", "geometry", "not str"),
        ([1, 2], "geometry", "not list"),
        (Thing(None), "geometry", "must be GeoJSON"),
        ({}, "geometry.type", "is missing"),
        ({"type": None}, "geometry.type", "is missing"),
        ({"type": ["Point"]}, "geometry.type", "not one of"),
        ({"type": "Circle"}, "geometry.type", "'Circle'"),
        ({"type": "x" * 10_000}, "geometry.type", "xxx"),
        ({"type": "point", "coordinates": [1, 2]}, "geometry.type", "did you mean Point"),
        ({"type": "GeometryCollection", "geometries": []}, "geometry.type", "store its members one by one"),
        ({"type": "Feature"}, "geometry", "not null"),
        ({"type": "Feature", "geometry": {"type": "Feature"}}, "geometry.type", "'Feature'"),
        ({"type": "FeatureCollection", "features": []}, "geometry.type", "FeatureCollection"),
        ({"type": "Point"}, "geometry.coordinates", "must be a position"),
        ({"type": "Point", "coordinates": "1,2"}, "geometry.coordinates", "not str"),
        ({"type": "Point", "coordinates": {"lon": 1}}, "geometry.coordinates", "not dict"),
        ({"type": "Point", "coordinates": []}, "geometry.coordinates", "2 numbers"),
        ({"type": "Point", "coordinates": [1]}, "geometry.coordinates", "not 1"),
        ({"type": "Point", "coordinates": [1, 2, 3, 4]}, "geometry.coordinates", "not 4"),
        ({"type": "Point", "coordinates": [[1, 2]]}, "geometry.coordinates", "2 numbers"),
        ({"type": "Point", "coordinates": [[1, 2], [3, 4]]}, "geometry.coordinates", "not list"),
        ({"type": "Point", "coordinates": [True, 2]}, "geometry.coordinates", "not bool"),
        ({"type": "Point", "coordinates": [40.7, -100]}, "geometry.coordinates", "swap"),
        ({"type": "MultiPoint", "coordinates": []}, "geometry.coordinates", "empty"),
        ({"type": "MultiPoint", "coordinates": [1, 2]}, "geometry.coordinates[0]", "must be a position"),
        ({"type": "MultiPoint", "coordinates": [[1, 2], [3, None]]}, "geometry.coordinates[1]", "not null"),
        ({"type": "LineString", "coordinates": [[1, 2]]}, "geometry.coordinates", "at least 2"),
        ({"type": "LineString", "coordinates": [[1, 2], [1, 2]]}, "geometry", "not a valid LineString"),
        ({"type": "Polygon", "coordinates": []}, "geometry.coordinates", "empty"),
        ({"type": "Polygon", "coordinates": [[]]}, "geometry.coordinates[0]", "empty"),
        ({"type": "Polygon", "coordinates": RING}, "geometry.coordinates[0][0]", "must be a position"),
        ({"type": "Polygon", "coordinates": [RING[:-1]]}, "geometry.coordinates[0]", "repeat the first position"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}, "geometry.coordinates[0]", "at least 4"),
        ({"type": "Polygon", "coordinates": [RING, HOLE[:-1]]}, "geometry.coordinates[1]", "not closed"),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, "x"], [0, 0]]]},
            "geometry.coordinates[0][3]",
            "not str",
        ),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]},
            "geometry",
            r"Self-intersection\[2 2\]",
        ),
        ({"type": "MultiPolygon", "coordinates": [RING]}, "geometry.coordinates[0][0][0]", "must be a position"),
        ({"type": "MultiPolygon", "coordinates": [[RING], [RING]]}, "geometry", "not a valid MultiPolygon"),
        ({"type": "MultiPolygon", "coordinates": [[RING], 5]}, "geometry.coordinates[1]", "must be a list"),
    ],
)
def test_bad_geometries_name_the_spot(obj: object, field: str, words: str) -> None:
    """Each fault is an `InvalidRequest` with the path to it and words that say what is wrong."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        geometry(obj)
    assert caught.value.field == field
    assert len(str(caught.value)) < 400


def test_the_field_may_have_another_name() -> None:
    """Paths start with the name that the caller gave."""
    assert refused({"type": "Point", "coordinates": [1]}, "features[7].geometry").field == (
        "features[7].geometry.coordinates"
    )


def test_a_huge_polygon_is_refused_at_once_with_numbers() -> None:
    """5,000 vertices pass; 20,000 are refused, both numbers named, before any other work is done."""
    assert len(geometry(circle(MAX_VERTICES))["coordinates"][0]) == MAX_VERTICES
    start = time.perf_counter()
    error = refused(circle(20_000))
    assert "20,000" in error.message
    assert "5,000" in error.message
    assert error.hint == "simplify the geometry or split it"
    assert time.perf_counter() - start < 1


def test_the_vertices_of_all_parts_count_together() -> None:
    """A polygon cannot hide its size in holes or parts."""
    ring = circle(2_600)["coordinates"][0]
    assert "5,200" in refused({"type": "MultiPolygon", "coordinates": [[ring], [ring]]}).message
    assert geometry({"type": "Polygon", "coordinates": [ring]}, max_vertices=2_600)


def test_deep_nesting_does_not_overflow() -> None:
    """A thousand brackets are an error like any other."""
    deep: Any = 1
    for _ in range(1_000):
        deep = [deep]
    for kind in EVERY_TYPE:
        refused({"type": kind, "coordinates": deep})


def test_junk_never_gives_a_traceback() -> None:
    """Whatever stands in the place of coordinates, the answer is a geometry or an `InvalidRequest`."""
    random = np.random.default_rng(1)
    atoms = [1, -74.5, None, True, "x", [], {}, math.nan, [1, 2], [[1, 2], [3, 4], [3, 5], [1, 2]], [[]], {"a": [1]}]

    def junk(depth: int) -> Any:
        if depth == 0 or random.random() < 0.3:
            return atoms[random.integers(len(atoms))]
        return [junk(depth - 1) for _ in range(random.integers(4))]

    for _ in range(3_000):
        kind = list(EVERY_TYPE)[random.integers(len(EVERY_TYPE))]
        try:
            assert geometry({"type": kind, "coordinates": junk(4)})["type"] == kind
        except InvalidRequest as error:
            assert error.field  # either outcome is fine, but never without a field


# -- features and points --------------------------------------------------------------------------------------------


def test_features_come_from_every_source() -> None:
    """A collection, one Feature, a bare geometry, lists, generators and library objects all give Features."""
    feature = {"type": "Feature", "id": "a", "geometry": POLYGON, "properties": {"n": 1}}
    bare = {"type": "Feature", "geometry": POLYGON, "properties": {}}
    collection = {"type": "FeatureCollection", "features": [feature, feature]}
    assert list(features(collection)) == [feature, feature]
    assert list(features(Thing(collection))) == [feature, feature]
    assert list(features(feature)) == [feature]
    assert list(features(POLYGON)) == [bare]
    assert list(features([feature, Thing(feature), POLYGON])) == [feature, feature, bare]
    assert list(features(item for item in [feature])) == [feature]
    assert list(features([])) == []


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (None, "features"),
        ("text", "features"),
        (b"{}", "features"),
        (7, "features"),
        ({}, "features.type"),
        ({"type": "FeatureCollection"}, "features"),
        ({"type": "FeatureCollection", "features": {}}, "features"),
        ({"type": "Topology"}, "features.type"),
        ([1], "features[0]"),
        ([POLYGON, {"lon": 1}], "features[1].type"),
    ],
)
def test_what_holds_no_features_is_named(obj: object, field: str) -> None:
    """Each wrong source is refused with its place in the list."""
    with pytest.raises(InvalidRequest) as caught:
        list(features(obj))
    assert caught.value.field == field


@pytest.mark.parametrize(("kind", "coordinates"), EVERY_TYPE.items())
def test_the_representative_point_lies_on_the_shape(kind: str, coordinates: Any) -> None:
    """Whatever the shape, its point is on it, not in a hole or beside it."""
    checked = geometry({"type": kind, "coordinates": coordinates})
    point = representative_point(checked)
    assert all(type(value) is float for value in point)
    assert shapely.distance(shapely.geometry.shape(checked), shapely.Point(point)) < 1e-12


def test_a_point_represents_itself() -> None:
    """A Point's own numbers come back, minus zero as zero."""
    assert representative_point({"type": "Point", "coordinates": [-73.99, 40.73]}) == (-73.99, 40.73)
    assert math.copysign(1, representative_point({"type": "Point", "coordinates": [-0.0, 1.0]})[0]) == 1.0
