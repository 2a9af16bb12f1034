"""A client's side of its session with a broker: which frames to send, what each frame that comes back means.

Theory of operation. A link (one DEALER) has one `AskCore`. `submit` puts a job into the queue; `frames` says what to
send, with a HELLO in front when the broker does not know us; `received` takes what came. A job ends exactly once, in
`done`, with an answer, the bytes of an admin answer, or a `MeshError`. Until then it is

- waiting to be sent (in the queue), or on its way, or waiting out a refusal (in the heap until it is due);
- sent again for free after NO_SESSION, and when the link was lost under it if running it twice does no harm;
- sent again at a price (`mesh.core.retry`) after BUSY;
- held while the broker leaves (DRAIN, a refusal for DRAINING, GOODBYE): answers still come, but nothing goes out except
  a HELLO now and then, until a WELCOME says that somebody is there or the link is lost and comes back.

A write waits for a WELCOME: a connection alone may be the kernel's, which takes it for a broker that is not there.

A broker that was replaced says WELCOME with another epoch: what was on its way to the former one is lost, even if
nobody saw the link break.

What belongs to no job, such as the late answer of one that was given up, is ignored.
"""

import heapq
from collections import deque
from collections.abc import Callable

from mesh.core import retry
from mesh.core.asked import Asked, Job
from mesh.core.gate import Gate
from mesh.core.refused import refusal
from mesh.core.requests import Request
from mesh.errors import (
    Busy,
    DeadlineExceeded,
    InvalidRequest,
    MeshError,
    RegionUnavailable,
    RemoteProtocolError,
    from_dict,
)
from mesh.model import AnyAnswer, Failed
from mesh.protocol import body, header, limits
from mesh.protocol.header import Criticality, Flag, Kind, Reason

#: How a job ends.
Outcome = AnyAnswer | body.Hello | bytes | MeshError

_VERSION = limits.VERSIONS[-1]
#: A broker that greets us and does not know us a moment later is broken; do not circle with it.
_MAX_GREETINGS = 5


