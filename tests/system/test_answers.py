"""10,000 random queries through any broker of a real mesh equal brute force: ids, order, distances to 1 mm."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh import Client, Page
from mesh.local.layout import REGIONS
from mesh.local.places import us_places
from mesh.local.running import LocalMesh
from tests.system.meshes import empty
from tests.system.oracle import RADIUS_M, TIE_M, Oracle, Row

MAP = Path(__file__).parents[2] / "inventory" / "regions.geojson"
#: How many queries of each kind.
KINDS = {
    "nearest": 2_500, "within_radius": 1_500, "within_box": 1_500, "within_polygon": 1_400, "intersects": 1_100,
    "find": 500, "count": 500, "get": 600, "get_many": 400,
}  # fmt: skip
BORDER_M = 20_000.0
MOST_PAGES = 3
THREADS = 6
SEED = 20261124
DEGREE_M = np.pi / 180 * RADIUS_M

Random = np.random.Generator


# -- where the queries are ------------------------------------------------------------------------------------------


def edges() -> tuple[list[list[float]], list[list[float]]]:
    """Return the map's edges [lon, lat, lon, lat]: those two regions share, and those that are coast or frontier."""
    owners: dict[tuple[float, ...], set[str]] = {}
    for feature in json.loads(MAP.read_text())["features"]:
        for ring in itertools.chain(*feature["geometry"]["coordinates"]):
            for a, b in itertools.pairwise(ring):
                low, high = sorted([a, b])
                owners.setdefault((*low, *high), set()).add(feature["id"])
    shared = [list(edge) for edge, names in owners.items() if len(names) > 1]
    return shared, [list(edge) for edge, names in owners.items() if len(names) == 1]


def offset(lon: float, lat: float, metres: float, bearing: float) -> tuple[float, float]:
    """Return about the position so far away in a direction, on the globe."""
    north = lat + metres * np.cos(bearing) / DEGREE_M
    east = lon + metres * np.sin(bearing) / DEGREE_M / max(np.cos(np.radians(lat)), 0.01)
    return float((east + 180) % 360 - 180), float(np.clip(north, -90, 90))


def along(lines: "Lines", random: Random, reach: float) -> tuple[float, float]:
    """Return a position at most *reach* metres from an edge, longer edges more often."""
    a, b, c, d = lines.table[np.searchsorted(lines.share, random.random())]
    t = random.choice([0.0, random.random()])
    return offset(a + (c - a) * t, b + (d - b) * t, reach * random.random() ** 2, random.uniform(0, 2 * np.pi))


class Lines:
    """Edges as rows [lon, lat, lon, lat], and how much of their whole length has come by the end of each."""

    def __init__(self, lines: list[list[float]]) -> None:
        self.table = np.array(lines)
        lengths = np.hypot(self.table[:, 2] - self.table[:, 0], self.table[:, 3] - self.table[:, 1]) + 0.01
        self.share = np.cumsum(lengths) / lengths.sum() * (1 + 1e-12)


SHARED, OUTER = map(Lines, edges())


def metres_to_border(lon: float, lat: float) -> float:
    """Return roughly how far a position is from the nearest edge that two regions share."""
    table = SHARED.table
    scale = np.array([np.cos(np.radians(lat)), 1.0])
    a, b = (table[:, :2] - [lon, lat]) * scale, (table[:, 2:] - [lon, lat]) * scale
    way = b - a
    t = np.clip(-(a * way).sum(axis=1) / np.maximum((way**2).sum(axis=1), 1e-18), 0, 1)
    return float(np.linalg.norm(a + way * t[:, None], axis=1).min() * DEGREE_M)


