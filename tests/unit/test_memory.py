"""The columns of a memory store stay what its places are, whatever was written in between."""

import contextlib
import random

import pytest

from mesh import geo
from mesh.errors import NotFound
from mesh.model import Count, Draft, Find, Mark, Nearest, WithinBox
from mesh.store.memory import MemoryStore


@pytest.mark.parametrize("seed", range(5))
def test_queries_see_every_write(seed: int) -> None:
    """After any mix of writes, a store answers as a new one that was given the same places."""
    rng = random.Random(seed)
    store = MemoryStore("NE")
    for step in range(3_000):
        _write(store, rng)
        if step % 100 == 0:
            _compare(store, rng)
    _compare(store, rng)


def _write(store: MemoryStore, rng: random.Random) -> None:
    place = Draft(rng.uniform(-75, -73), rng.uniform(40, 41), {"n": rng.randrange(5)}, f"p{rng.randrange(1_500)}")
    with contextlib.suppress(NotFound):
        rng.choice([
            lambda: store.upsert(place),
            lambda: store.upsert(place),
            lambda: store.update(place.id or "", {"n": rng.randrange(5)}),
            lambda: store.move(place.id or "", place.lon, place.lat, rng.random()),
            lambda: store.delete(place.id or ""),
        ])()  # fmt: skip


def _compare(store: MemoryStore, rng: random.Random) -> None:
    fresh = MemoryStore("NE")
    fresh.insert_many([Draft(p.lon, p.lat, p.properties, p.id) for p in store._places.values()])
    lon, lat = rng.uniform(-75, -73), rng.uniform(40, 41)
    near, box, find = Nearest(lon, lat, 20, where={"n": 1}), WithinBox(-75, 40, lon, lat, 2_000), Find({"n": 2}, 2_000)
    assert _ids(store.nearest(near)) == _ids(fresh.nearest(near))
    assert _ids(store.within_box(box)) == _ids(fresh.within_box(box))
    assert _ids(store.find(find)) == _ids(fresh.find(find))
    assert store.count(Count()) == fresh.count(Count())


def _ids(found: object) -> list[str]:
    return [place.id for place in found.places]


def test_a_caller_may_go_on_using_its_own_properties() -> None:
    """What is stored does not change with the caller's objects."""
    store = MemoryStore("NE")
    properties = {"deep": {"n": 1}}
    store.insert(Draft(1, 2, properties, "a"))
    properties["deep"]["n"] = 2
    assert store.get("a").properties == {"deep": {"n": 1}}


@pytest.mark.parametrize("limit", [1, 3, 10, 50])
def test_ties_are_cut_by_id_wherever_numpy_leaves_them(limit: int) -> None:
    """Many places at few positions: of those as far as the last one, the smallest ids are returned."""
    rng = random.Random(limit)
    drafts = [Draft(-73 - rng.randrange(4) / 10, 40, {}, f"p{n:03}") for n in range(400)]
    store = MemoryStore("NE")
    store.insert_many(drafts)
    wanted = sorted((geo.distance(-73.05, 40, d.lon, d.lat), d.id) for d in drafts)
    for skip in (0, 90, 250):
        found = store.nearest(Nearest(-73.05, 40, limit, after=Mark(*wanted[skip])))
        assert [(p.distance, p.id) for p in found.places] == wanted[skip + 1 : skip + 1 + limit]
