"""Indexes and validation rules of a real collection."""

from typing import Any

import pytest
from pymongo.errors import WriteError

from mesh.store.indexes import DESIRED, compare, ensure
from mesh.store.mongo import MongoStore
from mesh.store.mongod import Mongod

pytestmark = pytest.mark.mongo


@pytest.fixture
def places(mongod: Mongod, request: pytest.FixtureRequest) -> Any:
    store = MongoStore(mongod.uri, "NE", f"indexes_{abs(hash(request.node.name)) % 10**8}")
    yield store._collection()
    store._collection().database.client.drop_database(store._collection().database.name)
    store.close()


def test_an_empty_database_misses_everything_and_gets_it(places: Any) -> None:
    """After one run all is fine, and the names are the ones MongoDB would give."""
    before = ensure(places)
    assert before.missing == [index.name for index in DESIRED]
    assert not before.validator
    assert compare(places).fine
    assert sorted(index["name"] for index in places.list_indexes() if index["name"] != "_id_") == sorted(
        index.name for index in DESIRED
    )
    assert ensure(places) == compare(places)


def test_extra_indexes_are_named_and_stay(places: Any) -> None:
    """An operator's own index is none of our business."""
    places.create_index("props.mine", name="mine")
    assert ensure(places).extra == ["mine"]
    assert "mine" in places.index_information()
    assert compare(places).fine


def test_an_index_with_other_options_is_named_and_stays(places: Any) -> None:
    """It may take hours to rebuild, so a person decides."""
    places.create_index([("loc.coordinates", "2d")], name="other")
    places.create_index([("bbox.0", 1), ("bbox.2", 1), ("bbox.1", 1), ("bbox.3", 1)], name="full")
    before = ensure(places)
    assert before.different == ["bbox.0_1_bbox.2_1_bbox.1_1_bbox.3_1"]
    assert not compare(places).fine
    assert "loc.coordinates_2d" not in before.missing


@pytest.mark.parametrize(
    "change",
    [
        {"loc": None}, {"loc": [10.0, 20.0]}, {"loc": {"lng": 10.0, "lat": 20.0}}, {"_id": 5}, {"v": 0}, {"more": 1},
        {"loc": {"type": "Point", "coordinates": [10.0, 20.0, 5.0]}}, {"props": []}, {"ts": "now"}, {"bbox": [1.0]},
        {"loc": {"type": "LineString", "coordinates": [[0.0, 0.0], [1.0, 1.0]]}},
    ],
    ids=str,
)  # fmt: skip
def test_the_server_refuses_what_its_indexes_would_swallow(mongo_store: MongoStore, change: dict[str, Any]) -> None:
    """Documents that geo queries could never find are refused, whoever writes them."""
    good = {"_id": "a", "loc": {"type": "Point", "coordinates": [10.0, 20.0]}, "props": {}, "v": 1}
    places = mongo_store._collection()
    with pytest.raises(WriteError):
        places.insert_one(good | change)
    places.insert_one(good)
