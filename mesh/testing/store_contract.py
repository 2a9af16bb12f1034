"""The promises of `mesh.store.base.Store`, as tests that every implementation passes.

Derive a class from `StoreContract`, give it a pytest fixture `store` that yields an empty store of the region "NE", and
pytest runs all of it.
"""
# ruff: noqa: S101 - asserts are what a contract is made of

import math
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mesh import geo
from mesh.errors import Conflict, DeadlineExceeded, InvalidRequest, NotFound
from mesh.model import (
    Count,
    Draft,
    Find,
    Found,
    Intersects,
    Mark,
    Nearest,
    Place,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.store.base import Store

_SQUARE = {"type": "Polygon", "coordinates": [[[-74, 40], [-73, 40], [-73, 41], [-74, 41], [-74, 40]]]}


def draft(id: str, lon: float = -73.5, lat: float = 40.5, **properties: Any) -> Draft:  # noqa: A002
    """Return a draft with an id, by default in the middle of New York's box."""
    return Draft(lon, lat, properties, id)


def ids(found: Found) -> list[str]:
    """Return the ids of an answer, in its order."""
    return [place.id for place in found.places]


def pages(ask: Any, query: Any) -> list[Place]:
    """Return all places of a query by following its pages; fail if `more` is wrong or a place comes twice."""
    places: list[Place] = []
    while True:
        found = ask(query)
        assert len(found.places) <= query.limit
        places.extend(found.places)
        if not found.more:
            assert len({place.id for place in places}) == len(places)
            return places
        assert len(found.places) == query.limit
        last = found.places[-1]
        query = msgspec.structs.replace(query, after=Mark(last.distance or 0.0, last.id))


class StoreContract:
    """What every store promises; see the module."""

    # -- writes ---------------------------------------------------------------------------------------------------

    def test_insert_returns_what_is_stored(self, store: Store) -> None:
        """A place comes back as it was given, with version 1 and the store's region."""
        shape = {"type": "LineString", "coordinates": [[-74.0, 40.0], [-73.0, 41.0]]}
        properties = {"name": "Käse", "n": 2**40, "deep": {"list": [1, 2.5, None, True, {"big": 2**53}]}}
        stored = store.insert(Draft(-73.5, 40.5, properties, "NE:1", shape, 12.5))
        assert stored == Place("NE:1", -73.5, 40.5, properties, shape, 1, 12.5, "NE")
        assert store.get("NE:1") == stored
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(store.get("NE:1")), type=Place) == stored

    def test_a_missing_id_is_made_with_the_region_in_front(self, store: Store) -> None:
        """Ids the store makes name its region, so that a client knows whom to ask."""
        first, second = store.insert(Draft(-73, 40)), store.insert(Draft(-73, 40))
        assert first.id.startswith("NE:")
        assert first.id != second.id

    def test_inserting_an_id_twice_is_a_conflict_and_changes_nothing(self, store: Store) -> None:
        """The first place with an id stays."""
        store.insert(draft("a", name="first"))
        with pytest.raises(Conflict) as caught:
            store.insert(draft("a", name="second"))
        assert caught.value.id == "a"
        assert store.get("a").properties == {"name": "first"}

    def test_bulk_rows_fail_one_by_one(self, store: Store) -> None:
        """A row that exists, or comes twice, fails alone; all others are stored."""
        store.insert(draft("b"))
        rows = [draft("a"), draft("b"), draft("c"), draft("a"), *(draft(f"n{n:04}") for n in range(1_200)), draft("c")]
        answer = store.insert_many(rows)
        assert [error.row for error in answer.errors] == [1, 3, 1_204]
        assert {error.error["code"] for error in answer.errors} == {"conflict"}
        assert [row for row, id_ in enumerate(answer.ids) if id_ is None] == [1, 3, 1_204]
        assert store.count(Count()) == 1_203
        assert store.insert_many([]).ids == []

    def test_upsert_replaces_everything_and_counts_the_version_on(self, store: Store) -> None:
        """What the new place does not have is gone, and the version grows."""
        line = {"type": "LineString", "coordinates": [[-74.0, 40.0], [-73.0, 41.0]]}
        assert store.upsert(Draft(-73, 40, {"a": 1, "b": "$v"}, "x", line, 5.0)).version == 1
        replaced = store.upsert(Draft(-72, 41, {"c": "$props.a"}, "x"))
        assert replaced == Place("x", -72.0, 41.0, {"c": "$props.a"}, None, 2, None, "NE")
        assert store.get("x") == replaced
        assert ids(store.intersects(Intersects(_SQUARE))) == []
        assert store.upsert(Draft(-72, 41)).version == 1
        assert store.upsert(Draft(-72, 41, id="x", version=1)).version == 3
        assert store.upsert(Draft(-72, 41, id="x", version=9)).version == 10
        assert store.upsert(Draft(-72, 41, id="from elsewhere", version=4)).version == 5

    def test_update_merges_as_rfc_7396_says(self, store: Store) -> None:
        """Objects merge deeply, null removes, everything else replaces."""
        store.insert(draft("a", title="Goodbye", author={"given": "John", "family": "Doe"}, tags=["x", "y"], n=1))
        patch = {"title": "Hello", "phone": "+1", "author": {"family": None}, "tags": ["x"], "new": {"a": None, "b": 1}}
        updated = store.update("a", patch)
        assert updated.properties == {
            "title": "Hello", "author": {"given": "John"}, "tags": ["x"], "n": 1, "phone": "+1", "new": {"b": 1},
        }  # fmt: skip
        assert updated.version == 2
        assert store.get("a") == updated

    def test_concurrent_updates_all_count(self, store: Store) -> None:
        """Updates of different properties at the same time lose nothing."""
        store.insert(draft("a"))
        threads = [threading.Thread(target=store.update, args=("a", {f"p{n}": n})) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get("a").properties == {f"p{n}": n for n in range(8)}
        assert store.get("a").version == 9

    def test_a_move_that_is_not_newer_changes_nothing(self, store: Store) -> None:
        """Positions may arrive late or twice; the newest stays."""
        store.insert(draft("a", -73, 40, n=1))
        moved = store.move("a", -74, 41, 100.0)
        assert (moved.lon, moved.lat, moved.timestamp, moved.version) == (-74.0, 41.0, 100.0, 2)
        assert moved.properties == {"n": 1}
        assert store.move("a", -75, 42, 100.0) == store.move("a", -75, 42, 99.0) == moved
        assert ids(store.within_radius(WithinRadius(-74, 41, 10))) == ["a"]
        assert ids(store.within_radius(WithinRadius(-73, 40, 10))) == []

    def test_a_place_with_a_shape_is_not_moved(self, store: Store) -> None:
        """A position away from its shape would make two answers of one place."""
        store.insert(Draft(-73.5, 40.5, {}, "area", _SQUARE))
        before = store.get("area")
        with pytest.raises(InvalidRequest, match="upsert it with its new geometry"):
            store.move("area", -60, 40, 1.0)
        assert store.get("area") == before

    def test_delete_with_a_version_spares_what_is_newer(self, store: Store) -> None:
        """A delete of something since changed is a conflict."""
        store.insert(draft("a"))
        store.update("a", {"n": 1})
        with pytest.raises(Conflict):
            store.delete("a", 1)
        store.delete("a", 2)
        assert store.count(Count()) == 0
        assert ids(store.find(Find())) == []

    def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        """Every operation on one place says so, and names the id."""
        acts: list[Callable[[], Any]] = [
            lambda: store.get("no"), lambda: store.update("no", {}), lambda: store.move("no", 1, 2, 3.0),
            lambda: store.delete("no"), lambda: store.delete("no", 1),
        ]  # fmt: skip
        for act in acts:
            with pytest.raises(NotFound) as caught:
                act()
            assert caught.value.id == "no"

    def test_get_many_keeps_the_order_asked(self, store: Store) -> None:
        """Ids that do not exist are left out."""
        store.insert_many([draft(name) for name in "abc"])
        assert [place.id for place in store.get_many(["c", "no", "a"])] == ["c", "a"]
        assert store.get_many([]) == []

    # -- reads ----------------------------------------------------------------------------------------------------

    def test_an_empty_store_answers_every_query(self, store: Store) -> None:
        """Nothing found is an answer."""
        for found in (
            store.nearest(Nearest(-73, 40)), store.nearest(Nearest(-73, 40, where={"a": 1})),
            store.within_radius(WithinRadius(-73, 40, 1e6)), store.within_box(WithinBox(-74, 40, -73, 41)),
            store.within_polygon(WithinPolygon(_SQUARE)), store.intersects(Intersects(_SQUARE)), store.find(Find()),
        ):  # fmt: skip
            assert found == Found([], more=False)
        assert store.count(Count()) == 0

    def test_equal_distances_are_ordered_by_id(self, store: Store) -> None:
        """Ties at the end of a page neither repeat nor get lost."""
        rows = [draft(f"t{n:02}", -73.5, 40.5) for n in range(40)]
        store.insert_many(rows[::2] + rows[::-2])
        store.insert(draft("far", -73.4, 40.5))
        for limit in (1, 7, 40, 41):
            assert [p.id for p in pages(store.nearest, Nearest(-73.5, 40.6, limit))] == [*(r.id for r in rows), "far"]

    def test_a_radius_includes_its_edge_to_the_bit(self, store: Store) -> None:
        """A place exactly at the radius is in; the next smaller radius leaves it out."""
        store.insert(draft("a", -73.25, 40.75))
        exact = geo.distance(-73.5, 40.5, -73.25, 40.75)
        assert ids(store.within_radius(WithinRadius(-73.5, 40.5, exact))) == ["a"]
        assert ids(store.within_radius(WithinRadius(-73.5, 40.5, math.nextafter(exact, 0)))) == []
        assert ids(store.nearest(Nearest(-73.5, 40.5, max_distance=exact))) == ["a"]
        assert ids(store.nearest(Nearest(-73.5, 40.5, max_distance=math.nextafter(exact, 0)))) == []
        assert store.nearest(Nearest(-73.5, 40.5)).places[0].distance == exact

    def test_a_box_and_its_polygon_agree_on_their_edge(self, store: Store) -> None:
        """Corners and edges belong to the box; one step outside does not."""
        on = [(-74, 40), (-73, 41), (-73.5, 40), (-73, 40.5), (-73.123456789, 41)]
        off = [(math.nextafter(-74, -75), 40.5), (-73.5, math.nextafter(41, 42)), (-72.9999999999, 40.5)]
        store.insert_many([draft(f"on{n}", *at) for n, at in enumerate(on)])
        store.insert_many([draft(f"off{n}", *at) for n, at in enumerate(off)])
        wanted = [f"on{n}" for n in range(len(on))]
        assert ids(store.within_box(WithinBox(-74, 40, -73, 41))) == wanted
        assert ids(store.within_polygon(WithinPolygon(_SQUARE))) == wanted
        assert ids(store.intersects(Intersects(_SQUARE))) == wanted

    def test_box_edges_are_straight_in_degrees(self, store: Store) -> None:
        """A wide box holds what a map shows in it, where great circles would bulge."""
        store.insert_many([draft("in", -100, 48.9), draft("out", -100, 49.3), draft("low", -100, 25.1)])
        assert ids(store.within_box(WithinBox(-125, 25, -67, 49))) == ["in", "low"]
        wide = [[[-125, 25], [-67, 25], [-67, 49], [-125, 49], [-125, 25]]]
        assert ids(store.within_polygon(WithinPolygon({"type": "Polygon", "coordinates": wide}))) == ["in", "low"]

    def test_a_box_may_cross_180_degrees(self, store: Store) -> None:
        """West greater than east means the short way across the antimeridian."""
        store.insert_many([draft("fiji", 179, -17), draft("west", -179, -17), draft("far", 0, -17), draft("e", 180, 0)])
        assert ids(store.within_box(WithinBox(177, -20, -178, 0))) == ["e", "fiji", "west"]

    def test_intersects_looks_at_the_shape(self, store: Store) -> None:
        """A line through the area counts although its position lies outside; its bounding box alone does not."""
        through = {"type": "LineString", "coordinates": [[-76.0, 40.5], [-72.0, 40.6]]}
        around = {"type": "LineString", "coordinates": [[-76.0, 40.0], [-76.0, 43.0], [-70.0, 43.0]]}
        touching = {"type": "LineString", "coordinates": [[-73.0, 41.0], [-72.0, 42.0]]}
        store.insert_many([
            Draft(-76, 40.5, {}, "through", through), Draft(-76, 40, {}, "around", around),
            Draft(-72, 42, {}, "touching", touching), draft("inside"), draft("outside", -75, 40.5),
        ])  # fmt: skip
        assert ids(store.intersects(Intersects(_SQUARE))) == ["inside", "through", "touching"]
        assert ids(store.within_polygon(WithinPolygon(_SQUARE))) == ["inside"]
        assert ids(store.intersects(Intersects({"type": "Point", "coordinates": [-73.5, 40.5]}))) == ["inside"]
        assert ids(store.intersects(Intersects(through))) == ["around", "through"]

    def test_a_filter_far_away_is_found(self, store: Store) -> None:
        """Nearest with a filter finds its match on the other side of the earth, and stops without one."""
        store.insert_many([draft(f"n{n}", -73 - n / 100, 40, kind="near") for n in range(50)])
        store.insert(draft("far", 106, -40, kind="far"))
        assert ids(store.nearest(Nearest(-73, 40, where={"kind": "far"}))) == ["far"]
        assert ids(store.nearest(Nearest(-73, 40, where={"kind": "none"}))) == []
        assert ids(store.nearest(Nearest(-73, 40, max_distance=1e6, where={"kind": "far"}))) == []

    def test_a_time_limit_that_is_over_stops_everything(self, store: Store) -> None:
        """No operation starts after its deadline, and a limit inside a limit cannot extend it."""
        with store.time_limit(0), store.time_limit(10):
            for act in (lambda: store.get("a"), lambda: store.insert(draft("a")), lambda: store.nearest(Nearest(1, 2))):
                with pytest.raises(DeadlineExceeded):
                    act()
        assert store.count(Count()) == 0

    def test_many_threads_write_and_read(self, store: Store) -> None:
        """Eight threads at once lose no write and see no half of one."""
        failures: list[BaseException] = []

        def work(worker: int) -> None:
            try:
                for n in range(25):
                    store.insert(draft(f"{worker}-{n:02}", -73 - worker / 10, 40))
                    store.nearest(Nearest(-73, 40, 5))
            except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(pages(store.find, Find(limit=37))) == 200

    def test_closing_twice_is_safe(self, store: Store) -> None:
        """A store may be closed by whoever comes first."""
        store.close()
        store.close()
