"""The token of the next page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.client import cursor
from mesh.errors import InvalidRequest
from mesh.model import Find, Mark, Nearest, WithinBox

QUERY = Nearest(-74.0, 40.7, 10, None, {"a": 1, "b": 2})


@given(st.floats(0, 2e7), st.text(min_size=1))
def test_a_token_gives_back_the_mark(distance: float, name: str) -> None:
    """Every distance to the last bit, every id."""
    mark = Mark(distance, name)
    assert cursor.decode(QUERY, cursor.encode(QUERY, mark)) == mark


def test_a_token_survives_urls_and_shells() -> None:
    """Letters, digits, - and _ only, and it does not start with an option's dash twice."""
    token = cursor.encode(QUERY, Mark(1.5, "ne:\xff\xfe?&"))
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def test_the_limit_and_the_order_of_a_filter_may_change() -> None:
    """They do not change which places follow."""
    token = cursor.encode(QUERY, Mark(1.0, "x"))
    assert cursor.decode(Nearest(-74.0, 40.7, 500, None, {"b": 2, "a": 1}), token) == Mark(1.0, "x")
    assert cursor.decode(Nearest(-74.0, 40.7, 10, None, {"a": 1, "b": 2}, Mark(0.5, "w")), token).id == "x"


@pytest.mark.parametrize(
    "other", [Nearest(-74.0, 40.8, 10, None, {"a": 1, "b": 2}), Nearest(-74.0, 40.7), Find(), WithinBox(0, 0, 1, 1)]
)
def test_a_token_of_another_query_is_refused(other: Find) -> None:
    """It would start in the middle of nowhere."""
    with pytest.raises(InvalidRequest, match="another query") as caught:
        cursor.decode(other, cursor.encode(QUERY, Mark(1.0, "x")))
    assert caught.value.field == "after"


@pytest.mark.parametrize("token", ["", "x", "!!!!", "AAAA", "é", "a" * 1000, 7, None])
def test_nonsense_is_refused(token: str) -> None:
    """With the field named, whatever it is."""
    with pytest.raises(InvalidRequest) as caught:
        cursor.decode(QUERY, token)
    assert caught.value.field == "after"
