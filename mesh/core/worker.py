"""WorkerCore: takes jobs from its broker, runs as many at once as it has slots, answers, and keeps in touch.

It owns no socket, no clock and no thread: `Run` asks for a job to be run, `finished` says that it was.
"""

from collections import deque
from math import inf

from mesh.core.actions import Action, Link, Outbox, Run, Stop
from mesh.core.settings import WorkerSettings
from mesh.protocol import body, limits
from mesh.protocol.header import (
    SIZE,
    Header,
    Kind,
    Reason,
    encode,
    explain,
    fault,
    peek,
    read,
    region_name,
    reply,
    skim,
)
from mesh.protocol.refusal import nack

#: Seconds between two READYs while the broker does not answer: a new one has jobs that wait for us.
READY_SECONDS = 0.05
#: How long a worker that leaves waits for its broker to hear of it, in seconds.
FAREWELL_SECONDS = 0.5
#: The broker returns every heartbeat as it is, in order. When this one comes back it has heard the DRAIN before it, and
#: what it sent until then is here.
_FAREWELL = encode(Header(kind=Kind.HEARTBEAT, job=b"until you know  "))
#: The only address a DEALER has.
BROKER = b""


class WorkerCore:
    """The decisions of one worker; see `mesh.core.actions.Core` for how to drive it."""

    def __init__(self, settings: WorkerSettings, now: float) -> None:
        self.settings = settings
        self.out = Outbox()
        self._waiting: deque[Run] = deque()
        self._running: set[bytes] = set()
        #: Names by the header's field; a broker sends the few it knows.
        self._regions: dict[bytes, str] = {}
        self._welcomed = False
        self._heard = now
        self._next_beat = now
        self._drain_until: float | None = None
        #: In a drain: when to leave at the latest although the broker may not know of it.
        self._farewell_until = now

    def __repr__(self) -> str:
        return f"<WorkerCore {self.settings.instance} running={len(self._running)} waiting={len(self._waiting)}>"

    @property
    def connected(self) -> bool:
        """Whether the broker knows this worker."""
        return self._welcomed

    @property
    def _interval(self) -> float:
        return self.settings.heartbeat if self._welcomed else min(self.settings.heartbeat, READY_SECONDS)

    @property
    def _idle(self) -> bool:
        return not (self._running or self._waiting)

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def receive(self, _link: int, _sender: bytes, frame: bytes, now: float) -> None:
        """Take in one message from the broker."""
        self._heard = now
        head = read(frame)
        if head is None:
            why = explain(frame, fault(frame) or Reason.MALFORMED)
            self.out.log_rarely(now, "warning", "garbage from the broker", why=why)
        elif head.kind == Kind.REQUEST:
            self._request(frame, now)
        elif head.kind == Kind.CANCEL:
            self._cancel(head.job)
        elif head.kind == Kind.WELCOME:
            self._welcome()
        elif head.kind in {Kind.NACK, Kind.GOODBYE}:
            self._turned_away(head, frame, now)
        elif frame == _FAREWELL:
            self._farewell_until = now

    def malformed(self, _link: int, _sender: bytes, parts: int, now: float) -> None:
        """Ignore a message of more than one part."""
        self.out.log_rarely(now, "warning", "garbage from the broker", why=f"{parts} parts")

    def undeliverable(self, _link: int, _to: bytes, frame: bytes, now: float) -> None:
        """Note that the broker is away: it requeues what it gave, so an answer that cannot be sent is no loss."""
        if self._welcomed and peek(frame).kind != Kind.GOODBYE:
            self._welcomed = False
            self._next_beat = now + self._interval
            self.out.log("warning", "broker unreachable", unanswered=len(self._running))

    def finished(self, job: bytes, content: bytes, seconds: float, now: float) -> None:
        """Answer a job that was run, saying how long it took, and start the next."""
        self._running.discard(job)
        if SIZE + len(content) > limits.MAX_FRAME_BYTES:
            # The broker would refuse the frame, and the job would hold its slot for ever.
            text = f"the answer takes {len(content):,} bytes, where a message holds {limits.MAX_FRAME_BYTES:,}"
            self.out.send(Link.LOCAL, BROKER, nack(Reason.TOO_LARGE, text, job=job, retry=False))
        else:
            self.out.send(Link.LOCAL, BROKER, reply(job, int(seconds * 1e6), content))
        self._start(now)

    def tick(self, now: float) -> None:
        """Say READY until welcomed, then a heartbeat each interval; end the drain when all is done."""
        if now >= self._next_beat:
            if now - self._heard > self.settings.heartbeat * self.settings.liveness:
                self._welcomed = False
            self._next_beat = now + self._interval
            self._beat()
        if now >= self._leave_at:
            self._send(Header(kind=Kind.GOODBYE))
            self.out.actions.append(Stop())

    def wake_at(self) -> float:
        """Return when the next tick is due."""
        return min(self._next_beat, self._leave_at)

    @property
    def _leave_at(self) -> float:
        if self._drain_until is None:
            return inf
        if not self._idle:
            return self._drain_until
        return self._farewell_until if self._welcomed else 0.0

    def drain(self, now: float) -> None:
        """Finish what is here, take nothing new, say goodbye, and `Stop`."""
        if self._drain_until is None:
            self._drain_until = now + self.settings.grace
            self.out.log("info", "draining", jobs=len(self._running) + len(self._waiting))
            self._farewell_until = now + FAREWELL_SECONDS
            self._send(Header(kind=Kind.DRAIN))
            self.out.send(Link.LOCAL, BROKER, _FAREWELL)

    def take(self, _now: float) -> list[Action]:
        """Return what was decided since the last call."""
        return self.out.take()

    # -- messages ------------------------------------------------------------------------------------------------------

    def _request(self, frame: bytes, now: float) -> None:
        _flags, _attempt, field, job_id, budget_ms, _digest = skim(frame)
        if len(self._waiting) + len(self._running) >= self.settings.window:
            self.out.send(Link.LOCAL, BROKER, nack(Reason.BUSY, "the worker's window is full", job=job_id))
            return
        region = self._regions.get(field) or self._regions.setdefault(field, region_name(field))
        self._waiting.append(Run(job_id, region, frame[SIZE:], now + budget_ms / 1000))
        self._start(now)

    def _start(self, now: float) -> None:
        while self._waiting and len(self._running) < self.settings.slots:
            run = self._waiting.popleft()
            if run.deadline <= now:
                self.out.send(Link.LOCAL, BROKER, nack(Reason.EXPIRED, "no time left at the worker", job=run.job))
            else:
                self._running.add(run.job)
                self.out.actions.append(run)

    def _cancel(self, job: bytes) -> None:
        """Drop a job that waits; one that runs is let finish, its answer frees the slot at the broker."""
        for waiting in self._waiting:
            if waiting.job == job:
                self._waiting.remove(waiting)
                self.out.send(Link.LOCAL, BROKER, nack(Reason.CANCELLED, "cancelled", job=job))
                return

    def _welcome(self) -> None:
        if not self._welcomed:
            self._welcomed = True
            self.out.log("info", "connected to the broker", instance=self.settings.instance)

    def _turned_away(self, head: Header, frame: bytes, now: float) -> None:
        """Introduce oneself again: the broker does not know this worker, it has restarted or is about to."""
        self._welcomed = False
        self._next_beat = now + self._interval
        if head.kind == Kind.NACK and head.reason == Reason.NO_SESSION:
            if self._drain_until is None:
                self._ready()
        elif head.kind == Kind.NACK:
            self._next_beat = now + self.settings.heartbeat
            self.out.log_rarely(now, "error", "broker refuses us", text=body.decode_text(frame[SIZE:]))

    def _beat(self) -> None:
        if self._welcomed:
            self._send(Header(kind=Kind.HEARTBEAT))
        elif self._drain_until is None:
            self._ready()

    def _ready(self) -> None:
        own = self.settings
        ready = body.Ready(
            instance=own.instance,
            epoch=own.epoch,
            slots=own.slots,
            window=own.window,
            service=own.service,
            map_digest=own.map_digest.hex(),
        )
        self._send(Header(kind=Kind.READY, map_digest=own.map_digest), body.encode(ready))

    def _send(self, head: Header, content: bytes = b"") -> None:
        self.out.send(Link.LOCAL, BROKER, encode(head, content))
