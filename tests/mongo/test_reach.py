"""Nearest through a guessed circle: cheaper, and never another answer."""

import random

import pytest

from mesh.model import Draft, Nearest
from mesh.store import mongo_reads
from mesh.store.memory import MemoryStore
from mesh.store.mongo import MongoStore
from mesh.store.reach import Reach

pytestmark = pytest.mark.mongo


def answer(store: MongoStore | MemoryStore, query: Nearest) -> tuple[list[tuple[str, float | None]], bool]:
    found = store.nearest(query)
    return [(place.id, place.distance) for place in found.places], found.more


def places(dice: random.Random, count: int, spread: float, prefix: str) -> list[Draft]:
    """Return places around (-75, 41), some of them on the same spot."""
    drafts = []
    for number in range(count):
        lon, lat = -75 + dice.gauss(0, spread), 41 + dice.gauss(0, spread)
        drafts.append(Draft(lon, lat, {"n": number}, f"{prefix}{number}"))
        if number % 20 == 0:
            drafts.append(Draft(lon, lat, {"n": number}, f"{prefix}{number}-twin"))
    return drafts


def test_guessed_circles_give_the_same_answers(mongo_store: MongoStore, monkeypatch: pytest.MonkeyPatch):
    """Whatever was learned before, and however the places changed since, each answer equals the memory store's."""
    dice, asked = random.Random(7), {"sphere": 0, "all": 0}
    by_distance = mongo_reads._by_distance

    def counting(*arguments: object):
        asked["sphere"] += 1
        return by_distance(*arguments)

    monkeypatch.setattr(mongo_reads, "_by_distance", counting)
    reference = MemoryStore(mongo_store.region)
    for round_, (count, spread) in enumerate([(600, 0.5), (1500, 0.02), (100, 3.0)]):
        drafts = places(dice, count, spread, f"r{round_}-")
        for store in (mongo_store, reference):
            store.insert_many(drafts)
        for _ in range(250):
            lon, lat = -75 + dice.gauss(0, spread), 41 + dice.gauss(0, spread)
            bound = dice.choice([None, None, 500.0, 50_000.0])
            query = Nearest(lon=lon, lat=lat, limit=dice.choice([1, 5, 10, 10, 10, 60]), max_distance=bound)
            assert answer(mongo_store, query) == answer(reference, query)
            asked["all"] += 1
        for draft in drafts[: count // 2]:
            assert draft.id
            mongo_store.delete(draft.id)
            reference.delete(draft.id)
    assert asked["sphere"] < asked["all"] * 0.7, "most answers came from a guessed circle"


def test_a_guess_follows_the_density():
    """A radius is guessed where something was learned, for as many places as are asked, and not for a country."""
    reach = Reach()
    assert reach.guess(-75, 41, 10) is None
    reach.learn(-74.95, 41.05, 10, 1000.0)
    near, far = reach.guess(-74.94, 41.06, 10), reach.guess(-74.4, 41.4, 40)
    assert near is not None
    assert far is not None
    assert 1000 < near < 2000
    assert far == pytest.approx(2 * near)
    assert reach.guess(-80, 41, 10) is None
    reach.learn(-80, 41, 10, 400_000.0)
    assert reach.guess(-80, 41, 10) is None
