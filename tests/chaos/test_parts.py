"""The parts of the chaos harness that decide something: the schedule, the wire's switch, slopes, figures."""

import asyncio
import json
import random
import struct
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mesh.local.processes import WATCH_SECONDS, Program
from tests.chaos import clients
from tests.chaos.__main__ import kinds
from tests.chaos.clients import Key, Sample, _one_write
from tests.chaos.faults import _KINDS
from tests.chaos.history import Op, Outcome
from tests.chaos.report import again, by_kind, growth, percentile, plain
from tests.chaos.run import Done, Options
from tests.chaos.running import Keeper
from tests.chaos.schedule import CALM_SECONDS, KINDS, PAUSE_SECONDS, REGIONS, Fault, plan
from tests.chaos.watch import Life, slope
from tests.chaos.wire import FIRST, Switch, parse
from tests.system.meshes import wait_until

ALL = tuple(KINDS)


def packet(target: int, mark: int = 0) -> bytes:
    return struct.pack("B15xBBBBB", 0x45, 10, 78, 0, FIRST + target, mark)


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_faults_again():
    """And another seed others."""
    assert plan(7, 600, ALL) == plan(7, 600, ALL)
    assert plan(7, 600, ALL) != plan(8, 600, ALL)


@pytest.mark.parametrize("seed", range(5))
def test_faults_come_one_at_a_time_with_pauses_and_end_before_the_run(seed: int):
    """Each begins after the one before has healed."""
    faults = plan(seed, 600, ALL)

    assert faults[0].at == CALM_SECONDS
    for earlier, later in pairwise(faults):
        assert later.at - (earlier.at + earlier.seconds) >= PAUSE_SECONDS[0] - 0.02
    assert faults[-1].at + faults[-1].seconds <= 600 - CALM_SECONDS


def test_half_an_hour_has_two_hundred_faults_of_every_kind():
    """Each kind about as often as the others, and whatever it hits."""
    faults = plan(1, 1800, ALL)
    times = [sum(fault.kind == kind for fault in faults) for kind in ALL]

    assert len(faults) >= 200
    assert max(times) - min(times) <= 1
    assert {fault.whom for fault in faults} == set(REGIONS)
    assert all(KINDS[fault.kind][0] <= fault.seconds <= KINDS[fault.kind][1] for fault in faults)


def test_overlapping_faults_are_asked_for():
    """With `overlap` some begin before the one before has healed, and a second party is never the first."""
    faults = plan(3, 600, ALL, overlap=True)

    assert any(later.at < earlier.at + earlier.seconds for earlier, later in pairwise(faults))
    assert all(fault.other != fault.whom for fault in faults)


def test_without_kinds_nothing_breaks():
    """A soak has an empty schedule."""
    assert plan(1, 600, ()) == []


def test_every_kind_of_fault_can_be_done_and_chosen():
    """The schedule, what does the faults, and the command line know the same kinds."""
    assert set(_KINDS) == set(KINDS)
    assert kinds("all") == ALL
    assert kinds("none") == ()
    assert kinds("kill broker, one way") == ("kill broker", "one way")
    with pytest.raises(Exception, match="no faults flood"):
        kinds("flood")


# -- processes ---------------------------------------------------------------------------------------------------------


def test_what_a_fault_killed_stays_dead_and_then_outlives_the_faults_thread(tmp_path: Path):
    """Nobody starts it before the fault is over; and the one started then does not die with the thread that did it."""
    told: list[str] = []
    keeper = Keeper(told.append)
    child = Sleeper("sleeper", "", (), tmp_path / "log")
    keeper.start(child)
    keeper.settle()
    first = child.pid
    try:
        keeper.crash("sleeper")
        time.sleep(4 * WATCH_SECONDS)
        assert child.exit_code() is not None

        resuming = threading.Thread(target=keeper.resume, args=["sleeper"])
        resuming.start()
        resuming.join()
        wait_until(lambda: child.pid != first, "it does not come back", 5)
        time.sleep(4 * WATCH_SECONDS)
        assert child.exit_code() is None
        assert told == [f"sleeper is back (pid {child.pid})"]
    finally:
        keeper.close()


