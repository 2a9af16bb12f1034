"""Writes through any broker into real MongoDBs: each place in the region that owns it, once, and never half."""

import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mesh import Client, Place
from mesh.errors import Conflict, InvalidRequest, NotFound
from mesh.local.layout import REGIONS
from mesh.local.running import LocalMesh
from mesh.local.stores import opened
from mesh.model import Count, Find, WithinBox
from tests.system.meshes import empty
from tests.system.raw import Stranger

pytestmark = pytest.mark.timeout(120)

#: A position in each region.
HOMES = {
    "ne": (-74.006, 40.7143), "south": (-84.388, 33.749), "mw": (-87.65, 41.85), "sw": (-97.743, 30.267),
    "ca": (-118.2437, 34.0522),
}  # fmt: skip
#: A ring of a tenth of a degree in New York state, and one in Texas.
FIELD = {
    "type": "Polygon",
    "coordinates": [[[-74.9, 42.5], [-74.8, 42.5], [-74.8, 42.6], [-74.9, 42.6], [-74.9, 42.5]]],
}
RANCH = {
    "type": "Polygon",
    "coordinates": [[[-99.9, 31.5], [-99.8, 31.5], [-99.8, 31.6], [-99.9, 31.6], [-99.9, 31.5]]],
}


@pytest.fixture
def clients(mesh: LocalMesh) -> Iterator[dict[str, Client]]:
    """Return a client of each broker of a mesh that is empty before and after."""
    assert not any(mesh.counts().values())
    opened_now = {name: Client(mesh.brokers[name], timeout=20.0, cache_dir=mesh.cache) for name in REGIONS}
    yield opened_now
    for client in opened_now.values():
        client.close()
    empty(mesh)


def held(mesh: LocalMesh, id_: str) -> dict[str, Place]:
    """Return the copies of a place, by the shard that holds each, read past the brokers."""
    copies = {}
    for region, shard in mesh.shards.items():
        with opened(region, shard.uri) as store:
            for place in store.get_many([id_]):
                copies[region] = place
    return copies


def row(region: str, **more: Any) -> dict[str, Any]:
    """Return a place in a region."""
    lon, lat = HOMES[region]
    return {"id": f"in {region}", "lon": lon, "lat": lat, "properties": {"home": region}} | more


@pytest.mark.parametrize("broker", REGIONS)
def test_a_place_is_stored_where_it_belongs_through_any_broker(
    mesh: LocalMesh, clients: dict[str, Client], broker: str
):
    """One copy, in its own region's shard, with version 1, and an id with the region's name if none was given."""
    for region in REGIONS:
        stored = clients[broker].insert(row(region))
        assert (stored.region, stored.version) == (region, 1)
        assert held(mesh, stored.id) == {region: stored}
        assert clients[broker].insert(row(region, id=None)).id.startswith(f"{region}:")
    assert mesh.counts() == dict.fromkeys(REGIONS, 2)


@pytest.mark.parametrize("operation", ["insert", "upsert", "insert_many"])
@pytest.mark.parametrize("target", ["south", "ca"])
def test_a_worker_refuses_what_is_anothers(mesh: LocalMesh, clients: dict[str, Client], operation: str, target: str):
    """A raw write to the wrong region is refused with the right one, and stored nowhere."""
    draft = [*HOMES["ne"], {}, "stray"]
    fields = {"op": operation, **({"places": [draft]} if operation == "insert_many" else {"place": draft})}
    with Stranger(mesh.brokers["mw"]).hello() as stranger:
        if operation == "insert_many":
            answer = stranger.reply(target, msgspec.msgpack.encode(fields))
            assert answer["ids"] == [None]
            error = answer["errors"][0]["error"]
        else:
            error = stranger.error(target, msgspec.msgpack.encode(fields))
    assert (error["code"], error["region"], error["hint"]) == ("wrong_region", "ne", "write it to ne")
    assert held(mesh, "stray") == {}


def test_a_raw_move_out_of_the_region_is_refused(mesh: LocalMesh, clients: dict[str, Client]):
    """The worker names the region to move it to, and the place stays."""
    stored = clients["ne"].insert(row("ne", id="truck"))
    lon, lat = HOMES["sw"]
    move = msgspec.msgpack.encode({"op": "move", "id": "truck", "lon": lon, "lat": lat, "timestamp": 5.0})
    with Stranger(mesh.brokers["ne"]).hello() as stranger:
        error = stranger.error("ne", move)
    assert (error["code"], error["region"]) == ("wrong_region", "sw")
    assert held(mesh, "truck") == {"ne": stored}


