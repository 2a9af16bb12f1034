"""BrokerCore: hears every message, keeps the sessions, and hands jobs to the `Dispatcher`.

It owns no socket and no clock: the loop tells it what arrived and what time it is, and performs the actions it returns.
"""

from collections.abc import Callable

from mesh.core import status
from mesh.core.actions import Action, Link, Outbox, Stop
from mesh.core.dispatch import Dispatcher
from mesh.core.express import Express
from mesh.core.neighbours import Neighbours
from mesh.core.peers import Peer, Peers
from mesh.core.sessions import Clients
from mesh.core.settings import BrokerSettings
from mesh.core.workers import Worker
from mesh.errors import InvalidRequest
from mesh.protocol import body
from mesh.protocol.header import NO_JOB, SIZE, Header, Kind, Reason, encode, explain, fault, peek, read
from mesh.protocol.refusal import nack
from mesh.protocol.session import Role, State, follow, refusal

#: Seconds between sweeps of the outstanding table; deadlines are kept to this.
SWEEP_SECONDS = 0.02
#: A drain ends when no request has come for so many seconds: as long as what was sent before its sender knew of the
#: drain may be on its way. A connection that is closed with requests in it leaves the fate of writes unknown.
QUIET_SECONDS = 0.1
#: But those who go on asking cannot keep a broker longer than this, in seconds.
LONGEST_QUIET_SECONDS = 1.0

# An IntEnum's member compares slower than the plain number.
_FRONT, _LOCAL = int(Link.FRONT), int(Link.LOCAL)

_ClientHandler = Callable[[bytes, bytes, Header, float], None]


