"""The registry of workers: what it makes of the times they report."""

from math import isfinite

import pytest

from mesh.core.workers import Worker, Workers


def one_worker() -> Workers:
    workers = Workers(8)
    worker = Worker(b"w", 0.0)
    worker.slots, worker.window = 1, 32
    workers.open(worker)
    return workers


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1.8e13])
def test_any_service_time_a_worker_may_report_leaves_finite_numbers(seconds: float):
    """Jobs of under a microsecond are reported as 0, and a header's field holds up to 585,000 years."""
    workers = one_worker()
    for _ in range(20_000):
        workers.took(seconds)
    workers.resize()
    (worker,) = workers
    assert 1 <= worker.room <= 8
    assert isfinite(workers.turn_seconds)
    assert workers.turn_seconds > 0
