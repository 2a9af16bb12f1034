"""Where each job goes: a worker here, its owner, a peer that granted room, the queue, or back with a refusal.

Theory of operation. A job that is admitted stands in the outstanding table until its end was seen: an answer, a
refusal, or its deadline. In between it is with exactly one of a worker, a peer, or a queue. Three rules bound its way:
it is forwarded at most once (to the owner of its region), spilled at most once (by the owner), and a spilled job stays
where it is. So it makes two hops at most.

The order of choices for a job that is this broker's to serve: an idle worker; a peer with credit that is nearer than
the wait here; room on a busy worker (`workers.PREFETCH_SECONDS`); the queue; BUSY. `pump` repeats them for whoever
waits, each time a worker falls free or credit arrives, so that no worker idles while a job waits.
"""

from collections import Counter
from collections.abc import Iterable
from math import inf, isfinite

from mesh.core import credit
from mesh.core.actions import Link, Outbox
from mesh.core.job import Job, admitted
from mesh.core.peers import Peer, Peers
from mesh.core.queue import Waiting
from mesh.core.settings import BrokerSettings
from mesh.core.workers import Worker, Workers
from mesh.protocol import limits
from mesh.protocol.header import ANY_MAP, Flag, Header, Kind, Reason, encode, with_credit
from mesh.protocol.refusal import nack
from mesh.protocol.session import State

#: Refusals of a job given to a peer that cost nothing: it was not taken in there, so it is served here after all.
_FREE_REFUSALS = frozenset({Reason.NO_CREDIT, Reason.BUSY, Reason.DRAINING, Reason.NO_SESSION, Reason.DUPLICATE})

#: A broker without workers keeps so many queues full of jobs: it has just come up, its workers are about to find it,
#: and a crowd that waited for it is there already. Their deadlines bound what waits if none come.
UNSTAFFED_QUEUES = 16


