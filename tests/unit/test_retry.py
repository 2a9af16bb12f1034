"""When to try again."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.retry import BASE_SECONDS, CAP_SECONDS, RetryBudget, backoff


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_waits_are_spread_between_nothing_and_a_growing_bound(attempt: int, dice: float) -> None:
    """Full jitter, capped."""
    bound = min(CAP_SECONDS, BASE_SECONDS * 2 ** (attempt - 1))
    assert backoff(attempt, dice) == dice * bound


@given(st.floats(0, 100), st.floats(0, 1, exclude_max=True))
def test_the_brokers_wish_is_never_undercut(wish: float, dice: float) -> None:
    """And those it refused at the same moment come back at different ones."""
    assert wish <= backoff(1, dice, wish) <= wish * 1.25


def test_the_budget_allows_a_few_retries_and_then_a_tenth_of_the_successes() -> None:
    """An overload must not feed itself."""
    budget = RetryBudget()
    retries = 0
    while budget.allows_retry():
        budget.refused()
        retries += 1
    assert retries == 5
    for _ in range(10):
        budget.succeeded()
    assert budget.allows_retry()
    budget.refused()
    assert not budget.allows_retry()


def test_the_budget_has_a_floor_and_a_ceiling() -> None:
    """A long bad time is forgiven as fast as a short one; a long good one saves nothing up."""
    budget = RetryBudget()
    for _ in range(1000):
        budget.refused()
    assert budget.tokens == 0.0
    for _ in range(1000):
        budget.succeeded()
    assert budget.tokens == 10.0