class BrokerCore:
    """The decisions of one broker; see `mesh.core.actions.Core` for how to drive it."""

    def __init__(self, settings: BrokerSettings, now: float) -> None:
        self.settings = settings
        self.out = Outbox()
        self.peers = Peers(settings.region, settings.regions)
        self.jobs = Dispatcher(settings, self.peers, self.out)
        self.clients = Clients()
        self.neighbours = Neighbours(settings, self.jobs)
        self._express = Express(settings, self.clients, self.jobs)
        self.started = now
        self._next_beat = now
        self._next_sweep = now
        self._drain_until: float | None = None
        #: In a drain: since when, since when no request has come, and how many had come by then.
        self._drain_from = self._quiet_from = now
        self._requests = 0
        self._client_kinds: dict[int, _ClientHandler] = {
            Kind.HELLO: self._client_hello,
            Kind.CANCEL: lambda sender, _frame, head, _now: self.jobs.cancel(sender, head.job),
            Kind.HEARTBEAT: lambda sender, frame, _head, _now: self.out.send(Link.FRONT, sender, frame),
            Kind.GOODBYE: lambda sender, _frame, _head, _now: self.clients.drop(sender),
            Kind.PING: lambda sender, _frame, head, _now: self._reply(sender, head, b""),
            Kind.REGIONS: lambda sender, _frame, head, _now: self._reply(sender, head, self.settings.region_map),
            Kind.STATUS: lambda sender, _frame, head, now: self._reply(sender, head, body.encode(self.status(now))),
        }

    def __repr__(self) -> str:
        return f"<BrokerCore {self.settings.region} outstanding={len(self.jobs.outstanding)}>"

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def receive(self, link: int, sender: bytes, frame: bytes, now: float) -> None:
        """Take in one message."""
        if link == _LOCAL:
            done = self._express.reply(sender, frame, now)
        else:
            done = link == _FRONT and self._express.request(sender, frame, now)
        if not done:
            self._ordinary(link, sender, frame, now)

    def _ordinary(self, link: int, sender: bytes, frame: bytes, now: float) -> None:
        head = read(frame)
        if head is None:
            wrong = fault(frame) or Reason.MALFORMED
            # Of a message that is too large the header is sound, so whoever waits for this job learns of it.
            job = peek(frame).job if wrong is Reason.TOO_LARGE else NO_JOB
            self._garbage(link, sender, wrong, explain(frame, wrong), now, job)
        elif link == _LOCAL:
            self._from_worker(sender, frame, head, now)
        elif link == _FRONT:
            self._from_front(sender, frame, head, now)
        else:
            self._from_back(sender, frame, head, now)

    def take(self, now: float) -> list[Action]:
        """Return what was decided since the last call, and what peers should know of it."""
        self.neighbours.settle(now)
        return self.out.take()

    def malformed(self, link: int, sender: bytes, parts: int, now: float) -> None:
        """Refuse a message of more than one part."""
        self._garbage(link, sender, Reason.MALFORMED, f"a message is one frame, this one has {parts}", now)

    def undeliverable(self, link: int, to: bytes, frame: bytes, now: float) -> None:
        """React to a message that could not be handed over."""
        self.jobs.count["undeliverable"] += 1
        if link == Link.LOCAL:
            self._worker_unreachable(to, frame, now)
        elif link == Link.BACK:
            self._peer_unreachable(to, frame, now)
        else:
            self.clients.drop(to)

    def tick(self, now: float) -> None:
        """Keep deadlines, heartbeats and the drain."""
        self.jobs.sweep(now)
        self._next_sweep = now + SWEEP_SECONDS
        if now >= self._next_beat:
            self._next_beat = now + self.settings.heartbeat
            self._beat(now)
        if self.jobs.draining and not self.jobs.workers.slots:
            self.jobs.hand_back()
        if self._drain_until is not None and ((self.jobs.idle and self._quiet(now)) or now >= self._drain_until):
            self._leave()

    def wake_at(self) -> float:
        """Return when the next tick is due."""
        busy = self.jobs.outstanding or self._drain_until is not None
        return min(self._next_beat, self._next_sweep) if busy else self._next_beat

    def drain(self, now: float) -> None:
        """Refuse new jobs, finish those that are here, say goodbye, and `Stop`."""
        if self._drain_until is None:
            self._drain_until = now + self.settings.grace
            self._drain_from = self._quiet_from = now
            self._requests = self.jobs.count["requests"]
            self.jobs.draining = True
            self.out.log("info", "draining", jobs=len(self.jobs.outstanding))
            self.jobs.hand_back()
            self.neighbours.announce_drain()
            self._tell_clients(Kind.DRAIN)

    def status(self, now: float) -> dict[str, object]:
        """Return everything an operator may want to see."""
        return status.report(self.settings, self.jobs, len(self.clients), now - self.started)

    # -- the three links -----------------------------------------------------------------------------------------------

    def _from_front(self, sender: bytes, frame: bytes, head: Header, now: float) -> None:
        peer = self.peers.get(sender)
        if peer is not None:
            self._from_asking_peer(peer, frame, head, now)
        else:
            self._from_client(sender, frame, head, now)

    def _from_client(self, sender: bytes, frame: bytes, head: Header, now: float) -> None:
        state = self.clients.state(sender)
        if follow(Role.CLIENT, state, head.kind) is None:
            self._refuse(Link.FRONT, sender, head, refusal(Role.CLIENT, state, head.kind))
            return
        if state is State.OPEN:
            self.clients.hear(sender, now)
        if head.kind == Kind.REQUEST:
            self.jobs.admit(sender, None, frame, head, now)
        else:
            self._client_kinds[head.kind](sender, frame, head, now)

    def _from_asking_peer(self, peer: Peer, frame: bytes, head: Header, now: float) -> None:
        after = follow(Role.ASKING_PEER, peer.asking, head.kind)
        if after is None:
            self._refuse(Link.FRONT, peer.routing_id, head, refusal(Role.ASKING_PEER, peer.asking, head.kind))
            return
        peer.asking_heard = now
        if head.kind == Kind.REQUEST:
            peer.grant.wanted = head.demand
            self.jobs.admit(peer.routing_id, peer, frame, head, now)
            self.neighbours.changed = True
        elif head.kind == Kind.CANCEL:
            self.jobs.cancel(peer.routing_id, head.job)
        else:
            self.neighbours.asked(peer, frame, head, after)

    def _from_back(self, sender: bytes, frame: bytes, head: Header, now: float) -> None:
        peer = self.peers.get(sender)
        after = None if peer is None else follow(Role.SERVING_PEER, peer.serving, head.kind)
        if peer is None or after is None:
            self.jobs.count["unexpected"] += 1
            return
        self.neighbours.served(peer, frame, head, after, now)

    def _from_worker(self, sender: bytes, frame: bytes, head: Header, now: float) -> None:
        worker = self.jobs.workers.get(sender)
        state = State.NEW if worker is None else worker.state
        if follow(Role.WORKER, state, head.kind) is None:
            self._refuse(Link.LOCAL, sender, head, refusal(Role.WORKER, state, head.kind))
        elif worker is None or head.kind == Kind.READY:
            self._worker_ready(sender, worker, frame, now)
        else:
            worker.heard = now
            self._worker_says(worker, frame, head, now)

    # -- workers -------------------------------------------------------------------------------------------------------

    def _worker_says(self, worker: Worker, frame: bytes, head: Header, now: float) -> None:
        if head.kind in {Kind.REPLY, Kind.NACK}:
            self.jobs.complete(worker, frame, head, now)
        elif head.kind == Kind.HEARTBEAT:
            self.out.send(Link.LOCAL, worker.id, frame)
        elif head.kind == Kind.DRAIN:
            self.jobs.workers.drain(worker)
        elif head.kind == Kind.GOODBYE:
            self.jobs.retry(self.jobs.workers.remove(worker), now, "the worker left with the job unfinished")
            self.out.log("info", "worker left", worker=worker.instance, done=worker.done)

    def _worker_ready(self, sender: bytes, worker: Worker | None, frame: bytes, now: float) -> None:
        try:
            ready = body.decode_ready(frame[SIZE:])
        except InvalidRequest as error:
            self._garbage(Link.LOCAL, sender, Reason.MALFORMED, f"READY: {error}", now)
            return
        own_map = self.settings.map_digest.hex()
        if ready.map_digest != own_map:  # it would take writes for regions that do not own them
            text = f"the region maps differ: the worker has {ready.map_digest}, the broker {own_map}"
            self.out.log_rarely(now, "error", "worker has another region map", worker=ready.instance)
            self.out.send(Link.LOCAL, sender, nack(Reason.STALE_MAP, text))
            return
        fresh = worker is None
        worker = worker or Worker(sender, now)
        worker.instance, worker.epoch, worker.service = ready.instance, ready.epoch, ready.service
        worker.slots, worker.window = max(1, ready.slots), max(1, ready.slots, ready.window)
        worker.heard = now
        self.jobs.workers.open(worker)
        if fresh:
            self.out.log("info", "worker ready", worker=worker.instance, service=worker.service, slots=worker.slots)
        self.out.send(Link.LOCAL, sender, self._welcome())
        self.jobs.pump(now)

    def _worker_unreachable(self, to: bytes, frame: bytes, now: float) -> None:
        worker = self.jobs.workers.get(to)
        if worker is None:
            return
        job = worker.inflight.get(peek(frame).job)
        if job is not None and not job.answered:  # it never got there: trying elsewhere is free, even for a write
            del worker.inflight[job.id]
            job.worker = None
            self.jobs.waiting.again.appendleft(job)
        self.jobs.lose_worker(worker, now, "unreachable")

    # -- clients -------------------------------------------------------------------------------------------------------

    def _client_hello(self, sender: bytes, frame: bytes, head: Header, now: float) -> None:
        try:
            hello = body.decode_hello(frame[SIZE:])
        except InvalidRequest as error:
            self._garbage(Link.FRONT, sender, Reason.MALFORMED, f"HELLO: {error}", now)
            return
        if self.jobs.draining:
            self._refuse(Link.FRONT, sender, head, Reason.DRAINING, "this broker is shutting down")
        elif hello.role != "client":
            self._refuse(
                Link.FRONT, sender, head, Reason.UNEXPECTED, "a peer must bear its region's name as routing id"
            )
        elif self.clients.full:
            self._refuse(Link.FRONT, sender, head, Reason.BUSY, "no further client can be served")
        else:
            self.clients.hear(sender, now)
            self.out.send(Link.FRONT, sender, self._welcome())

    def _reply(self, sender: bytes, head: Header, content: bytes) -> None:
        answer = Header(kind=Kind.REPLY, job=head.job, map_digest=self.settings.map_digest)
        self.out.send(Link.FRONT, sender, encode(answer, content))

    def _welcome(self) -> bytes:
        return self.neighbours.welcome()

    # -- peers ---------------------------------------------------------------------------------------------------------

    def _peer_unreachable(self, to: bytes, frame: bytes, now: float) -> None:
        peer = self.peers.get(to)
        if peer is None:
            return
        job = self.jobs.outstanding.get(peek(frame).job)
        lost = peer.alive
        if job is not None and job.peer is peer:  # it never left, so serving it here is free
            job.peer = None
            self.jobs.waiting.again.append(job)
        if lost:
            self.jobs.lose_peer(peer, now, "unreachable")
        self.jobs.pump(now)

    # -- refusals ------------------------------------------------------------------------------------------------------

    def _garbage(self, link: int, sender: bytes, reason: Reason, text: str, now: float, job: bytes = NO_JOB) -> None:
        """Count, log and answer what is no message; what comes from the serving side is not answered, lest it echo."""
        self.jobs.count[f"garbage_{reason.name.lower()}"] += 1
        self.out.log_rarely(now, "warning", "garbage", link=Link(link).name.lower(), sender=sender.hex(), why=text)
        if link != Link.BACK:
            self.out.send(link, sender, nack(reason, text, job=job))

    def _refuse(self, link: Link, sender: bytes, head: Header, reason: Reason, text: str = "") -> None:
        """Refuse a message that is well formed but not allowed now; a NACK is never answered."""
        self.jobs.count[f"refused_{reason.name.lower()}"] += 1
        if head.kind != Kind.NACK:
            said = Kind(head.kind).name
            hint = {Reason.NO_SESSION: f"say HELLO or READY before {said}"}.get(reason, f"{said} is not allowed here")
            self.out.send(link, sender, nack(reason, text or hint, job=head.job))

    # -- time ----------------------------------------------------------------------------------------------------------

    def _beat(self, now: float) -> None:
        workers = self.jobs.workers
        for worker in workers.silent(now, self.settings.patience):
            self.jobs.lose_worker(worker, now, f"silent for {now - worker.heard:.2f} s")
        workers.resize()
        self.clients.expire(now)
        self.neighbours.beat(now)

    def _quiet(self, now: float) -> bool:
        """Whether no request has come for a while."""
        requests = self.jobs.count["requests"]
        if requests != self._requests:
            self._requests, self._quiet_from = requests, now
        return now >= min(self._quiet_from + QUIET_SECONDS, self._drain_from + LONGEST_QUIET_SECONDS)

    def _tell_clients(self, kind: Kind) -> None:
        frame = encode(Header(kind=kind, job=NO_JOB))
        for client in list(self.clients.heard):
            self.out.send(Link.FRONT, client, frame)

    def _leave(self) -> None:
        goodbye = encode(Header(kind=Kind.GOODBYE, job=NO_JOB))
        for worker in self.jobs.workers:
            self.out.send(Link.LOCAL, worker.id, goodbye)
        self.neighbours.leave(goodbye)
        self._tell_clients(Kind.GOODBYE)
        self.out.log("info", "drained", unfinished=len(self.jobs.outstanding))
        self.out.actions.append(Stop())