def test_a_place_outside_every_region_is_refused_with_a_hint(mesh: LocalMesh, clients: dict[str, Client]):
    """Paris is outside; New York with its numbers swapped is recognised as such."""
    with pytest.raises(InvalidRequest, match="in no region") as caught:
        clients["ne"].insert({"lon": 2.35, "lat": 48.86})
    assert caught.value.field == "lon"
    lon, lat = HOMES["ne"]
    with pytest.raises(InvalidRequest, match=r"did you swap lon and lat\? lon=-74.006, lat=40.7143 lies in region ne"):
        clients["ca"].upsert({"lon": lat, "lat": lon})
    stored = clients["ne"].insert(row("ne"))
    with pytest.raises(InvalidRequest, match="in no region"):
        clients["ne"].move(stored.id, lon=2.35, lat=48.86)
    assert sum(mesh.counts().values()) == 1


def test_upsert_update_and_delete_find_the_place_wherever_it_is(mesh: LocalMesh, clients: dict[str, Client]):
    """Through brokers of other regions; versions grow by one, and null removes a property."""
    for region, other in zip(REGIONS, REGIONS[1:] + REGIONS[:1], strict=True):
        client = clients[other]
        assert client.upsert(row(region)).version == 1
        assert client.upsert(row(region, properties={"a": 1, "b": 2})).version == 2
        updated = client.update(f"in {region}", {"a": None, "c": {"d": 3}})
        assert (updated.version, updated.properties) == (3, {"b": 2, "c": {"d": 3}})
        assert held(mesh, updated.id) == {region: updated}
        with pytest.raises(Conflict):
            client.insert(row(region))
        client.delete(updated.id)
        for again in (client.get, client.delete, lambda id_, asking=client: asking.update(id_, {})):
            with pytest.raises(NotFound):
                again(updated.id)


def test_a_move_across_borders_leaves_one_copy_and_a_growing_version(mesh: LocalMesh, clients: dict[str, Client]):
    """Round the country through every broker: properties go along, and an older measurement changes nothing."""
    place = clients["ne"].insert(row("ne", id="truck"))
    stops = [(region, time) for time, region in enumerate(["south", "mw", "ca", "sw", "ne", "ne"], start=100)]
    for (region, time), client in zip(stops, itertools.cycle(clients.values()), strict=False):
        lon, lat = HOMES[region]
        moved = client.move("truck", lon=lon, lat=lat, timestamp=float(time))
        assert (moved.region, moved.timestamp, moved.properties) == (region, float(time), place.properties)
        assert moved.version == place.version + 1
        assert held(mesh, "truck") == {region: moved}
        for other in clients.values():
            late = other.move("truck", lon=HOMES["ca"][0], lat=HOMES["ca"][1], timestamp=99.0)
            assert (late.region, late.version) == (region, moved.version)
        place = moved


def test_a_place_on_the_move_is_always_there(mesh: LocalMesh, clients: dict[str, Client]):
    """Whoever reads while it goes to and fro across a border finds it, once, and never an older state than before."""
    clients["ne"].insert(row("ne", id="truck"))
    done = threading.Event()

    def travel() -> None:
        for time in range(1, 41):
            lon, lat = HOMES["south" if time % 2 else "ne"]
            clients["ne"].move("truck", lon=lon, lat=lat, timestamp=float(time))
        done.set()

    traveller = threading.Thread(target=travel)
    traveller.start()
    seen: list[float] = []
    try:
        while not done.is_set():
            seen.append(clients["mw"].get("truck").timestamp or 0.0)
            listed = clients["sw"].find("home=ne", require_all=True)
            assert len(listed) <= 1
    finally:
        traveller.join()
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert list(held(mesh, "truck")) == ["ne"]


