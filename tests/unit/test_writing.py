"""Where writes go, in an in-process mesh without any IO."""

import pytest

from mesh.client import plan, writing
from mesh.errors import Conflict, InvalidRequest, NotFound
from mesh.model import Draft, Find, Move
from tests.unit.in_process import LOS_ANGELES, NEW_YORK, Mesh, the_map


@pytest.fixture
def mesh() -> Mesh:
    return Mesh([Draft(*NEW_YORK, {"n": 1}, "ny"), Draft(*LOS_ANGELES, {"n": 2}, "la")])


def test_writes_go_to_the_owner(mesh: Mesh) -> None:
    """Insert, upsert, update and delete reach the region that holds the place."""
    assert mesh.run(writing.insert(Draft(*NEW_YORK, {}, "x"), the_map())).region == "ne"
    with pytest.raises(Conflict):
        mesh.run(writing.insert(Draft(*NEW_YORK, {}, "x"), the_map()))
    assert mesh.run(writing.upsert(Draft(*LOS_ANGELES, {"a": 1}, "la"), the_map())).version == 2
    assert mesh.run(writing.update("la", {"b": 2}, the_map())).properties == {"a": 1, "b": 2}
    mesh.run(writing.delete("la", the_map()))
    with pytest.raises(NotFound):
        mesh.run(writing.delete("la", the_map()))


def test_a_write_outside_all_regions_says_so(mesh: Mesh) -> None:
    """Swapped coordinates are the usual reason."""
    with pytest.raises(InvalidRequest, match="swap"):
        mesh.run(writing.insert(Draft(40.7143, -74.006), the_map()))


def test_a_move_within_a_region_stays_there(mesh: Mesh) -> None:
    """The version grows, and an older move changes nothing."""
    moved = mesh.run(writing.move(Move("ny", -74.1, 40.8, 100.0), the_map()))
    assert (moved.region, moved.version, moved.lon) == ("ne", 2, -74.1)
    assert mesh.run(writing.move(Move("ny", -74.2, 40.9, 99.0), the_map())).lon == -74.1


def test_a_move_across_a_border_takes_the_place_along(mesh: Mesh) -> None:
    """Properties go along, the old region forgets the place, and an older move loses there, too."""
    mesh.run(writing.move(Move("ny", *LOS_ANGELES, 100.0), the_map()))
    place = mesh.run(plan.get("ny", the_map()))
    assert (place.region, place.properties, place.timestamp, place.version) == ("ca", {"n": 1}, 100.0, 2)
    with pytest.raises(NotFound):
        mesh.stores["ne"].get("ny")
    assert mesh.run(writing.move(Move("ny", *NEW_YORK, 99.0), the_map())).region == "ca"


def test_a_move_that_stops_half_way_shows_the_new_copy(mesh: Mesh) -> None:
    """After a crash between the two steps, readers see the later measurement, even if the old copy goes on growing."""
    for value in range(5):
        mesh.run(writing.update("ny", {"n": value}, the_map()))
    planner = writing.move(Move("ny", *LOS_ANGELES, 100.0), the_map())
    asks = next(planner)
    asks = planner.send([mesh.answer(*ask) for ask in asks])
    [mesh.answer(*ask) for ask in asks]  # the upsert; then the client dies
    assert mesh.stores["ca"].get("ny").version == mesh.stores["ne"].get("ny").version + 1
    mesh.stores["ne"].update("ny", {})
    mesh.stores["ne"].update("ny", {})
    assert mesh.stores["ne"].get("ny").version > mesh.stores["ca"].get("ny").version
    assert mesh.run(plan.get("ny", the_map())).region == "ca"
    assert [p.region for p in mesh.query(Find({"n": 4}))] == ["ca"]


def test_a_change_during_a_move_across_a_border_is_not_lost(mesh: Mesh) -> None:
    """Whoever updates the old copy in the middle finds the update in the new one."""
    planner = writing.move(Move("ny", *LOS_ANGELES, 100.0), the_map())
    asks = next(planner)
    asks = planner.send([mesh.answer(*ask) for ask in asks])
    mesh.stores["ne"].update("ny", {"n": 77})
    assert mesh.go_on(planner, asks).properties == {"n": 77}
    with pytest.raises(NotFound):
        mesh.stores["ne"].get("ny")


def test_insert_many_names_rows_by_their_own_index(mesh: Mesh) -> None:
    """Rows are split by owner, and each bad one is reported as the caller counts them."""
    rows: list[object] = [
        {"lon": NEW_YORK[0], "lat": NEW_YORK[1], "id": "a"},
        {"lon": 0.0, "lat": 0.0},
        {"lon": LOS_ANGELES[0], "lat": LOS_ANGELES[1], "id": "la"},
        "nonsense",
        Draft(*LOS_ANGELES, {}, "b"),
    ]
    result = mesh.run(writing.insert_many(rows, the_map()))
    assert result.ids == ["a", None, None, None, "b"]
    assert [(error.row, error.error["code"]) for error in result.errors] == [
        (1, "invalid_request"),
        (2, "conflict"),
        (3, "invalid_request"),
    ]


def test_bulk_writes_are_cut_by_rows_and_bytes() -> None:
    """No batch is larger than a broker accepts."""
    many = writing.Rows([Draft(*NEW_YORK, {}, str(index)) for index in range(2_500)], the_map())
    assert [len(batch.rows) for batch in many.batches] == [1000, 1000, 500]
    large = writing.Rows([Draft(*NEW_YORK, {"x": "y" * 700_000}) for _ in range(5)], the_map())
    assert [len(batch.rows) for batch in large.batches] == [2, 2, 1]


def test_a_region_that_is_down_fails_its_rows_only(mesh: Mesh) -> None:
    """The other regions' rows are stored."""
    mesh.down = {"ca"}
    result = mesh.run(writing.insert_many([Draft(*NEW_YORK, {}, "a"), Draft(*LOS_ANGELES, {}, "b")], the_map()))
    assert result.ids == ["a", None]
    assert result.errors[0].error["code"] == "region_unavailable"


def test_of_equal_ids_in_one_upsert_the_last_stays(mesh: Mesh) -> None:
    """Many upserts travel at once, so their order must not decide."""
    rows = [Draft(*NEW_YORK, {"n": value}, "same") for value in range(5)]
    result = mesh.run(writing.upsert_many(rows, the_map()))
    assert (result.ids, result.errors) == (["same"] * 5, [])
    assert mesh.run(plan.get("same", the_map())).properties == {"n": 4}


def test_an_upsert_with_another_regions_id_moves_the_place(mesh: Mesh) -> None:
    """An id that names NE, stored in CA, is not left behind in NE."""
    own = mesh.run(writing.insert(Draft(*NEW_YORK), the_map())).id
    mesh.run(writing.upsert_many([Draft(*LOS_ANGELES, {}, own)], the_map()))
    assert mesh.run(plan.get(own, the_map())).region == "ca"
    with pytest.raises(NotFound):
        mesh.stores["ne"].get(own)


def test_a_place_that_crosses_a_border_while_it_is_looked_for_is_found(mesh: Mesh) -> None:
    """The new region is asked before the place comes, the old one after it has gone: a second look finds it."""
    planner = plan.get("ny", the_map())
    asks = next(planner)
    early = {name: mesh.answer(name, ask) for name, ask in asks if name != "ne"}
    mesh.run(writing.move(Move("ny", *LOS_ANGELES, 100.0), the_map()))
    replies = [early[name] if name in early else mesh.answer(name, ask) for name, ask in asks]
    assert mesh.go_on(planner, planner.send(replies)).region == "ca"
