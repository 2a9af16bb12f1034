"""The express lane: the two messages that make up nearly all traffic, each decided in one go.

Theory of operation. A client's REQUEST for this broker's own region and a worker's REPLY to it pass a dozen small
functions of `BrokerCore` and `Dispatcher`, and those calls cost as much as everything else a broker does. Here the same
decisions stand in two functions. Whatever is not ordinary (a peer, another region, a flag, a job that is known or was
given up, ...) they leave alone and say so, and the ordinary way takes it from the start. `tests/unit/test_express.py`
runs random traffic with and without the lane, and every action must be the same.
"""

from mesh.core.actions import Link
from mesh.core.dispatch import Dispatcher
from mesh.core.job import SLACK, Job
from mesh.core.sessions import Clients
from mesh.core.settings import BrokerSettings
from mesh.protocol import limits
from mesh.protocol.header import ANY_MAP, SIZE, Flag, Kind, pad_region, skim, took_seconds

_ROUTED = Flag.SPILLED | Flag.FORWARDED
# Plain numbers in names of this module: an enum's member, or another module's attribute, is looked up each time.
_REQUEST, _REPLY = int(Kind.REQUEST), int(Kind.REPLY)
_FRONT = int(Link.FRONT)
_VERSIONS, _LARGEST = limits.VERSIONS, limits.MAX_FRAME_BYTES


class Express:
    """Knows a broker's clients and jobs, and decides the ordinary about them."""

    def __init__(self, settings: BrokerSettings, clients: Clients, jobs: Dispatcher) -> None:
        self._region = pad_region(settings.region)
        self._maps = frozenset((settings.map_digest, ANY_MAP))
        self._heard = clients.heard
        self._jobs = jobs
        self._count = jobs.count
        self._outstanding = jobs.outstanding
        self._worker = jobs.workers.get

    def request(self, sender: bytes, frame: bytes, now: float) -> bool:
        """Take in a client's REQUEST for this region; False if it is anything else."""
        if not SIZE <= len(frame) <= _LARGEST or frame[1] != _REQUEST or frame[0] not in _VERSIONS:
            return False
        flags, attempt, region, job_id, budget_ms, map_digest = skim(frame)
        if (
            region != self._region
            or flags & _ROUTED
            or not budget_ms
            or sender not in self._heard
            or map_digest not in self._maps
            or job_id in self._outstanding
            or self._jobs.draining
        ):
            return False
        self._heard[sender] = now
        self._count["requests"] += 1
        job = Job(job_id, sender, frame, flags, attempt, now, now + budget_ms * 0.001, now + budget_ms * SLACK)
        self._outstanding[job_id] = job
        self._jobs.serve(job, now)
        return True

    def reply(self, sender: bytes, frame: bytes, now: float) -> bool:
        """Take in a worker's REPLY to a client's job; False if it is anything else."""
        if not SIZE <= len(frame) <= _LARGEST or frame[1] != _REPLY or frame[0] not in _VERSIONS:
            return False
        worker = self._worker(sender)
        job = None if worker is None else worker.inflight.get(frame[16:32])
        if worker is None or job is None or job.answered or job.origin_peer is not None:
            return False
        jobs = self._jobs
        worker.heard = now
        jobs.workers.release(worker, job)
        jobs.workers.took(took_seconds(frame))
        del self._outstanding[job.id]
        self._count["served"] += 1
        jobs.out.send(_FRONT, job.origin, frame)
        jobs.refill(worker, now)
        return True
