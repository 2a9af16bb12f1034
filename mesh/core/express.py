"""The express lane: the two messages that make up nearly all traffic, each decided in one go.

Theory of operation. A client's REQUEST for this broker's own region and a worker's REPLY to it pass a dozen small
functions of `BrokerCore` and `Dispatcher`, and those calls cost as much as everything else a broker does. Here the same
decisions stand in two functions. Whatever is not ordinary (a peer, another region, a flag, a job that is known or was
given up, ...) they leave alone and say so, and the ordinary way takes it from the start. `tests/unit/test_express.py`
runs random traffic with and without the lane, and every action must be the same.
"""

from mesh.core.actions import Link
from mesh.core.dispatch import Dispatcher
from mesh.core.job import Job
from mesh.core.sessions import Clients
from mesh.core.settings import BrokerSettings
from mesh.protocol import limits
from mesh.protocol.header import ANY_MAP, SIZE, Flag, Kind, pad_region, peek

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
        self._outstanding = jobs.outstanding

    def request(self, sender: bytes, frame: bytes, now: float) -> bool:
        """Take in a client's REQUEST for this region; False if it is anything else."""
        if not SIZE <= len(frame) <= _LARGEST or frame[0] not in _VERSIONS or frame[1] != _REQUEST:
            return False
        head = peek(frame)
        if (
            sender not in self._heard
            or head.region != self._region
            or head.flags & _ROUTED
            or not head.budget_ms
            or head.map_digest not in self._maps
            or head.job in self._outstanding
            or self._jobs.draining
        ):
            return False
        self._heard[sender] = now
        self._jobs.count["requests"] += 1
        job = self._outstanding[head.job] = Job(sender, None, frame, head, now)
        self._jobs.serve(job, now)
        return True

    def reply(self, sender: bytes, frame: bytes, now: float) -> bool:
        """Take in a worker's REPLY to a client's job; False if it is anything else."""
        if not SIZE <= len(frame) <= _LARGEST or frame[0] not in _VERSIONS or frame[1] != _REPLY:
            return False
        jobs = self._jobs
        workers = jobs.workers
        worker = workers.get(sender)
        job = None if worker is None else worker.inflight.get(frame[16:32])
        if worker is None or job is None or job.answered or job.origin_peer is not None:
            return False
        worker.heard = now
        workers.release(worker, job)
        workers.took(int.from_bytes(frame[36:44], "big") / 1e6)  # the header's credit
        del self._outstanding[job.id]
        jobs.count["served"] += 1
        jobs.out.send(_FRONT, job.origin, frame)
        if jobs.waiting.any:
            jobs.refill(worker, now)
        return True
