"""Jobs that wait for a worker: bounded, and in order."""

from collections import deque

from mesh.core.job import Job


class Waiting:
    """Three queues.

    `again`: jobs that were started or offered elsewhere and came back; they are the oldest and go first.
    `own`: jobs of this broker's clients and jobs forwarded to it as the owner; only these may spill.
    `spilled`: jobs other regions spilled here against a credit, which bounds them. No credit is granted while own work
    waits, but what was granted before is served in its turn: the older head of the two goes first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.again: deque[Job] = deque()
        self.own: deque[Job] = deque()
        self.spilled: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self.again) + len(self.own) + len(self.spilled)

    @property
    def local(self) -> int:
        """Jobs waiting that are this region's own business."""
        return len(self.own) + len(self.again)

    @property
    def full(self) -> bool:
        """Whether a new job of one's own must be refused."""
        return len(self.own) >= self.limit

    def first(self) -> deque[Job] | None:
        """Return the queue whose head is next, None if all are empty."""
        if self.again:
            return self.again
        if self.own and self.spilled:
            return self.own if self.own[0].arrived <= self.spilled[0].arrived else self.spilled
        return self.own or self.spilled or None

    def discard_answered(self) -> None:
        """Drop the jobs that ended while they waited."""
        for name in ("again", "own", "spilled"):
            queue: deque[Job] = getattr(self, name)
            if any(job.answered for job in queue):
                setattr(self, name, deque(job for job in queue if not job.answered))
