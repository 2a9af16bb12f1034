"""Runs jobs beside the message loop: heartbeats never share a thread with a query."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from mesh.core.actions import Run
from mesh.core.worker import WorkerCore
from mesh.jobs.base import Service

log = logging.getLogger("mesh.jobs")


class Runner:
    """Performs `Run` actions of one `WorkerCore` on as many threads as it has slots."""

    def __init__(self, service: Service, core: WorkerCore, wake: Callable[[], None]) -> None:
        self._service = service
        self._core = core
        self._wake = wake
        self._todo: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._done: deque[tuple[bytes, bytes, float]] = deque()
        threads = 0 if service.inline else core.settings.slots
        self._threads = [threading.Thread(target=self._work, name=f"job-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Run, now: float) -> None:
        """Take a job from the core; one that never blocks is done at once."""
        if self._service.inline:
            self._core.finished(*self._handle(job), now)
        else:
            self._todo.put(job)

    def collect(self, now: float) -> None:
        """Tell the core what has finished since."""
        while self._done:
            self._core.finished(*self._done.popleft(), now)

    def close(self) -> None:
        """Let the threads end after what they are doing."""
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(timeout=1)
        self._service.close()

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            self._done.append(self._handle(job))
            self._wake()

    def _handle(self, job: Run) -> tuple[bytes, bytes, float]:
        """Return the job's id, its answer and the seconds it took."""
        started = monotonic()
        try:
            answer = self._service.handle(job.region, job.body, job.deadline - started)
        except Exception:  # a service should not raise; if it does, its client gets an empty reply, not silence
            log.exception("the service %s failed", self._service.name)
            answer = b""
        return job.job, answer, monotonic() - started
