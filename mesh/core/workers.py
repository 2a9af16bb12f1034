"""The workers of this region: who is there, who is free, how fast they are."""

from collections.abc import Iterator
from math import inf

from mesh.core.job import Job
from mesh.protocol.session import State

#: A worker may hold, beside what it runs, what it can finish in this time (seconds): enough to keep it busy while its
#: answer and the next job cross the local link. A window above 1 is worth 10x for short jobs; for long ones it would
#: tie work to a busy worker while another falls idle, or while a peer could have had it.
PREFETCH_SECONDS = 0.005
#: What is assumed of the service time before one was measured: long, so that nothing is prefetched on a guess.
SERVICE_GUESS_SECONDS = 0.05
#: Weight of one measurement in the moving average.
SERVICE_WEIGHT = 1 / 16
#: No job takes less: workers report whole microseconds, and an average of zeros would in time divide by nothing.
SHORTEST_SECONDS = 1e-6


class Worker:
    """One worker process."""

    __slots__ = (
        "done",
        "epoch",
        "heard",
        "id",
        "inflight",
        "instance",
        "room",
        "service",
        "slots",
        "state",
        "window",
    )

    def __init__(self, routing_id: bytes, now: float) -> None:
        self.id = routing_id
        self.instance = ""
        self.epoch = ""
        self.service = ""
        self.slots = 0
        #: Jobs it takes at most, and how many it gets at present.
        self.window = 0
        self.room = 0
        self.state = State.NEW
        self.heard = now
        self.done = 0
        self.inflight: dict[bytes, Job] = {}

    def __repr__(self) -> str:
        return f"<Worker {self.instance} {self.state.value} {len(self.inflight)}/{self.room}>"


class Workers:
    """All workers, by routing id, with the idle ones at hand in the order they fell idle."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._by_id: dict[bytes, Worker] = {}
        self._idle: dict[Worker, None] = {}
        #: Jobs that all open workers can run at the same time, and jobs they have.
        self.slots = 0
        self.inflight = 0
        #: Moving average of the time one job takes, in seconds.
        self.service_seconds = SERVICE_GUESS_SECONDS
        #: How often a job ends somewhere here while all are busy: S / W, in seconds.
        self.turn_seconds = inf

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, routing_id: bytes) -> Worker | None:
        """Return the worker with this routing id."""
        return self._by_id.get(routing_id)

    def open(self, worker: Worker) -> None:
        """Take in a worker that said READY, with its numbers set."""
        worker.state = State.OPEN
        self._by_id[worker.id] = worker
        self._recount()

    def drain(self, worker: Worker) -> None:
        """Give this worker nothing new."""
        worker.state = State.DRAINING
        self._recount()

    def remove(self, worker: Worker) -> list[Job]:
        """Forget a worker; return the jobs it had."""
        self._by_id.pop(worker.id, None)
        worker.state = State.NEW
        jobs = list(worker.inflight.values())
        worker.inflight.clear()
        self._recount()
        return jobs

    def silent(self, now: float, patience: float) -> list[Worker]:
        """Return the workers not heard of for longer than *patience* seconds."""
        return [worker for worker in self._by_id.values() if now - worker.heard > patience]

    @property
    def idle_slots(self) -> int:
        """Jobs that could start at once."""
        return sum(worker.slots - len(worker.inflight) for worker in self._idle)

    def idle(self) -> Worker | None:
        """Return the worker that has been idle longest."""
        for worker in self._idle:
            return worker
        return None

    def roomiest(self) -> Worker | None:
        """Return the busy worker with the fewest jobs that may still take one in advance."""
        best = None
        for worker in self._by_id.values():
            load = len(worker.inflight)
            if worker.state is State.OPEN and load < worker.room and (best is None or load < len(best.inflight)):
                best = worker
        return best

    def assign(self, worker: Worker, job: Job) -> None:
        """Note that a worker has a job."""
        worker.inflight[job.id] = job
        self.inflight += 1
        job.worker = worker
        if len(worker.inflight) >= worker.slots:
            self._idle.pop(worker, None)

    def release(self, worker: Worker, job: Job) -> None:
        """Note that a worker is done with a job."""
        inflight = worker.inflight
        del inflight[job.id]
        self.inflight -= 1
        worker.done += 1
        if worker.state is State.OPEN and len(inflight) < worker.slots:
            self._idle[worker] = None

    def took(self, seconds: float) -> None:
        """Learn how long a job took, as the worker measured it: what the broker sees has the wait for a CPU in it."""
        self.service_seconds += (max(seconds, SHORTEST_SECONDS) - self.service_seconds) * SERVICE_WEIGHT
        self.turn_seconds = self.service_seconds / self.slots if self.slots else inf

    def expected_wait(self, queued: int) -> float:
        """Return how long a new job would wait here for a worker, in seconds: jobs before it times S / W."""
        ahead = queued + self.inflight - self.slots + 1
        return ahead * self.turn_seconds if ahead > 0 else 0.0

    def resize(self) -> None:
        """Set how much each worker may hold from what is known of the service time."""
        extra = int(PREFETCH_SECONDS / self.service_seconds)
        for worker in self._by_id.values():
            worker.room = max(worker.slots, min(worker.slots + extra, worker.window, self._window))

    def _recount(self) -> None:
        open_ones = [worker for worker in self._by_id.values() if worker.state is State.OPEN]
        self.slots = sum(worker.slots for worker in open_ones)
        self.turn_seconds = self.service_seconds / self.slots if self.slots else inf
        self.inflight = sum(len(worker.inflight) for worker in self._by_id.values())
        self._idle = {worker: None for worker in open_ones if len(worker.inflight) < worker.slots}
        self.resize()