class AskCore:
    """The jobs of one link. Times are seconds of any monotonic clock; *dice* returns a random number in [0, 1)."""

    def __init__(self, budget: retry.RetryBudget, dice: Callable[[], float], brokers: str = "the broker") -> None:
        #: What the error texts call the other side.
        self.brokers = brokers
        self.map_digest = header.ANY_MAP
        #: What the broker said of itself; None while it does not know us.
        self.welcome: body.Hello | None = None
        #: Job ids with their outcomes, in order of arrival; the driver takes them away.
        self.done: list[tuple[bytes, Outcome]] = []
        self._budget = budget
        self._dice = dice
        self._greeted = False
        self._linked = False
        #: Counts our HELLOs; the number at the last WELCOME, and the epoch it told.
        self._session = self._session_welcomed = 0
        self._epoch = ""
        self._gate = Gate()
        #: Whether to say HELLO although the gate is closed, and what the broker said when it closed.
        self._probe = False
        self._farewell = ""
        self._jobs = Asked()
        self._queue: deque[Job] = deque()
        self._for_welcome: list[Job] = []
        self._cancels: list[bytes] = []
        self._times: list[tuple[float, bytes]] = []

    # -- what the driver tells -------------------------------------------------------------------------------------

    def submit(self, job_id: bytes, request: Request, deadline: float) -> None:
        """Take a job; *job_id* is 16 random bytes."""
        self._queue.append(self._jobs.add(job_id, request, deadline))
        if len(self._times) > 100 + 4 * len(self._jobs):
            # Jobs that ended leave their deadlines behind; with long timeouts those would pile up.
            self._times = [entry for entry in self._times if entry[1] in self._jobs]
            heapq.heapify(self._times)
        heapq.heappush(self._times, (deadline, job_id))

    def abandon(self, job_id: bytes) -> None:
        """Forget a job nobody waits for any more, and tell the broker."""
        job = self._jobs.forget(job_id)
        if job is None or not job.on_its_way:
            return
        self._gate.ended()
        if job.request.kind == Kind.REQUEST:
            self._cancels.append(job.wire)

    def lost(self) -> None:
        """Take note that the connection is gone, and with it whatever was on its way."""
        self._linked = self._greeted = False
        self.welcome = None
        self._cancels.clear()
        self._take_up_writes()
        self._lose([job for job in self._jobs if job.on_its_way])
        self._gate.open()

    def tick(self, now: float) -> None:
        """End the jobs whose time is up and take up those whose wait is over."""
        self._probe = self._gate.probe_due(now)
        while self._times and self._times[0][0] <= now:
            job = self._jobs.get(heapq.heappop(self._times)[1])
            if job is None:
                continue
            if job.deadline <= now:
                self._expire(job)
            elif job.due is not None and job.due <= now:
                self._enqueue(job)

    def frames(self, now: float) -> list[bytes]:
        """Return what to send now that there is a connection; every frame is meant to be sent."""
        self._linked = True
        frames = [self._frame(Request(int(Kind.CANCEL)), job_id) for job_id in self._cancels]
        self._cancels.clear()
        if self._queue and (self._probe if self._gate.closed else not self._greeted):
            self._greeted = True
            self._session += 1
            frames.append(self._frame(Request(int(Kind.HELLO), body=_HELLO)))
            if self._gate.closed:
                self._hold(now)
        while self._queue and self._gate.has_room:
            frames += self._start(self._queue.popleft(), now)
        if not (self._queue or self._for_welcome):
            self._gate.settle()
        return frames

    def farewell(self) -> bytes | None:
        """Return what to send before closing, None if the broker does not know us."""
        return self._frame(Request(int(Kind.GOODBYE))) if self._greeted and self._linked else None

    def received(self, frame: bytes, now: float) -> None:
        """Take a frame from the broker."""
        fault = header.fault(frame)
        if fault is not None:
            if fault is Reason.VERSION:
                self._fail_all(RemoteProtocolError(f"{self.brokers}: {header.explain(frame, fault)}"))
            return
        fields = header.peek(frame)
        if fields.kind == Kind.REPLY:
            self._replied(fields.job, frame)
        elif fields.kind == Kind.NACK:
            self._refused(fields, body.decode_text(frame[header.SIZE :]), now)
        elif fields.kind == Kind.WELCOME:
            self._welcomed(frame)
        elif fields.kind == Kind.DRAIN:
            self._hold(now)
        elif fields.kind == Kind.GOODBYE:
            # Whoever hears this late, having been idle, may ask at once whether somebody else is there by now.
            self._greeted, self.welcome = False, None
            self._hold(now)
            self._gate.probe()

    # -- what the driver asks --------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no job is open."""
        return not self._jobs

    @property
    def wants_to_send(self) -> bool:
        """Whether `frames` would return any."""
        return bool(self._cancels or (self._queue and (self._gate.has_room or self._probe)))

    @property
    def leaving(self) -> bool:
        """Whether the broker is about to go, or has gone and may have been replaced."""
        return self._gate.closed

    @property
    def must_stay(self) -> bool:
        """Whether a write is on its way: going to another broker now would leave its fate unknown."""
        return any(job.on_its_way and not job.repeatable for job in self._jobs)

    def next_time(self) -> float | None:
        """Return when `tick` has something to do, None if never."""
        while self._times and self._times[0][1] not in self._jobs:
            heapq.heappop(self._times)
        return self._times[0][0] if self._times else None

    # -- jobs ------------------------------------------------------------------------------------------------------

    def _start(self, job: Job, now: float) -> list[bytes]:
        if job.id not in self._jobs:
            return []
        if self.welcome is None and not job.repeatable:
            self._for_welcome.append(job)
            return []
        job.on_its_way, job.session = True, self._session
        self._gate.sent()
        if job.request.kind == Kind.HELLO:
            if self.welcome is not None:
                self._finish(job, self.welcome)
            return []
        milliseconds = min(max(1, int((job.deadline - now) * 1000)), limits.MAX_BUDGET_MS)
        return [self._frame(job.request, job.wire, milliseconds, min(job.attempt, 255))]

    def _frame(self, request: Request, job_id: bytes = header.NO_JOB, budget_ms: int = 0, attempt: int = 0) -> bytes:
        fields = header.Header(
            _VERSION, request.kind, request.flags, Criticality.CRITICAL, attempt, 0, 0, request.region, job_id,
            budget_ms, 0, self.map_digest,
        )  # fmt: skip
        return header.encode(fields, request.body)

    def _hold(self, now: float) -> None:
        self._take_up_writes()
        self._probe = False
        self._gate.close(now, self._dice())

    def _take_up_writes(self) -> None:
        self._queue.extend(self._for_welcome)
        self._for_welcome.clear()

    def _lose(self, jobs: list[Job]) -> None:
        """Ask again what may run twice; say of the rest that its fate is unknown."""
        for job in jobs:
            if job.repeatable:
                self._jobs.rename(job)
                self._enqueue(job)
            else:
                self._finish(job, RegionUnavailable(f"lost {self.brokers}; the write may or may not have happened"))

    def _enqueue(self, job: Job) -> None:
        self._back(job)
        self._queue.append(job)

    def _back(self, job: Job) -> None:
        if job.on_its_way:
            self._gate.ended()
        job.due, job.on_its_way = None, False

    def _finish(self, job: Job, outcome: Outcome) -> None:
        if self._jobs.forget(job.id) is not None:
            self._back(job)
            self.done.append((job.id, outcome))

    def _fail_all(self, error: MeshError) -> None:
        for job in self._jobs:
            self._finish(job, error)

    def _expire(self, job: Job) -> None:
        region = header.region_name(job.request.region)
        self.abandon(job.id)
        if self.leaving and not job.on_its_way:
            error: MeshError = Busy(f"{self.brokers}: {self._farewell or 'shutting down'}")
        elif self._linked:
            of = f" of region {region}" if region else ""
            error = DeadlineExceeded(f"no answer{of} from {self.brokers} within the time given")
        else:
            error = RegionUnavailable(
                f"cannot reach {self.brokers}: is mesh-broker running there?", regions=[region] if region else []
            )
        self.done.append((job.id, error))

    # -- what frames mean --------------------------------------------------------------------------------------------

    def _welcomed(self, frame: bytes) -> None:
        try:
            self.welcome = body.decode_hello(frame[header.SIZE :])
        except InvalidRequest as error:
            self._fail_all(RemoteProtocolError(f"{self.brokers} greets us with nonsense: {error}"))
            return
        if self._epoch not in {"", self.welcome.epoch}:
            former = self._session_welcomed
            self._lose([job for job in self._jobs if job.on_its_way and job.session <= former])
        self._epoch, self._session_welcomed = self.welcome.epoch, self._session
        if self._gate.closed:
            self._gate.open()
        self._take_up_writes()
        for job in [job for job in self._jobs if job.request.kind == Kind.HELLO]:
            self._finish(job, self.welcome)

    def _replied(self, job_id: bytes, frame: bytes) -> None:
        job = self._jobs.find(job_id)
        if job is None:
            return
        self._budget.succeeded()
        content = frame[header.SIZE :]
        self._finish(job, content if job.request.kind != Kind.REQUEST else self._answer(content))

    def _answer(self, content: bytes) -> Outcome:
        try:
            answer = body.decode_reply(content).answer
        except InvalidRequest as error:
            return RemoteProtocolError(f"{self.brokers} sent an answer that is none: {error}")
        return from_dict(answer.error) if isinstance(answer, Failed) else answer

    def _refused(self, fields: header.Header, text: str, now: float) -> None:
        if fields.reason == Reason.VERSION:
            spoken = ", ".join(map(str, limits.VERSIONS))
            self._fail_all(RemoteProtocolError(f"{self.brokers} refuses protocol version {spoken}: {text}"))
        elif fields.reason == Reason.NO_SESSION:
            self._forgotten(fields.job)
        elif fields.reason == Reason.DRAINING:
            self._farewell = text
            self._hold(now)
            if (job := self._jobs.find(fields.job)) is not None:
                self._enqueue(job)
        elif (job := self._jobs.find(fields.job)) is not None:
            if fields.reason in {Reason.BUSY, Reason.NO_CREDIT}:
                self._pushed_back(job, fields, text, now)
            else:
                self._finish(job, refusal(self.brokers, header.region_name(job.request.region), fields.reason, text))

    def _forgotten(self, job_id: bytes) -> None:
        # The broker restarted, or dropped us after a long silence: nothing was done, so saying hello again is free.
        self._greeted, self.welcome = False, None
        job = self._jobs.find(job_id)
        if job is None:
            return
        job.greetings += 1
        if job.greetings >= _MAX_GREETINGS:
            self._finish(job, RemoteProtocolError(f"{self.brokers} forgets us after each hello"))
        else:
            self._enqueue(job)

    def _pushed_back(self, job: Job, fields: header.Header, text: str, now: float) -> None:
        unknown = fields.budget_ms == limits.NO_RETRY_AFTER
        retry_after = None if unknown else fields.budget_ms / 1000
        job.attempt += 1
        due = now + retry.backoff(min(job.attempt, 8), self._dice(), retry_after)
        if fields.flags & Flag.NO_RETRY or due >= job.deadline or not self._may_retry(job):
            message = f"{self.brokers}: {text or 'too busy'}"
            self._finish(job, Busy(message, retry_after=retry_after))
            return
        self._back(job)
        job.due = due
        heapq.heappush(self._times, (due, job.id))

    def _may_retry(self, job: Job) -> bool:
        self._budget.refused()
        return job.attempt < retry.MAX_ATTEMPTS and self._budget.allows_retry()


_HELLO = body.encode(body.Hello(role="client"))