def somewhere(random: Random, rows: list[Row], border: bool) -> tuple[float, float]:
    """Return the centre of a query: at a border, else at places, coasts, or anywhere on earth."""
    if border:
        return along(SHARED, random, BORDER_M * 0.98)
    place = rows[random.integers(len(rows))]
    dice = random.random()
    if dice < 0.25:
        return along(OUTER, random, 80_000.0)
    if dice < 0.4:
        return float(random.uniform(-180, 180)), float(np.degrees(np.arcsin(random.uniform(-1, 1))))
    if dice < 0.5:
        return place["lon"], place["lat"]
    return offset(place["lon"], place["lat"], random.exponential(20_000.0), random.uniform(0, 2 * np.pi))


# -- the places -------------------------------------------------------------------------------------------------------


def real_places() -> list[Row]:
    """Return the 21,783 places, a few of them with properties that are hard for filters."""
    random = np.random.default_rng(SEED)
    rows = []
    for draft in us_places():
        properties: Row = dict(draft.properties)
        if random.random() < 0.05:
            del properties["population"]
        if random.random() < 0.2:
            properties["tags"] = random.choice(["a", "b", "c", "d"], size=random.integers(1, 4)).tolist()
        rows.append({"id": draft.id, "lon": draft.lon, "lat": draft.lat, "properties": properties})
    return rows


def doubles(rows: list[Row], random: Random) -> list[Row]:
    """Return places that stand exactly where others do."""
    chosen = [rows[index] for index in random.integers(len(rows), size=150)]
    more = [{**row, "id": f"{row['id']}-{n}"} for row in chosen for n in range(random.integers(1, 6))]
    return [
        {**row, "properties": {"name": "double", "state": "XX"}} for row in {row["id"]: row for row in more}.values()
    ]


def at_sea(random: Random) -> list[Row]:
    """Return positions off the coasts, where regions reach farther than their polygons."""
    spots = [along(OUTER, random, 60_000.0) for _ in range(400)]
    spots += [(float(random.uniform(-179.9, -170)), float(random.uniform(51, 53))) for _ in range(40)]
    spots += [(float(random.uniform(172, 179.9)), float(random.uniform(51, 53))) for _ in range(40)]
    return [{"id": f"sea-{n}", "lon": lon, "lat": lat, "properties": {"name": "buoy", "population": n}}
            for n, (lon, lat) in enumerate(spots)]  # fmt: skip


def shapes(rows: list[Row], random: Random) -> list[Row]:
    """Return lines and areas near places and borders."""
    found = []
    for number in range(500):
        lon, lat = somewhere(random, rows, border=number % 2 == 0)
        lon, lat = float(np.clip(lon, -170, 170)), float(np.clip(lat, -80, 80))
        size = random.choice([0.02, 0.1, 0.5])
        shape = [star, line, two_stars, holed][number % 4](lon, lat, size, random)
        found.append({"id": f"shape-{number}", "geometry": shape, "properties": {"name": "shape", "state": "SH"}})
    return found


def ring(lon: float, lat: float, size: float, random: Random) -> list[list[float]]:
    """Return a closed ring around a point that never crosses itself."""
    count = int(random.integers(3, 12))
    # One vertex in each sector, none of them half the circle wide, so the centre is inside and edges never cross.
    angles = (np.arange(count) + random.uniform(0, 0.45, count)) * 2 * np.pi / count
    reach = size * random.uniform(0.4, 1.0, count)
    points = np.stack([lon + reach * np.cos(angles), lat + reach * np.sin(angles)], axis=1)
    points = np.clip(points, [-180, -90], [180, 90]).tolist()
    return [*points, points[0]]


def star(lon: float, lat: float, size: float, random: Random) -> Row:
    """Return a polygon."""
    return {"type": "Polygon", "coordinates": [ring(lon, lat, size, random)]}


def holed(lon: float, lat: float, size: float, random: Random) -> Row:
    """Return a polygon with a hole."""
    square = [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]
    outer = [[lon + size * x, lat + size * y] for x, y in square]
    return {"type": "Polygon", "coordinates": [outer, ring(lon, lat, size * 0.9, random)]}


