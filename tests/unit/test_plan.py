"""Planners against brute force: an in-process mesh of one store for each region, and no IO."""

import json
import math
import random
from functools import cache
from typing import Any

import pytest
import shapely
from shapely.geometry import shape

from mesh.client import plan, writing
from mesh.core.refused import StaleMap
from mesh.errors import NotFound, RegionUnavailable
from mesh.geo import distance
from mesh.model import (
    Count,
    Draft,
    Find,
    GetMany,
    Intersects,
    Nearest,
    Page,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from tests.unit.in_process import FILE, LOS_ANGELES, NEW_YORK, Mesh, the_map


@cache
def border_points() -> list[tuple[float, float]]:
    """Positions on borders that two regions share: where wrong plans show."""
    polygons = [shape(feature["geometry"]) for feature in json.loads(FILE.read_bytes())["features"]]
    shared = [
        shapely.get_coordinates(shapely.intersection(a, b)) for i, a in enumerate(polygons) for b in polygons[i + 1 :]
    ]
    return [(float(x), float(y)) for part in shared for x, y in part]


def positions(count: int, seed: int) -> list[tuple[float, float]]:
    """Half within some 20 km of a border, half anywhere in or around the lower 48 states."""
    dice, near = random.Random(seed), border_points()
    result = []
    for index in range(count):
        if index % 2:
            lon, lat = dice.choice(near)
            result.append((lon + dice.gauss(0, 0.1), lat + dice.gauss(0, 0.1)))
        else:
            result.append((dice.uniform(-126, -66), dice.uniform(23, 50)))
    return result


@cache
def country() -> Mesh:
    """3,000 places, half of them in border strips; some share a position, so that distances tie."""
    drafts = []
    for index, (lon, lat) in enumerate(positions(6_000, seed=1)):
        if the_map().region_of(lon, lat) is not None:
            drafts.append(Draft(lon, lat, {"kind": index % 5}, id=f"p{index:05}"))
            if index % 20 == 0:
                drafts.append(Draft(lon, lat, {"kind": 1}, id=f"q{index:05}"))
    return Mesh(drafts)


def by_distance(lon: float, lat: float, reach: float = math.inf) -> list[tuple[str, float]]:
    all_of_them = sorted((distance(lon, lat, place.lon, place.lat), place.id) for place in country().places)
    return [(name, metres) for metres, name in all_of_them if metres <= reach]


def ids_and_distances(page: Page) -> list[tuple[str, float]]:
    return [(place.id, place.distance or 0.0) for place in page]


# -- against brute force ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 10, 100])
def test_nearest_equals_brute_force_on_border_strips_and_everywhere_else(limit: int) -> None:
    """The merged answer is the one that a single store of all places would give, in ids, order and distances."""
    for lon, lat in positions(100, seed=limit):
        page = country().query(Nearest(lon, lat, limit))
        assert ids_and_distances(page) == by_distance(lon, lat)[:limit], (lon, lat)


def test_nearest_keeps_to_the_maximal_distance() -> None:
    """Nothing beyond `max_distance` is found, and nothing within it is missed."""
    for lon, lat in positions(100, seed=7):
        page = country().query(Nearest(lon, lat, 1000, max_distance=60_000.0))
        assert ids_and_distances(page) == by_distance(lon, lat, 60_000.0)
        assert page.next is None


def test_pages_follow_each_other_without_repeats_and_gaps() -> None:
    """Page after page gives what one large page gives."""
    for lon, lat in positions(12, seed=3):
        query: Any = Nearest(lon, lat, 7, max_distance=250_000.0)
        seen, token = [], None
        for _ in range(500):
            page = country().query(plan.after(query, token))
            seen += ids_and_distances(page)
            token = page.next
            if token is None:
                break
        assert seen == by_distance(lon, lat, 250_000.0)


def test_radius_equals_brute_force() -> None:
    """Every region that the circle touches is asked."""
    for lon, lat in positions(100, seed=4):
        page = country().query(WithinRadius(lon, lat, 80_000.0, 1000))
        assert ids_and_distances(page) == by_distance(lon, lat, 80_000.0)


def test_boxes_and_polygons_equal_brute_force() -> None:
    """A box and its polygon find the same places, ordered by id."""
    for lon, lat in positions(60, seed=5):
        west, south, east, north = lon - 1, lat - 0.7, lon + 1, lat + 0.7
        expected = sorted(p.id for p in country().places if west <= p.lon <= east and south <= p.lat <= north)
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        area = {"type": "Polygon", "coordinates": [ring]}
        assert [p.id for p in country().query(WithinBox(west, south, east, north, 1000))] == expected
        assert [p.id for p in country().query(WithinPolygon(area, 1000))] == expected
        assert [p.id for p in country().query(Intersects(area, 1000))] == expected


def test_find_and_count_ask_all_regions() -> None:
    """A filter on properties knows no region."""
    expected = sorted(p.id for p in country().places if p.properties["kind"] == 3)
    page = country().query(Find({"kind": 3}, 1000))
    assert [p.id for p in page] == expected[:1000]
    assert set(page.asked_regions) == set(the_map().names)
    assert country().run(plan.count(Count({"kind": 3}), the_map())) == len(expected)


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_nearest_far_from_borders_asks_one_region_once() -> None:
    """The common case costs one message."""
    country().query(Nearest(*LOS_ANGELES, 10))
    assert country().asked == [["ca"]]


def test_nearest_at_a_border_asks_both_sides_at_once() -> None:
    """Near a border the second round trip is saved."""
    lon, lat = border_points()[len(border_points()) // 2]
    country().query(Nearest(lon, lat, 1))
    assert len(country().asked[0]) >= 2


def test_places_outside_all_regions_ask_the_nearest_region() -> None:
    """A question from the Atlantic has an answer, too."""
    page = country().query(Nearest(-40.0, 40.0, 1))
    assert ids_and_distances(page) == by_distance(-40.0, 40.0)[:1]


def test_a_circle_in_the_ocean_asks_nobody() -> None:
    """What no region can hold is answered without a message."""
    page = country().query(WithinRadius(-40.0, 40.0, 1000.0, 10))
    assert (page.places, page.next, page.asked_regions) == ([], None, ())


# -- regions that are down --------------------------------------------------------------------------------------------


@pytest.fixture
def mesh() -> Mesh:
    return Mesh([Draft(*NEW_YORK, {"n": 1}, "ny"), Draft(*LOS_ANGELES, {"n": 2}, "la")])


def test_a_region_that_is_down_makes_the_answer_partial(mesh: Mesh) -> None:
    """The answer says which region it lacks."""
    mesh.down = {"ca"}
    page = mesh.query(Find())
    assert ([p.id for p in page], page.partial, page.failed_regions) == (["ny"], True, ("ca",))


def test_require_all_raises_instead(mesh: Mesh) -> None:
    """Who wants all or nothing gets nothing, and the region's error."""
    mesh.down = {"ca"}
    with pytest.raises(RegionUnavailable, match="ca is down"):
        mesh.query(Find(), require_all=True)


def test_when_all_regions_are_down_the_error_is_raised(mesh: Mesh) -> None:
    """An empty page would be a lie."""
    mesh.down = set(the_map().names)
    with pytest.raises(RegionUnavailable):
        mesh.query(Find())


def test_a_count_without_a_region_is_no_count(mesh: Mesh) -> None:
    """A wrong number is worse than an error."""
    mesh.down = {"ca"}
    with pytest.raises(RegionUnavailable):
        mesh.run(plan.count(Count(), the_map()))


def test_a_neighbour_the_answer_did_not_need_has_not_failed_it() -> None:
    """Asked only because it is near, down, and farther than the answers: the page is whole."""
    lon, lat = next(p for p in border_points() if {"ne", "south"} <= set(the_map().regions_in_circle(*p, 100.0)))
    inside = next(
        (lon + dx, lat + dy)
        for dx in (0, 0.05, -0.05)
        for dy in (0.05, -0.05)
        if the_map().region_of(lon + dx, lat + dy) == "ne"
        and the_map().lower_bound("south", lon + dx, lat + dy) > 100.0
    )
    mesh = Mesh([Draft(*inside, {}, "here")])
    mesh.down = {"south"}
    page = mesh.query(Nearest(*inside, 1))
    assert [p.id for p in page] == ["here"]
    assert not page.partial
    assert mesh.query(Nearest(*inside, 2)).failed_regions == ("south",)


def test_a_stale_map_is_not_a_region_that_failed(mesh: Mesh) -> None:
    """The client must plan anew, not shrug."""
    planner = plan.query(Find(), the_map(), require_all=False)
    asks = next(planner)
    with pytest.raises(StaleMap):
        planner.send([StaleMap("redrawn") for _ in asks])


# -- by id ------------------------------------------------------------------------------------------------------------


def test_an_id_that_names_its_region_costs_one_message(mesh: Mesh) -> None:
    """`ne:...` is looked for in NE first, elsewhere only if it is not there, and everywhere again before giving up."""
    place = mesh.run(writing.insert(Draft(*NEW_YORK), the_map()))
    assert place.id.startswith("ne:")
    assert mesh.run(plan.get(place.id, the_map())).id == place.id
    assert mesh.asked == [["ne"]]
    with pytest.raises(NotFound):
        mesh.run(plan.get("ne:gone", the_map()))
    assert [len(batch) for batch in mesh.asked] == [1, 4, 5]


def test_not_found_is_only_said_when_every_region_said_so(mesh: Mesh) -> None:
    """A region that is down may hold it."""
    mesh.down = {"mw"}
    assert mesh.run(plan.get("la", the_map())).region == "ca"
    with pytest.raises(RegionUnavailable):
        mesh.run(plan.get("nobody", the_map()))


def test_get_many_keeps_the_order_asked(mesh: Mesh) -> None:
    """Ids of all kinds come back in the order asked, those that do not exist left out."""
    own = mesh.run(writing.insert(Draft(*LOS_ANGELES), the_map())).id
    ids = GetMany([own, "nobody", "ny", "ne:nobody", "la"]).ids
    page = mesh.run(plan.get_many(ids, the_map(), require_all=True))
    assert [p.id for p in page] == [own, "ny", "la"]
