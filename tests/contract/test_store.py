"""Every store keeps the contract, and all of them give the same answers as a brute force over all places."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shapely
from shapely.geometry import shape as to_shape

from mesh import geo
from mesh.model import Count, Draft, Find, Intersects, Nearest, Place, WithinBox, WithinPolygon, WithinRadius
from mesh.store.base import Store
from mesh.store.memory import MemoryStore
from mesh.store.mongo import MongoStore
from mesh.store.served import ServedStore, serving
from mesh.testing.store_contract import StoreContract, pages
from mesh.where import matches


class TestMemoryStore(StoreContract):
    """In this process."""

    @pytest.fixture
    def store(self) -> Store:
        """Return an empty store."""
        return MemoryStore("NE")


class TestServedStore(StoreContract):
    """In memory, through a unix socket."""

    @pytest.fixture
    def store(self, socket_path: Path) -> Iterator[Store]:
        """Return an empty store."""
        with serving(MemoryStore("NE"), socket_path):
            store = ServedStore(socket_path, "NE")
            yield store
            store.close()


@pytest.mark.mongo
class TestMongoStore(StoreContract):
    """In a real mongod."""

    @pytest.fixture
    def store(self, mongo_store: MongoStore) -> Store:
        """Return an empty store."""
        return mongo_store


# -- the same answers everywhere --------------------------------------------------------------------------------------

_FILTERS: list[dict[str, Any] | None] = [
    None,
    {"kind": "zip"},
    {"kind": "rare"},
    {"kind": {"$ne": "zip"}},
    {"population": {"$gte": 500, "$lt": 900}},
    {"$or": [{"kind": "none"}, {"tags": "a"}]},
]


def _drafts(rng: random.Random) -> list[Draft]:
    spots = [(rng.uniform(-180, 180), rng.uniform(-90, 90)) for _ in range(300)]
    spots += [(rng.uniform(-80, -70), rng.uniform(38, 44)) for _ in range(1_000)]
    spots += [(rng.choice([-180.0, 180.0, 179.9999, -179.9999]), rng.uniform(-20, 20)) for _ in range(100)]
    spots += [(rng.uniform(-180, 180), rng.choice([-90.0, 90.0, 89.9999])) for _ in range(50)]
    spots += [(float(rng.randint(-76, -72)), float(rng.randint(39, 42))) for _ in range(250)]
    spots += rng.choices(spots, k=300)
    drafts = [Draft(lon, lat, _properties(rng), f"p{n:04}") for n, (lon, lat) in enumerate(spots)]
    lines = [[[lon, lat], [max(lon - 1.5, -180.0), min(lat + 1, 90.0)]] for lon, lat in spots[300:360]]
    return [
        msgspec.structs.replace(draft, shape={"type": "LineString", "coordinates": lines[n - 300]})
        if 300 <= n < 360
        else draft
        for n, draft in enumerate(drafts)
    ]


def _properties(rng: random.Random) -> dict[str, Any]:
    properties: dict[str, Any] = {"kind": rng.choices(["zip", "city", "rare"], [60, 39, 1])[0]}
    if rng.random() < 0.8:
        properties["population"] = rng.randrange(1_000)
    if rng.random() < 0.2:
        properties["tags"] = rng.sample(["a", "b", "c"], 2)
    return properties


@pytest.fixture(scope="module")
def drafts() -> list[Draft]:
    return _drafts(random.Random(20))


@pytest.fixture(scope="module", params=["memory", "served", pytest.param("mongo", marks=pytest.mark.mongo)])
def loaded(
    request: pytest.FixtureRequest, drafts: list[Draft], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    if request.param == "mongo":
        store = MongoStore(request.getfixturevalue("mongod").uri, "NE", "compared")
        store.ensure_indexes()
        assert not store.insert_many(drafts).errors
        yield store
        store.close()
        return
    memory = MemoryStore("NE")
    memory.insert_many(drafts)
    if request.param == "memory":
        yield memory
        return
    path = tmp_path_factory.mktemp("s") / "s"
    with serving(memory, path):
        served = ServedStore(path, "NE")
        yield served
        served.close()


def _by_distance(drafts: list[Draft], query: Any, reach: float) -> list[tuple[str, float]]:
    test = matches(query.where)
    hits = [(geo.distance(query.lon, query.lat, d.lon, d.lat), d.id or "") for d in drafts if test(d.properties)]
    return [(id_, distance) for distance, id_ in sorted(hits) if distance <= reach]


def _by_id(drafts: list[Draft], query: Any, inside: Any) -> list[str]:
    test = matches(query.where)
    return sorted(d.id or "" for d in drafts if test(d.properties) and inside(d))


def _in_box(query: WithinBox, draft: Draft) -> bool:
    if query.west <= query.east:
        across = query.west <= draft.lon <= query.east
    else:
        across = draft.lon >= query.west or draft.lon <= query.east
    return across and query.south <= draft.lat <= query.north


def _centres(rng: random.Random) -> list[tuple[float, float]]:
    fixed = [(-74.0, 40.0), (180.0, 0.0), (-179.99995, 1.0), (0.0, 90.0), (12.0, -90.0)]
    return [*fixed, *((rng.uniform(-80, -70), rng.uniform(38, 44)) for _ in range(3))]


@pytest.mark.parametrize("where", _FILTERS, ids=str)
def test_nearest_is_the_brute_force(loaded: Store, drafts: list[Draft], where: Any) -> None:
    """Every page size and filter gives the same places in the same order with the same distances."""
    rng = random.Random(1)
    for lon, lat in _centres(rng):
        query = Nearest(lon, lat, rng.choice([1, 10, 60]), rng.choice([None, 1e5, 3e6]), where)
        wanted = _by_distance(drafts, query, query.max_distance or 1e9)
        first = loaded.nearest(query)
        assert [(place.id, place.distance) for place in first.places] == wanted[: query.limit]
        assert first.more == (len(wanted) > query.limit)
    everything = pages(loaded.nearest, Nearest(-74.0, 40.0, 300, where=where))
    assert [(p.id, p.distance) for p in everything] == _by_distance(drafts, Nearest(-74.0, 40.0, where=where), 1e9)


@pytest.mark.parametrize("where", _FILTERS, ids=str)
def test_within_radius_is_the_brute_force(loaded: Store, drafts: list[Draft], where: Any) -> None:
    """All pages together are exactly the places within the radius, nearest first."""
    rng = random.Random(2)
    for lon, lat in _centres(rng):
        query = WithinRadius(lon, lat, rng.choice([1.0, 5e4, 2e5]), rng.choice([13, 50]), where)
        found = pages(loaded.within_radius, query)
        assert [(place.id, place.distance) for place in found] == _by_distance(drafts, query, query.radius)


@pytest.mark.parametrize("where", _FILTERS, ids=str)
def test_within_box_is_the_brute_force(loaded: Store, drafts: list[Draft], where: Any) -> None:
    """Boxes with places on their edges, across the antimeridian, at the poles, and around the whole earth."""
    for west, south, east, north in [
        (-76, 39, -72, 42), (-74, 40, -74, 40), (179, -20, -179, 20), (-180, 80, 180, 90), (-180, -90, 180, 90),
        (180, -5, -180, 5), (-75.5, 38.2, -71.3, 41.7),
    ]:  # fmt: skip
        query = WithinBox(west, south, east, north, 90, where)
        found = [place.id for place in pages(loaded.within_box, query)]
        assert found == _by_id(drafts, query, lambda d, query=query: _in_box(query, d))


_AREAS: list[dict[str, Any]] = [
    {"type": "Polygon", "coordinates": [[[-76, 39], [-72, 39], [-74, 43], [-76, 39]]]},
    {"type": "Polygon", "coordinates": [
        [[-78, 38], [-70, 38], [-70, 44], [-78, 44], [-78, 38]],
        [[-75, 40], [-73, 40], [-73, 41], [-75, 41], [-75, 40]]]},
    {"type": "MultiPolygon", "coordinates": [
        [[[170, -30], [180, -30], [180, 30], [170, 30], [170, -30]]],
        [[[-180, -30], [-170, -30], [-170, 30], [-180, 30], [-180, -30]]]]},
    {"type": "Polygon", "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]},
]  # fmt: skip


@pytest.mark.parametrize("area", _AREAS, ids=["triangle", "hole", "antimeridian", "earth"])
@pytest.mark.parametrize("where", [_FILTERS[0], _FILTERS[1], _FILTERS[5]], ids=str)
def test_areas_are_the_brute_force(loaded: Store, drafts: list[Draft], area: Any, where: Any) -> None:
    """Positions in an area, and geometries that touch it, edges and holes included."""
    built = to_shape(area)
    within, touching = WithinPolygon(area, 70, where), Intersects(area, 70, where)
    assert [p.id for p in pages(loaded.within_polygon, within)] == _by_id(
        drafts, within, lambda d: shapely.intersects(built, shapely.Point(d.lon, d.lat))
    )
    assert [p.id for p in pages(loaded.intersects, touching)] == _by_id(
        drafts,
        touching,
        lambda d: shapely.intersects(built, to_shape(d.shape) if d.shape else shapely.Point(d.lon, d.lat)),
    )


@pytest.mark.parametrize("where", _FILTERS, ids=str)
def test_find_and_count_are_the_brute_force(loaded: Store, drafts: list[Draft], where: Any) -> None:
    """Filters alone, by pages and as a number."""
    wanted = _by_id(drafts, Find(where), lambda _: True)
    found: list[Place] = pages(loaded.find, Find(where, 333))
    assert [place.id for place in found] == wanted
    assert loaded.count(Count(where)) == len(wanted)