class Dispatcher:
    """The outstanding table and the decisions about its jobs."""

    def __init__(self, settings: BrokerSettings, peers: Peers, out: Outbox) -> None:
        self.settings = settings
        self.peers = peers
        self.out = out
        self.workers = Workers(settings.window)
        self.waiting = Waiting(settings.queue)
        self.outstanding: dict[bytes, Job] = {}
        self.count: Counter[str] = Counter()
        self.draining = False
        #: How many waiting jobs the peers were last told of.
        self.told_demand = 0

    # -- a job comes in ------------------------------------------------------------------------------------------------

    def admit(self, origin: bytes, peer: Peer | None, frame: bytes, head: Header, now: float) -> None:
        """Take in a REQUEST from a client, or from a peer, and send it where it should go."""
        self.count["requests"] += 1
        why = self._why_not(peer, head)
        if why is not None:
            self.refuse(origin, head.job, *why)
            return
        known = self.outstanding.get(head.job)
        if known is not None:
            self._again(known, origin)
            return
        job = self.outstanding[head.job] = admitted(origin, peer, frame, head, now)
        if job.flags & Flag.SPILLED:
            self._host(job, now)
        else:
            self.route(job, now)

    def _why_not(self, peer: Peer | None, head: Header) -> tuple[Reason, str] | None:
        if self.draining:
            return Reason.DRAINING, f"the broker of {self.settings.region} is shutting down"
        if head.region not in self.peers.owners:
            known = ", ".join(self.settings.regions)
            return Reason.UNKNOWN_REGION, f"there is no such region; this mesh has {known}"
        if peer is None and head.map_digest not in {self.settings.map_digest, ANY_MAP}:
            return Reason.STALE_MAP, "the region map has changed; fetch it again"
        if not head.budget_ms:
            return Reason.EXPIRED, "the request arrived with no time left"
        return None

    def _again(self, known: Job, origin: bytes) -> None:
        """Ignore a repeated request; refuse a stranger who uses a job id that is taken."""
        self.count["repeated"] += 1
        if known.origin != origin:
            self.refuse(origin, known.id, Reason.DUPLICATE, "another client has a job with this id; ids must be random")

    def route(self, job: Job, now: float) -> None:
        """Forward a job to the owner of its data if that lives, else serve it as one's own."""
        owner = self.peers.owners[job.home]
        if owner is None or job.flags & Flag.FORWARDED or not owner.alive:
            self.serve(job, now)
        else:
            self.count["forwarded"] += 1
            owner.forwarded += 1
            self._send_to_peer(job, owner, Flag.FORWARDED, now)

    def serve(self, job: Job, now: float) -> None:
        """Start a job here or at a peer, or queue it, or refuse it."""
        waiting = self.waiting
        if not (waiting.own or waiting.again) and self._place(job, now):
            return
        if waiting.full and (self.workers.slots or waiting.local >= UNSTAFFED_QUEUES * waiting.limit):
            self.count["busy"] += 1
            wait = self.workers.expected_wait(waiting.local)
            # Without workers the wait is infinite, which says nothing about when some will come.
            after = wait if isfinite(wait) else None
            self.end(job, Reason.BUSY, f"the queue of {self.settings.region} is full", retry_after=after)
        else:
            self.count["queued"] += 1
            self.waiting.own.append(job)
            self._relieve(now)

    def _host(self, job: Job, now: float) -> None:
        """Serve a job that a peer spilled here, against its credit."""
        peer = job.origin_peer
        if peer is None or peer.grant.unspent <= 0:
            self.count["over_credit"] += 1
            self.end(job, Reason.NO_CREDIT, "no credit left for a spilled job")
            return
        peer.grant.received += 1
        peer.spilled_in += 1
        self.count["spilled_in"] += 1
        if self.waiting.local or not self._place(job, now):
            self.waiting.spilled.append(job)

    def _place(self, job: Job, now: float) -> bool:
        """Give a job to whoever should have it now; False if it has to wait."""
        worker = self.workers.idle()
        if worker is None:
            peer = None if job.local_only else self._spill_target(job)
            if peer is not None:
                self._spill(job, peer, now)
                return True
            worker = self.workers.roomiest()
            if worker is None:
                return False
        self._start(job, worker, now)
        return True

    def _start(self, job: Job, worker: Worker, now: float) -> None:
        self.workers.assign(worker, job)
        self.out.send(Link.LOCAL, worker.id, job.frame_here(now))

    def _spill_target(self, job: Job) -> Peer | None:
        """Return the peer where the job is better off than waiting here."""
        nearest = self.peers.nearest_cost
        if nearest == inf:
            return None
        wait = self.workers.expected_wait(self.waiting.local)
        if wait <= nearest:
            return None
        # Not back to where it came from: there its id is taken.
        return self.peers.cheapest(wait, self.workers.turn_seconds, job.origin_peer)

    def _spill(self, job: Job, peer: Peer, now: float) -> None:
        self.count["spilled_out"] += 1
        peer.spilled_out += 1
        peer.wallet.sent += 1
        self._send_to_peer(job, peer, Flag.SPILLED, now)

    def _send_to_peer(self, job: Job, peer: Peer, flag: Flag, now: float) -> None:
        job.peer = peer
        self.told_demand = demand = min(self.waiting.local, 0xFFFF)
        frame = job.frame_for(now, flags=flag, demand=demand, credit=peer.wallet.sent)
        self.out.send(Link.BACK, peer.routing_id, frame)

    # -- those who wait ------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Start what waits, as far as workers and credit reach."""
        while queue := self.waiting.first():
            job = queue[0]
            if job.answered:
                queue.popleft()
            elif job.deadline <= now:
                queue.popleft()
                self.expire(job)
            elif self._place(job, now):
                queue.popleft()
            else:
                break
        self._relieve(now)

    def _relieve(self, now: float) -> None:
        """Spill from the head of the queue while a peer is nearer than the wait here.

        The wait grows with each job behind the head: a peer that was too far for it when it came need not be any more.
        Jobs in `again` are older and next in turn, so they may stay.
        """
        own = self.waiting.own
        while own and (peer := self._spill_target(own[0])) is not None:
            self._spill(own.popleft(), peer, now)

    def refill(self, worker: Worker, now: float) -> None:
        """Give a worker that has just finished a job what waits: `pump` for the one place where room came up."""
        inflight = worker.inflight
        while (queue := self.waiting.first()) and len(inflight) < worker.room and worker.state is State.OPEN:
            job = queue.popleft()
            if job.answered:
                continue
            if job.deadline <= now:
                self.expire(job)
                continue
            idle = len(inflight) < worker.slots
            peer = None if idle or job.local_only else self._spill_target(job)
            if peer is None:
                self._start(job, worker, now)
            else:
                self._spill(job, peer, now)

    def hand_back(self) -> None:
        """Refuse what waits, because this broker leaves: it was not started, or may be started again."""
        while queue := self.waiting.first():
            job = queue.popleft()
            if not job.answered:
                self.end(job, Reason.DRAINING, f"the broker of {self.settings.region} is shutting down")

    def take_back(self, job: Job, now: float) -> None:
        """Serve a job again that came back without having been started."""
        job.peer = None
        job.local_only = True
        if not self._place(job, now):
            self.waiting.again.append(job)

    def retry(self, jobs: Iterable[Job], now: float, why: str) -> None:
        """Start again the jobs whose worker or peer was lost; refuse those that must not run twice."""
        for job in jobs:
            job.worker = job.peer = None
            if job.answered:
                self.outstanding.pop(job.id, None)
            elif not job.idempotent:
                self.end(job, Reason.WORKER_LOST, f"{why}; it may or may not have been done", retry=False)
            elif job.attempt + 1 >= limits.MAX_ATTEMPTS:
                self.end(job, Reason.WORKER_LOST, f"{why}, {job.attempt + 1} times in a row", retry=False)
            else:
                job.attempt += 1
                self.count["requeued"] += 1
                self.waiting.again.append(job)
        self.pump(now)

    # -- a job ends ----------------------------------------------------------------------------------------------------

    def complete(self, worker: Worker, frame: bytes, head: Header, now: float) -> None:
        """Take a worker's answer (REPLY or NACK) and pass it to whoever asked."""
        job = worker.inflight.get(head.job)
        if job is None:
            self.count["late"] += 1
            return
        self.workers.release(worker, job)
        if head.kind == Kind.REPLY:
            self.workers.took(head.credit / 1e6)
        del self.outstanding[head.job]
        if job.answered:
            self.count["late"] += 1
        else:
            self.count["served"] += 1
            self.answer(job, frame)
        self.refill(worker, now)

    def returned(self, peer: Peer, frame: bytes, head: Header, now: float) -> None:
        """Take a peer's answer (REPLY or NACK) to a job that was forwarded or spilled to it."""
        job = self.outstanding.get(head.job)
        if job is None or job.peer is not peer:
            self.count["late"] += 1
        elif head.kind == Kind.NACK and head.reason == Reason.CANCELLED:
            del self.outstanding[job.id]
        elif head.kind == Kind.NACK and head.reason in _FREE_REFUSALS and self._may_take_back(job, head.reason):
            self.count["taken_back"] += 1
            self.take_back(job, now)
        else:
            del self.outstanding[job.id]
            self.answer(job, frame)

    def _may_take_back(self, job: Job, reason: int) -> bool:
        """Whether a refused job is ours to serve: we spilled it, or its owner is on the way out or just came back.

        DUPLICATE: whoever we gave it to first, and lost, had sent it there; so it may be done twice, or not by us.
        """
        if reason == Reason.DUPLICATE:
            return job.idempotent
        mine = self.peers.owners[job.home] is None or bool(job.flags & Flag.FORWARDED)
        return mine or reason in {Reason.DRAINING, Reason.NO_SESSION}

    def answer(self, job: Job, frame: bytes) -> None:
        """Send an answer one hop back; on the way to a peer it carries credit."""
        peer = job.origin_peer
        if peer is not None:
            if peer.grant.wanted:
                self.grant()  # so that the answer carries it, and no heartbeat has to
            peer.told_credit = peer.grant.granted
            frame = with_credit(frame, demand=self.unbacked(peer), credit=peer.grant.granted)
        self.out.send(Link.FRONT, job.origin, frame)

    def end(self, job: Job, reason: Reason, text: str, *, retry_after: float | None = None, retry: bool = True) -> None:
        """End a job with a refusal."""
        self.outstanding.pop(job.id, None)
        self._say_no(job, reason, text, retry_after=retry_after, retry=retry)

    def _say_no(
        self, job: Job, reason: Reason, text: str, *, retry_after: float | None = None, retry: bool = True
    ) -> None:
        self.count[f"refused_{reason.name.lower()}"] += 1
        self.answer(job, nack(reason, text, job=job.id, retry_after=retry_after, retry=retry))

    def refuse(self, to: bytes, job_id: bytes, reason: Reason, text: str) -> None:
        """Refuse a request that never became a job."""
        self.count[f"refused_{reason.name.lower()}"] += 1
        self.out.send(Link.FRONT, to, nack(reason, text, job=job_id))

    # -- time, loss and cancellation -----------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """End the jobs whose deadline has passed."""
        expired = [job for job in self.outstanding.values() if job.deadline <= now and not job.answered]
        for job in expired:
            self.expire(job)
        if expired:
            self.waiting.discard_answered()

    def expire(self, job: Job) -> None:
        """End one job because its time is over."""
        self.count["expired"] += 1
        text = f"no answer when the time was over; the job was with {self._whereabouts(job)}"
        self._stop_work(job)
        self._say_no(job, Reason.EXPIRED, text)

    def cancel(self, origin: bytes, job_id: bytes) -> None:
        """Drop a job its origin does not want any more."""
        job = self.outstanding.get(job_id)
        if job is not None and job.origin == origin and not job.answered:
            self.count["cancelled"] += 1
            self._stop_work(job)
            self.waiting.discard_answered()

    def _stop_work(self, job: Job) -> None:
        """Tell whoever has the job; a worker stays occupied until it says so itself."""
        job.answered = True
        notice = Header(kind=Kind.CANCEL, job=job.id)
        if job.worker is not None:
            self.out.send(Link.LOCAL, job.worker.id, encode(notice))
            return
        self.outstanding.pop(job.id, None)
        if job.peer is not None:
            self.out.send(Link.BACK, job.peer.routing_id, encode(notice))

    def _whereabouts(self, job: Job) -> str:
        if job.worker is not None:
            return f"worker {job.worker.instance} of {self.settings.region}"
        return f"broker {job.peer.name}" if job.peer is not None else f"the queue of {self.settings.region}"

    def lose_worker(self, worker: Worker, now: float, why: str) -> None:
        """Forget a worker and start its jobs elsewhere."""
        self.out.log("warning", "worker lost", worker=worker.instance, why=why, jobs=len(worker.inflight))
        self.count["workers_lost"] += 1
        self.retry(self.workers.remove(worker), now, "the worker died while it had the job")

    def lose_peer(self, peer: Peer, now: float, why: str) -> None:
        """Stop sending to a peer and serve here what it had."""
        if peer.alive:
            self.out.log("warning", "peer lost", peer=peer.name, why=why)
            self.count["peers_lost"] += 1
        self.peers.lost(peer)
        self.retry_with(peer, now, f"broker {peer.name} was lost")

    def retry_with(self, peer: Peer, now: float, why: str) -> None:
        """Start again what a peer had."""
        self.retry([job for job in self.outstanding.values() if job.peer is peer], now, why)

    # -- credit --------------------------------------------------------------------------------------------------------

    def grant(self) -> list[Peer]:
        """Raise what peers may spill here, by demand; return those whose limit they do not know yet."""
        asking = {id(peer.grant): peer for peer in self.peers if peer.grant in self.peers.grants()}
        idle = self.workers.idle_slots
        if self.draining or self.waiting.local or not asking:
            return []
        rtts = [peer.rtt_seconds for peer in asking.values() if peer.grant.wanted and isfinite(peer.rtt_seconds)]
        wanted = any(peer.grant.wanted for peer in asking.values())
        farthest = max(rtts, default=0.0)
        extra = credit.prefetch(self.workers.slots, farthest, self.workers.service_seconds) if wanted else 0
        room = idle + extra - len(self.waiting.spilled) if self.workers.slots else 0
        raised = credit.share([peer.grant for peer in asking.values()], room, standing=idle >= 2)
        return [asking[id(grant)] for grant in raised]

    def unbacked(self, peer: Peer) -> int:
        """Return how many of a peer's unspent credits have no idle worker behind them."""
        unspent = peer.grant.unspent
        if unspent <= 0:
            return 0
        others = credit.promised([other.grant for other in self.peers if other is not peer])
        ahead = unspent + others + len(self.waiting.spilled)
        return min(unspent, max(0, ahead - self.workers.idle_slots), 0xFFFF)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to finish."""
        return not self.outstanding
