"""The open jobs of a client's link, by what its caller calls them and by what they are called on the wire.

The two differ once a job was asked anew after a lost link: under its first name it may still run somewhere in the mesh,
and a broker that meets it again from elsewhere takes it for a stranger's (DUPLICATE).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.core.requests import Request
from mesh.protocol.header import Flag


@dataclass(slots=True)
class Job:
    """One request on its way to an outcome."""

    #: What its caller calls it: 16 random bytes.
    id: bytes
    #: What it is called on the wire.
    wire: bytes
    request: Request
    deadline: float
    #: When a refused job may go out again; None when it waits for nothing but an answer or the wire.
    due: float | None = None
    on_its_way: bool = False
    attempt: int = 0
    greetings: int = 0
    #: Which of our sessions with brokers it was sent in.
    session: int = 0

    @property
    def repeatable(self) -> bool:
        """Whether running it twice does no harm."""
        return bool(self.request.flags & Flag.IDEMPOTENT)


class Asked:
    """All open jobs."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Job] = {}
        #: Names on the wire that are not the caller's.
        self._aliases: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._by_id.values()))

    def __contains__(self, job_id: bytes) -> bool:
        return job_id in self._by_id

    def add(self, job_id: bytes, request: Request, deadline: float) -> Job:
        """Take in a job."""
        job = self._by_id[job_id] = Job(job_id, job_id, request, deadline)
        return job

    def get(self, job_id: bytes) -> Job | None:
        """Return the job that its caller calls so."""
        return self._by_id.get(job_id)

    def find(self, wire: bytes) -> Job | None:
        """Return the job that is called so on the wire, at present."""
        job = self._by_id.get(self._aliases.get(wire, wire))
        return job if job is not None and job.wire == wire else None

    def forget(self, job_id: bytes) -> Job | None:
        """Remove and return a job."""
        job = self._by_id.pop(job_id, None)
        if job is not None:
            self._aliases.pop(job.wire, None)
        return job

    def rename(self, job: Job) -> None:
        """Give a job another name on the wire."""
        self._aliases.pop(job.wire, None)
        job.wire = job.wire[:-1] + bytes([(job.wire[-1] + 1) % 256])
        self._aliases[job.wire] = job.id
