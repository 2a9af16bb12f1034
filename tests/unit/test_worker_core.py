"""mesh.core.worker by itself: how it leaves, and how it finds a broker again."""

import pytest

from mesh.core.actions import Link, Run, Send, Stop
from mesh.core.settings import WorkerSettings
from mesh.core.worker import FAREWELL_SECONDS, WorkerCore
from mesh.protocol.header import NO_JOB, Header, Kind, Reason, encode, pad_region, peek
from mesh.protocol.refusal import nack

WELCOME = encode(Header(kind=Kind.WELCOME))
JOB = encode(Header(kind=Kind.REQUEST, region=pad_region("ne"), job=b"j" * 16, budget_ms=1000))


class Worker:
    """A `WorkerCore` with a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        settings = WorkerSettings(region="ne", instance="1", epoch="e", map_digest=b"1234")
        self.core = WorkerCore(settings, self.now)
        self.frames: list[bytes] = []

    def hears(self, *frames: bytes) -> list[str]:
        """Take frames from the broker; return what it does."""
        for frame in frames:
            self.core.receive(Link.LOCAL, b"", frame, self.now)
        return self.does()

    def does(self, after: float = 0.0) -> list[str]:
        """Let time pass; return the kinds of what was sent, and Run and Stop."""
        end, done = self.now + after, []
        while True:
            if self.now >= self.core.wake_at():
                self.core.tick(self.now)
            for action in self.core.take(self.now):
                if isinstance(action, Send):
                    self.frames.append(action.frame)
                    done.append(Kind(peek(action.frame).kind).name)
                elif isinstance(action, Run | Stop):
                    done.append(type(action).__name__)
            if self.now >= end or "Stop" in done:
                return done
            self.now = min(end, self.now + 0.01)


@pytest.fixture
def worker() -> Worker:
    """Return a worker whose broker knows it."""
    worker = Worker()
    assert worker.does() == ["READY"]
    worker.hears(WELCOME)
    return worker


def test_a_worker_leaves_when_its_broker_has_heard_so(worker: Worker) -> None:
    """What the broker sent before it knew is done first: a write that is left in a socket may have happened, or not."""
    worker.core.drain(worker.now)
    assert worker.does() == ["DRAIN", "HEARTBEAT"]
    token = worker.frames[-1]
    assert "Run" in worker.hears(JOB)
    assert "Stop" not in worker.hears(token), "it still has a job"
    worker.core.finished(b"j" * 16, b"", 0.0, worker.now)
    assert worker.does() == ["REPLY", "GOODBYE", "Stop"]


def test_an_ordinary_heartbeat_says_nothing_of_the_drain(worker: Worker) -> None:
    """It was sent before."""
    assert worker.does(0.3) == ["HEARTBEAT"]
    earlier = worker.frames[-1]
    worker.core.drain(worker.now)
    worker.does()
    token = worker.frames[-1]
    assert "Stop" not in worker.hears(earlier)
    assert "Stop" in worker.hears(token)


def test_a_broker_that_does_not_answer_is_not_waited_for(worker: Worker) -> None:
    worker.core.drain(worker.now)
    assert "Stop" not in worker.does(FAREWELL_SECONDS * 0.9)
    assert "Stop" in worker.does(FAREWELL_SECONDS * 0.2)


def test_without_a_broker_there_is_nobody_to_wait_for() -> None:
    worker = Worker()
    worker.does()
    worker.core.drain(worker.now)
    assert "Stop" in worker.does()


def test_a_worker_that_leaves_does_not_introduce_itself(worker: Worker) -> None:
    """To a broker that has come up meanwhile, which would give it work."""
    worker.core.drain(worker.now)
    worker.does()
    assert "READY" not in worker.hears(nack(Reason.NO_SESSION, "who are you?"))
    assert "READY" not in worker.does(1.0)


def test_a_worker_whose_broker_left_asks_often_and_one_that_is_refused_seldom(worker: Worker) -> None:
    """There is work behind the first, and nothing to be had behind the second."""
    worker.hears(encode(Header(kind=Kind.GOODBYE, job=NO_JOB)))
    assert 18 <= worker.does(1.0).count("READY") <= 21
    said = 0
    for _ in range(8):
        worker.hears(nack(Reason.STALE_MAP, "another map"))
        said += worker.does(0.25).count("READY")
    assert said <= 10