class Sleeper(Program):
    """A program that does nothing."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._command = ["sleep", "100"]


# -- clients -----------------------------------------------------------------------------------------------------------


def op(kind: str, region: str, key: str = "w1-1") -> Op:
    return Op("w1", key, 2, kind, region, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("asked", "certain"),
    [
        (op("insert", "ne"), True),
        (op("update", "ne"), True),
        (op("move", "ne"), True),
        (op("move", "south"), False),
        (op("delete", "ne"), False),
        (op("upsert", "ne", "ne:w1-1"), True),
        (op("upsert", "ne", "ca:w1-1"), False),
    ],
)
def test_busy_is_certain_only_of_what_writes_to_one_region(asked: Op, *, certain: bool):
    """What asks several regions may have been done in one when another refuses."""
    assert _one_write(asked, Key(asked.key, "ne")) is certain


def test_a_call_without_an_outcome_is_stuck(monkeypatch: pytest.MonkeyPatch):
    """An outcome that comes within the margin is one, and a loop that was held up meanwhile makes no call stuck."""
    monkeypatch.setattr(clients, "DEADLINE_SECONDS", 0.05)
    monkeypatch.setattr(clients, "MARGIN_SECONDS", 0.05)

    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    async def held_up() -> str:
        asked = asyncio.create_task(clients.within(slow(0.04)))
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - what a busy machine does to a loop
        return await asked

    assert asyncio.run(clients.within(slow(0.06))) == "done"
    assert asyncio.run(held_up()) == "done"
    with pytest.raises(TimeoutError):
        asyncio.run(clients.within(slow(5)))


def test_clients_differ_in_nothing_but_their_names():
    """The same error from brokers in another order is counted as the same."""
    assert plain("busy: tcp://a:1 or tcp://b:2: full") == plain("busy: tcp://b:2 or tcp://a:1: full")
    assert plain("not_found: no region holds a place with the id 'x'") == plain(
        "not_found: no region holds a place with the id 'y'"
    )


# -- the wire ----------------------------------------------------------------------------------------------------------


def test_packets_go_to_their_address():
    """At once, while no rule says otherwise; what has no host there goes nowhere."""
    switch = Switch(random.Random(1))

    assert switch.take(0, packet(3), 6, 0.0) == 3
    assert switch.take(0, packet(6), 6, 0.0) is None
    assert switch.take(0, b"\x60" + bytes(39), 6, 0.0) is None, "IPv6"
    assert switch.wait(0.0) is None


def test_a_cut_is_one_way():
    """What the other side sends arrives."""
    switch = Switch(random.Random(1))
    switch.rules = parse(json.dumps({"0>1": [0.0, 1.0]}))

    assert switch.take(0, packet(1), 6, 0.0) is None
    assert switch.due(99.0) == []
    assert switch.take(1, packet(0), 6, 0.0) == 0


def test_delayed_packets_arrive_late_and_in_order():
    """Not before their time, and those of the same moment as they were sent."""
    switch = Switch(random.Random(1))
    switch.rules = {(0, 1): (0.2, 0.0)}
    sent = [packet(1, mark) for mark in range(5)]
    for each in sent:
        assert switch.take(0, each, 6, 1.0) is None

    assert switch.wait(1.0) == pytest.approx(0.2)
    assert switch.due(1.19) == []
    assert switch.due(1.21) == [(1, each) for each in sent]


def test_loss_is_as_large_as_asked():
    """Two of a hundred, more or less."""
    switch = Switch(random.Random(1))
    switch.rules = {(0, 1): (0.0, 0.02)}
    for _ in range(10_000):
        switch.take(0, packet(1), 6, 0.0)

    assert 9_750 < len(switch.due(0.0)) < 9_850


# -- figures -----------------------------------------------------------------------------------------------------------


def test_a_leak_shows_as_a_slope():
    """Half a megabyte a minute is thirty an hour; the first minute does not count."""
    times = [float(second) for second in range(300)]
    memory = [50_000_000 + (30_000_000 if at < 60 else int(at / 60 * 524_288)) for at in times]
    told = Life("broker-ne", 1, times, memory, [20] * 300).report()

    assert told["memory_mb_an_hour"] == pytest.approx(30.0, abs=0.1)
    assert told["descriptors_an_hour"] == 0
    assert slope([0, 1800, 3600], [5, 6, 7]) == pytest.approx(2)


def test_a_short_life_has_no_slope():
    """Two minutes after the warm-up are the least."""
    assert Life("w", 1, [0.0, 90.0, 170.0], [1, 2, 3], [1, 1, 1]).report()["memory_mb_an_hour"] is None


def read(due: float, ended: float, outcome: Outcome = Outcome.OK, region: str = "ne", via: str = "ne") -> Sample:
    return Sample("read get", region, via, due, due, ended, outcome)


def test_a_fault_is_judged_by_the_reads_while_it_lasts():
    """Those answered within their deadline of all that fell due, and the longest silence of the region that was hit."""
    samples = [read(at / 10, at / 10 + 0.01) for at in range(100) if not 20 <= at < 25]
    samples += [read(2.2, 4.2, Outcome.REFUSED), read(2.3, 2.4, region="ca"), read(2.3, 2.4, region="ca", via="sw")]
    (told,) = by_kind([Done(Fault(2.0, 1.0, "kill broker", "ne"), 2.0, 3.0, 0.5)], samples)

    assert (told["reads"], told["answered"]) == (28, pytest.approx(27 / 28, abs=1e-5))
    assert told["answered_elsewhere"] == 1.0
    assert told["longest_gap"] == pytest.approx(0.51)


def test_growth_compares_the_last_minute_with_the_second():
    """The first is warm-up; a run under three minutes has no such figure."""
    samples = [read(float(at), at + (0.010 if at < 180 else 0.015)) for at in range(240)]

    assert growth(samples, 240) == {"second_minute_ms": 10.0, "last_minute_ms": 15.0, "ratio": 1.5}
    assert growth(samples, 120) is None
    assert percentile([0.1, 0.2], 50) == 100.0


@pytest.mark.parametrize(
    ("options", "command"),
    [
        (Options(seed=7, kinds=tuple(KINDS)), "make chaos MINUTES=3 SEED=7"),
        (Options(seconds=90, kinds=("one way", "cut pair")), 'make chaos MINUTES=1.5 SEED=1 FAULTS="one way,cut pair"'),
        (
            Options(kinds=(), workers=1, rate=60, overlap=True),
            'make chaos MINUTES=3 SEED=1 FAULTS="none" ARGS="--workers 1 --rate 60 --overlap"',
        ),
    ],
)
def test_the_command_for_the_same_faults_has_all_that_decides_them(options: Options, command: str):
    """A seed gives other faults to other kinds."""
    assert again(options) == command
