"""One job on its way through a broker: an entry of the outstanding table."""

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mesh.protocol.header import Flag, Header, readdress, with_budget

_SPILLED = int(Flag.SPILLED)
#: Seconds for each millisecond of budget that a job may have waited before its frame needs a new one: 1/64 of it. A
#: worker may go on that much longer than anybody waits; whoever waits is told in time all the same.
SLACK = 1 / 64_000

if TYPE_CHECKING:
    from mesh.core.peers import Peer
    from mesh.core.workers import Worker


# A Struct is made in a quarter of the time of a class with __slots__. What two jobs have in common is no equality.
class Job(Struct, eq=False):
    """A job that was admitted and whose end this broker has not seen yet.

    It is with exactly one of: `worker`, `peer`, or (both None) a queue. `frame` is kept whole, so that the job can be
    started again when what it is with dies. Times are in seconds, on the loop's clock.
    """

    id: bytes
    origin: bytes
    frame: bytes
    flags: int
    attempt: int
    arrived: float
    deadline: float
    #: Until then the budget in the frame is right enough to go on.
    fresh: float
    #: A peer refused it, or it is not ours to give away.
    local_only: bool = False
    origin_peer: "Peer | None" = None
    worker: "Worker | None" = None
    peer: "Peer | None" = None
    #: Nobody waits for the answer any more, but a worker still has the job in hand.
    answered: bool = False

    def __repr__(self) -> str:
        where: Any = self.worker or self.peer or "queue"
        return f"<Job {self.id.hex()[:8]} from {self.origin!r} with {where} attempt {self.attempt}>"

    @property
    def home(self) -> bytes:
        """The region whose data it is about, as it stands in the header."""
        return self.frame[8:16]

    @property
    def idempotent(self) -> bool:
        """Whether it may be started a second time."""
        return bool(self.flags & Flag.IDEMPOTENT)

    def frame_here(self, now: float) -> bytes:
        """Return the frame for a worker of this region: the same bytes if what they say of the time is right enough."""
        if self.attempt != self.frame[4]:
            return self.frame_for(now)
        if now < self.fresh:
            return self.frame
        return with_budget(self.frame, max(0, int((self.deadline - now) * 1000)))

    def frame_for(self, now: float, *, flags: int = 0, demand: int = 0, credit: int = 0) -> bytes:
        """Return the frame to send on, with a new header."""
        return readdress(
            self.frame,
            flags=self.flags | flags,
            attempt=self.attempt,
            budget_ms=max(0, int((self.deadline - now) * 1000)),
            demand=demand,
            credit=credit,
        )


def admitted(origin: bytes, origin_peer: "Peer | None", frame: bytes, head: Header, now: float) -> Job:
    """Return the job of a REQUEST that has just arrived."""
    return Job(
        head.job, origin, frame, head.flags, head.attempt, now, now + head.budget_ms * 0.001,
        now + head.budget_ms * SLACK, head.flags & _SPILLED != 0, origin_peer,
    )  # fmt: skip