def test_rows_that_fail_are_named_by_their_index(mesh: LocalMesh, clients: dict[str, Client]):
    """Of 3,000 rows for five regions some are wrong: the others are stored, and each error is the row's own."""
    rows: list[Any] = [row(REGIONS[n % 5], id=f"row-{n}") for n in range(3_000)]
    rows[7] = {"lon": 0.0, "lat": 0.0}
    rows[1_500] = rows[1] | {"id": "row-1"}
    rows[2_001] = {"lon": math.nan, "lat": 1.0}
    rows[2_999] = {"type": "Feature", "geometry": None}
    stored = clients["mw"].insert_many(rows)
    assert [(error.row, error.error["code"]) for error in stored.errors] == [
        (7, "invalid_request"), (1_500, "conflict"), (2_001, "invalid_request"), (2_999, "invalid_request"),
    ]  # fmt: skip
    assert [n for n, id_ in enumerate(stored.ids) if id_ is None] == [7, 1_500, 2_001, 2_999]
    assert sum(mesh.counts().values()) == clients["ca"].count() == 2_996


def test_a_place_with_a_shape_is_stored_whole(mesh: LocalMesh, clients: dict[str, Client]):
    """Its position lies on it, its geometry comes back as given, and intersects finds it where its position is not."""
    stored = clients["ca"].insert({"id": "field", "geometry": FIELD, "properties": {"crop": "maize"}})
    assert (stored.region, stored.shape, stored.geometry) == ("ne", FIELD, FIELD)
    assert held(mesh, "field") == {"ne": stored}
    corner = {"type": "LineString", "coordinates": [[-74.95, 42.55], [-74.85, 42.45]]}
    assert [place.id for place in clients["sw"].intersects(corner)] == ["field"]
    with pytest.raises(InvalidRequest, match="reaches into"):
        clients["ne"].insert({"geometry": {"type": "LineString", "coordinates": [HOMES["ne"], HOMES["ca"]]}})
    with pytest.raises(InvalidRequest, match="does not lie on the geometry"):
        clients["ne"].insert({"geometry": FIELD, "lon": -74.0, "lat": 40.7})


@pytest.mark.parametrize("goal", ["ne", "sw"])
def test_a_move_never_parts_a_place_from_its_shape(mesh: LocalMesh, clients: dict[str, Client], goal: str):
    """Refused, with what to do instead; nothing changed; and the upsert it advises works, even into another region."""
    stored = clients["ne"].insert({"id": "field", "geometry": FIELD})
    lon, lat = HOMES[goal]
    with pytest.raises(InvalidRequest, match="upsert it with its new geometry"):
        clients["ca"].move("field", lon=lon, lat=lat)
    move = msgspec.msgpack.encode({"op": "move", "id": "field", "lon": -74.85, "lat": 42.55, "timestamp": 9e9})
    with Stranger(mesh.brokers["ne"]).hello() as stranger:
        assert stranger.error("ne", move)["hint"] == "upsert it with its new geometry"
    assert held(mesh, "field") == {"ne": stored}
    assert clients["ne"].upsert({"id": "field", "geometry": FIELD}).version == 2


def test_an_upsert_of_an_id_with_another_regions_name_takes_it_along(mesh: LocalMesh, clients: dict[str, Client]):
    """`ne:...` upserted with a geometry in Texas is there afterwards, and only there."""
    stored = clients["ne"].insert({"geometry": FIELD})
    assert stored.id.startswith("ne:")
    clients["mw"].upsert({"id": stored.id, "geometry": RANCH})
    assert list(held(mesh, stored.id)) == ["sw"]
    assert clients["ca"].get(stored.id).shape == RANCH


def test_the_shards_hold_only_what_is_theirs(mesh: LocalMesh, clients: dict[str, Client]):
    """After many writes through all brokers at once, each shard's places are those of its own region."""
    rows = [row(REGIONS[n % 5], id=f"many-{n}", properties={"n": n}) for n in range(500)]

    def store(client: Client, some: list[Any]) -> None:
        assert not client.upsert_many(some).errors

    threads = [threading.Thread(target=store, args=(client, rows[n::5])) for n, client in enumerate(clients.values())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for region, shard in mesh.shards.items():
        with opened(region, shard.uri) as local:
            assert local.count(Count()) == 100
            lon, lat = HOMES[region]
            near = WithinBox(lon - 1, lat - 1, lon + 1, lat + 1, 1000)
            assert local.within_box(near).places == local.find(Find(limit=1000)).places
