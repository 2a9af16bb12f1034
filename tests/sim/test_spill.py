"""How well a mesh of the shipped cores spills, in virtual time: every figure is exact and repeats with its seed."""

import pytest

from mesh.testing.scenario import Load, LoadedMesh, Result
from mesh.testing.simulation import Simulation


def run(seed: int, **load: float) -> Result:
    mesh = LoadedMesh(Load(**load), seed)
    result = mesh.run()
    assert mesh.unanswered == 0
    assert result.answered + result.refused.total() == result.asked
    return result


def test_a_waiting_job_spills_when_the_queue_behind_it_has_grown():
    """CA is 70 ms away: too far for the first who wait for one of eight workers, near enough once many do."""
    mesh = Simulation(("ne", "ca"), workers=8)
    mesh.hears["c"] = lambda *_: None
    mesh.advance(1.0)
    mesh.hello("c", "ne")
    mesh.advance(0.1)
    for number in range(8 + 5):
        mesh.ask("c", "ne", bytes([number] * 16), takes=1.0)
    mesh.advance(0.001)
    assert mesh.broker("ne").jobs.count["spilled_out"] == 0
    mesh.ask("c", "ne", bytes([99] * 16), takes=1.0)
    mesh.advance(0.001)
    assert mesh.broker("ne").jobs.count["spilled_out"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_overloaded_region_is_carried_by_the_others(seed: int):
    """NE at 2.5 times its capacity, the mesh at 90 %: p99 at most 280 ms, nothing refused, few messages."""
    result = run(seed, hot=2.5, mesh=0.9)
    assert result.percentile(0.99) <= 280
    assert result.refused.total() <= 0.01 * result.asked
    assert result.messages_each <= 2.5


@pytest.mark.slow
def test_an_even_load_stays_at_home():
    """All regions at 70 %: at most 8 % are spilled, p99 at most 240 ms."""
    result = run(1, hot=0.7, mesh=0.7)
    assert result.remote_share <= 0.08
    assert result.percentile(0.99) <= 240


def test_a_light_load_is_never_spilled():
    """No region comes near its capacity: not one job leaves its region."""
    assert run(1, hot=0.1, mesh=0.1, seconds=20).spilled == 0