def two_stars(lon: float, lat: float, size: float, random: Random) -> Row:
    """Return a MultiPolygon of two parts that do not touch."""
    parts = [[ring(lon - size * 1.1, lat, size, random)], holed(lon + size * 1.1, lat, size, random)["coordinates"]]
    return {"type": "MultiPolygon", "coordinates": parts}


def line(lon: float, lat: float, size: float, random: Random) -> Row:
    """Return a line."""
    steps = np.cumsum(random.normal(0, size / 2, (int(random.integers(2, 7)), 2)), axis=0)
    return {"type": "LineString", "coordinates": (np.array([lon, lat]) + steps - steps[0]).tolist()}


# -- the mesh with all of it, and the oracle --------------------------------------------------------------------------


@dataclass
class World:
    """A client of each broker, and what must come out of them."""

    clients: list[Client]
    oracle: Oracle
    borders: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture(scope="module")
def world(mesh: LocalMesh) -> Iterator[World]:
    """Store all places through one broker, then ask all five."""
    random = np.random.default_rng(SEED + 1)
    rows = real_places()
    assert len(rows) == 21_783
    extra = [*doubles(rows, random), *at_sea(random), *shapes(rows, random)]
    clients = [Client(mesh.brokers[name], timeout=30.0, cache_dir=mesh.cache) for name in REGIONS]
    stored = clients[0].insert_many(rows, timeout=120.0)
    assert not stored.errors
    more = clients[1].insert_many(extra, timeout=120.0)
    # Far out at sea, or across a border: those are refused, and nothing else is.
    assert {error.error["code"] for error in more.errors} == {"invalid_request"}
    kept = [row for row, id_ in zip(extra, more.ids, strict=True) if id_]
    for shape in [row for row in kept if "lon" not in row]:
        place = clients[2].get(shape["id"])
        shape.update(lon=place.lon, lat=place.lat)
    assert sum("geometry" in row for row in kept) > 200
    assert sum(row["id"].startswith("sea") for row in kept) > 150
    try:
        yield World(clients, Oracle([*rows, *kept]))
    finally:
        for client in clients:
            client.close()
        empty(mesh)


# -- random arguments -------------------------------------------------------------------------------------------------


