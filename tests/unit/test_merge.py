"""Merging answers of several regions."""

import math
from typing import Any

import pytest

from mesh.client.merge import kth_distance, merge, newest
from mesh.model import Found, Place


def place(id: str, distance: float | None = None, version: int = 1, **more: Any) -> Place:  # noqa: A002
    return Place(id, 0.0, 0.0, {}, version=version, distance=distance, **more)


def ids(places: list[Place]) -> list[str]:
    return [each.id for each in places]


def test_places_are_ordered_by_distance_and_then_by_id() -> None:
    """Ties are ordered the same way whichever region answered first."""
    one, two = Found([place("b", 1.0), place("d", 2.0)]), Found([place("a", 1.0), place("c", 1.5)])
    for answers in ([one, two], [two, one]):
        merged, more = merge(answers, 10)
        assert ids(merged) == ["a", "b", "c", "d"]
        assert not more


def test_without_distances_the_id_decides() -> None:
    """As for boxes and filters."""
    assert ids(merge([Found([place("b")]), Found([place("a")])], 10)[0]) == ["a", "b"]


def test_the_limit_cuts_and_says_so() -> None:
    """What was cut off here counts like what a region cut off."""
    answers = [Found([place("a", 1.0)]), Found([place("b", 2.0)])]
    assert merge(answers, 1)[1]
    assert not merge(answers, 2)[1]
    assert merge([Found([place("a", 1.0)], more=True)], 1)[1]


@pytest.mark.parametrize("flip", [False, True])
def test_of_doubles_the_highest_version_stays(flip: bool) -> None:
    """Wherever it stands."""
    answers = [Found([place("a", 5.0, version=2)]), Found([place("a", 1.0, version=1)])]
    merged, _ = merge(answers[::-1] if flip else answers, 10)
    assert [(each.id, each.version) for each in merged] == [("a", 2)]


def test_a_later_measurement_beats_a_higher_version() -> None:
    """A place that moved into another region starts there at version 1."""
    old, new = place("a", version=7, timestamp=1.0), place("a", version=1, timestamp=2.0)
    never_moved = place("a", version=9)
    assert newest([old, new, never_moved])["a"] is new
    assert newest([new, never_moved, old])["a"] is new


def test_nothing_behind_the_end_of_a_cut_answer_is_shown() -> None:
    """Where a double was dropped, a cut-off region may have places between its last one and the others'."""
    cut = Found([place("a", 1.0), place("x", 2.0, version=1)], more=True)
    other = Found([place("b", 1.5), place("x", 3.0, version=2)])
    merged, more = merge([cut, other], 10)
    assert ids(merged) == ["a", "b"]
    assert more


def test_the_kth_distance_is_infinite_until_there_are_k() -> None:
    """So that every region is asked while the page is not full."""
    answers = [Found([place("a", 1.0)]), Found([place("b", 2.0)])]
    assert kth_distance(answers, 2) == 2.0
    assert kth_distance(answers, 3) == math.inf
    assert kth_distance([], 1) == math.inf
