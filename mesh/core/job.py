"""One job on its way through a broker: an entry of the outstanding table."""

from typing import TYPE_CHECKING

from mesh.protocol.header import Flag, Header, readdress

_SPILLED = int(Flag.SPILLED)

if TYPE_CHECKING:
    from mesh.core.peers import Peer
    from mesh.core.workers import Worker


class Job:
    """A job that was admitted and whose end this broker has not seen yet.

    It is with exactly one of: `worker`, `peer`, or (both None) a queue. `frame` is kept whole, so that the job can be
    started again when what it is with dies.
    """

    __slots__ = (
        "answered",
        "arrived",
        "attempt",
        "deadline",
        "flags",
        "frame",
        "id",
        "local_only",
        "origin",
        "origin_peer",
        "peer",
        "worker",
    )

    def __init__(self, origin: bytes, origin_peer: "Peer | None", frame: bytes, head: Header, now: float) -> None:
        self.id = head.job
        self.origin = origin
        self.origin_peer = origin_peer
        self.frame = frame
        self.flags = head.flags
        self.attempt = head.attempt
        self.arrived = now
        self.deadline = now + head.budget_ms / 1000.0
        self.worker: Worker | None = None
        self.peer: Peer | None = None
        #: Nobody waits for the answer any more, but a worker still has the job in hand.
        self.answered = False
        #: A peer refused it, or it is not ours to give away.
        self.local_only = head.flags & _SPILLED != 0

    def __repr__(self) -> str:
        where = self.worker or self.peer or "queue"
        return f"<Job {self.id.hex()[:8]} from {self.origin!r} with {where} attempt {self.attempt}>"

    @property
    def home(self) -> bytes:
        """The region whose data it is about, as it stands in the header."""
        return self.frame[8:16]

    @property
    def idempotent(self) -> bool:
        """Whether it may be started a second time."""
        return bool(self.flags & Flag.IDEMPOTENT)

    def frame_for(self, now: float, *, flags: int = 0, demand: int = 0, credit: int = 0) -> bytes:
        """Return the frame to send on: the same bytes if nothing changed, else with a new header.

        Within the first millisecond the budget in the frame is still right.
        """
        if not flags and now - self.arrived < 0.001 and self.attempt == self.frame[4]:
            return self.frame
        return readdress(
            self.frame,
            flags=self.flags | flags,
            attempt=self.attempt,
            budget_ms=max(0, int((self.deadline - now) * 1000)),
            demand=demand,
            credit=credit,
        )