def a_filter(random: Random) -> Any:
    """Return a filter, most often none."""
    state, other = random.choice(["NY", "PA", "OH", "TX", "CA", "KY", "XX", "ZZ"], size=2).tolist()
    least = int(10 ** random.uniform(2, 6))
    choices: list[Any] = [
        {"state": state},
        {"population": {"$gte": least}},
        {"population": {"$gte": least // 3, "$lt": least}},
        {"population": {"$not": {"$gt": least}}},
        {"population": {"$exists": False}},
        {"state": {"$in": [state, other]}},
        {"state": {"$nin": [state, other]}, "population": {"$lte": least}},
        {"tags": {"$in": ["a", "d"]}},
        {"tags": {"$exists": True}, "state": {"$ne": state}},
        {"$or": [{"state": state}, {"population": {"$gt": least}}]},
        {"$and": [{"tags": "b"}, {"$or": [{"state": {"$ne": other}}, {"population": {"$lt": least}}]}]},
    ]
    return choices[random.integers(len(choices))] if random.random() < 0.35 else None


def a_limit(random: Random) -> int:
    """Return the size of a page, small ones more often."""
    return int(random.choice([1, 3, 10, 25, 100, 1000], p=[0.15, 0.2, 0.37, 0.2, 0.06, 0.02]))


def a_geometry(lon: float, lat: float, random: Random) -> Row:
    """Return an area around a point; one that would cross 180 degrees or a pole is moved away."""
    size = float(random.choice([0.05, 0.3, 1.0, 4.0]))
    lon, lat = float(np.clip(lon, -165, 165)), float(np.clip(lat, -75, 75))
    make: Callable[..., Row] = [star, holed, two_stars][random.integers(3)]
    return make(lon, lat, size, random)


# -- asking, and comparing --------------------------------------------------------------------------------------------


def pages(ask: Callable[..., Page], *arguments: Any, **more: Any) -> tuple[list[Any], bool]:
    """Follow some pages; return all places, and whether that was the end."""
    found: list[Any] = []
    token = None
    for _ in range(MOST_PAGES):
        page = ask(*arguments, after=token, require_all=True, **more)
        assert not page.partial
        assert len(page) <= more["limit"]
        found += page.places
        token = page.next
        if token is None:
            return found, True
        assert len(page), "an empty page that says there is more"
    return found, False


def check_ids(found: list[Any], ended: bool, want: np.ndarray, oracle: Oracle) -> None:
    """Compare with the oracle's rows in order; all of them if it was the end, else the first."""
    expected = oracle.ids[want].tolist()
    assert [place.id for place in found] == (expected if ended else expected[: len(found)])


def check_distances(found: list[Any], ended: bool, want: np.ndarray, metres: np.ndarray, oracle: Oracle) -> None:
    """Compare ids, order and distances; two that are not at the same place may swap when 1e-6 m apart."""
    assert len(found) == len(want) or (not ended and len(found) < len(want))
    assert len({place.id for place in found}) == len(found)
    for place, row in zip(found, want, strict=False):
        got = oracle.row_of[place.id]
        assert abs(place.distance - metres[got]) < 1e-3
        if got != row:
            assert metres[got] != metres[row], "equal distances are ordered by id"
            assert abs(metres[got] - metres[row]) < TIE_M


def nearest(client: Client, oracle: Oracle, at: tuple[float, float], random: Random) -> None:
    lon, lat = at
    reach = float(10 ** random.uniform(3, 6.5)) if random.random() < 0.4 else None
    where, limit = a_filter(random), a_limit(random)
    found, ended = pages(client.nearest, lon=lon, lat=lat, max_distance=reach, where=where, limit=limit)
    check_distances(found, ended, *oracle.by_distance(lon, lat, reach, where), oracle)


def within_radius(client: Client, oracle: Oracle, at: tuple[float, float], random: Random) -> None:
    lon, lat = at
    radius, where, limit = float(10 ** random.uniform(2.5, 5.6)), a_filter(random), a_limit(random)
    found, ended = pages(client.within_radius, lon=lon, lat=lat, radius=radius, where=where, limit=limit)
    check_distances(found, ended, *oracle.by_distance(lon, lat, radius, where), oracle)


def within_box(client: Client, oracle: Oracle, at: tuple[float, float], random: Random) -> None:
    lon, lat = at
    width, height = 10 ** random.uniform(-2, 1, 2)
    box = {
        "west": (lon - width * random.random() + 180) % 360 - 180,
        "east": (lon + width * random.random() + 180) % 360 - 180,
        "south": max(lat - height * random.random(), -90.0), "north": min(lat + height * random.random(), 90.0),
    }  # fmt: skip
    if random.random() < 0.1:  # round the back of the earth: over 180 degrees
        box["west"], box["east"] = float(random.uniform(100, 180)), float(random.uniform(-180, -66))
        box["south"], box["north"] = sorted(random.uniform(15, 75, 2).tolist())
    where, limit = a_filter(random), a_limit(random)
    found, ended = pages(client.within_box, **box, where=where, limit=limit)
    check_ids(found, ended, oracle.in_box(**box, where=where), oracle)


def within_polygon(client: Client, oracle: Oracle, at: tuple[float, float], random: Random) -> None:
    area, where, limit = a_geometry(*at, random), a_filter(random), a_limit(random)
    found, ended = pages(client.within_polygon, area, where=where, limit=limit)
    check_ids(found, ended, oracle.in_area(area, where), oracle)


def intersects(client: Client, oracle: Oracle, at: tuple[float, float], random: Random) -> None:
    near = np.argsort(oracle.distances(*at))[:5]
    spots = np.stack([oracle.lons[near], oracle.lats[near]], axis=1)
    asked = [
        a_geometry(*at, random),
        line(*at, float(random.choice([0.1, 0.5, 2.0])), random),
        {"type": "LineString", "coordinates": [*np.unique(spots, axis=0).tolist(), list(at)]},
        {"type": "MultiPoint", "coordinates": [*spots.tolist(), list(at)]},
        {"type": "Point", "coordinates": spots[0].tolist()},
    ][random.choice(5, p=[0.5, 0.2, 0.1, 0.1, 0.1])]
    where, limit = a_filter(random), a_limit(random)
    found, ended = pages(client.intersects, asked, where=where, limit=limit)
    check_ids(found, ended, oracle.meeting(asked, where), oracle)


def find(client: Client, oracle: Oracle, _at: tuple[float, float], random: Random) -> None:
    where, limit = a_filter(random), a_limit(random)
    found, ended = pages(client.find, where, limit=limit)
    check_ids(found, ended, oracle.by_id(oracle.matching(where)), oracle)


def count(client: Client, oracle: Oracle, _at: tuple[float, float], random: Random) -> None:
    where = a_filter(random)
    assert client.count(where) == int(oracle.matching(where).sum())


def get(client: Client, oracle: Oracle, at: tuple[float, float], random: Random) -> None:
    row = int(np.argmin(oracle.distances(*at)))
    wanted, place = oracle.rows[row], client.get(oracle.rows[row]["id"])
    assert (place.id, place.lon, place.lat) == (wanted["id"], wanted["lon"], wanted["lat"])
    assert place.properties == wanted["properties"]
    assert place.shape == wanted.get("geometry")


def get_many(client: Client, oracle: Oracle, at: tuple[float, float], random: Random) -> None:
    near = np.argsort(oracle.distances(*at))[: random.integers(1, 60)]
    asked = [*oracle.ids[random.permutation(near)].tolist(), "no such place", "ne:none"]
    found = client.get_many(asked, require_all=True)
    assert [place.id for place in found] == asked[:-2]


ASK: dict[str, Callable[[Client, Oracle, tuple[float, float], Random], None]] = {
    each.__name__: each
    for each in (nearest, within_radius, within_box, within_polygon, intersects, find, count, get, get_many)
}


def spots(kind: str, rows: list[Row]) -> list[tuple[float, float]]:
    """Return where the queries of a kind are: a little more than half of them at borders, since some have no place."""
    random = np.random.default_rng([SEED, *kind.encode()])
    return [somewhere(random, rows, border=n % 9 < 5) for n in range(KINDS[kind])]


# -- the tests --------------------------------------------------------------------------------------------------------


def test_there_are_ten_thousand_and_half_of_them_are_at_borders():
    """What the queries below add up to."""
    rows = real_places()
    assert sum(KINDS.values()) == 10_000
    assert set(KINDS) == set(ASK)
    placed = [spot for kind in KINDS if kind not in {"find", "count"} for spot in spots(kind, rows)]
    assert sum(metres_to_border(*spot) <= BORDER_M for spot in placed) >= 5_000
    us = [(-170.0, 15.0, -60.0, 75.0)]
    assert sum(not (w <= lon <= e and s <= lat <= n) for lon, lat in placed for w, s, e, n in us) > 300


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_brute_force(world: World, kind: str):
    """Through whichever broker, the mesh finds what going through all places finds."""
    here = spots(kind, world.oracle.rows[:21_783])

    def one(number: int) -> str | None:
        random = np.random.default_rng([SEED, number, *kind.encode()])
        try:
            ASK[kind](world.clients[number % len(REGIONS)], world.oracle, here[number], random)
        except Exception as error:  # noqa: BLE001 - all failures are wanted, with what was asked
            return f"{kind} {number} at {here[number]} through {REGIONS[number % 5]}: {error!r:.600}"
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(one, range(KINDS[kind])))
    wrong = [outcome for outcome in outcomes if outcome]
    assert len(outcomes) == KINDS[kind]
    assert not wrong, f"{len(wrong)} wrong answers, the first of them:\n" + "\n".join(wrong[:5])
