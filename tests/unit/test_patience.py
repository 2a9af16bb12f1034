"""A store that was just started may take a while to answer."""

import pytest

from mesh.errors import NotFound, StoreOverloaded, StoreUnavailable
from mesh.local.stores import patiently


def test_a_store_that_is_not_up_yet_is_asked_again():
    """Whatever says "later" is no failure; the answer counts."""
    said = iter([StoreUnavailable("elections"), StoreOverloaded("busy"), 7])

    def ask() -> int:
        answer = next(said)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(ask) == 7


def test_patience_ends_with_the_stores_own_words():
    def ask() -> None:
        raise StoreUnavailable("no mongod there")

    with pytest.raises(StoreUnavailable, match="no mongod there"):
        patiently(ask, seconds=0.0)


def test_what_will_not_pass_is_raised_at_once():
    def ask() -> None:
        raise NotFound("no such place", id="x")

    with pytest.raises(NotFound):
        patiently(ask)
