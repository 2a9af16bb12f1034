"""A whole mesh in one process: the shipped cores, wired back to back, under a clock that moves when told.

Messages arrive at once and in order; jobs take as long as their body says. Tests use it to check each scenario from
both ends without a socket or a sleep.
"""

from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from mesh.core.actions import Action, Core, Link, Log, Run, Send, Stop
from mesh.core.broker import BrokerCore
from mesh.core.settings import BrokerSettings, WorkerSettings
from mesh.core.worker import WorkerCore
from mesh.protocol import body
from mesh.protocol.header import SIZE, Flag, Header, Kind, encode, pad_region, peek

MAP_DIGEST = b"\x01\x02\x03\x04"
_STEP = 0.01


class Address(NamedTuple):
    """Who: a kind of party, and its name."""

    kind: str
    name: str


class Wiring:
    """Brokers, workers and clients of several regions."""

    def __init__(self, *regions: str, workers: int = 1, **broker_settings: float) -> None:
        self.now = 1000.0
        self.regions = regions
        self.cores: dict[Address, Core] = {}
        self.log: list[Log] = []
        self.stopped: set[Address] = set()
        #: What each client got, oldest first.
        self.inbox: dict[str, list[bytes]] = {}
        #: Jobs that any worker was told to run: (worker, job).
        self.ran: list[tuple[str, bytes]] = []
        #: Cut links: pairs of addresses between which nothing is delivered.
        self.cut: set[frozenset[Address]] = set()
        self._queue: deque[tuple[Address, int, bytes, bytes]] = deque()
        self._running: list[tuple[float, int, Address, Run]] = []
        self._order = count()
        self._epochs = count(1)
        self._ids = count(1)
        self._broker_settings = broker_settings
        for region in regions:
            self.start_broker(region)
            for instance in range(1, workers + 1):
                self.start_worker(region, str(instance))
        self.advance(1.0)

    # -- parties -------------------------------------------------------------------------------------------------------

    def start_broker(self, region: str) -> BrokerCore:
        """Start a broker, or start it again with a new epoch."""
        settings = BrokerSettings(
            region=region,
            regions=self.regions,
            epoch=f"epoch-{next(self._epochs)}",
            map_digest=MAP_DIGEST,
            region_map=b'{"map": true}',
            **self._broker_settings,  # type: ignore[arg-type]
        )
        core = BrokerCore(settings, self.now)
        self.cores[Address("broker", region)] = core
        return core

    def start_worker(self, region: str, instance: str, slots: int = 1) -> WorkerCore:
        """Start a worker."""
        settings = WorkerSettings(
            region=region, instance=instance, epoch=f"epoch-{next(self._epochs)}", map_digest=MAP_DIGEST, slots=slots
        )
        core = WorkerCore(settings, self.now)
        self.cores[Address("worker", f"{region}/{instance}")] = core
        return core

    def kill(self, kind: str, name: str) -> None:
        """End a party without a word."""
        del self.cores[Address(kind, name)]

    def broker(self, region: str) -> BrokerCore:
        """Return a broker's core."""
        core = self.cores[Address("broker", region)]
        assert isinstance(core, BrokerCore)  # noqa: S101
        return core

    def counts(self, region: str) -> dict[str, int]:
        """Return a broker's counters."""
        return self.broker(region).jobs.count

    # -- clients -------------------------------------------------------------------------------------------------------

    def hello(self, client: str, region: str) -> None:
        """Say HELLO as a client."""
        self.tell(client, region, encode(Header(kind=Kind.HELLO), body.encode(body.Hello(role="client"))))

    def ask(  # noqa: PLR0913 - a request has that many sides
        self, client: str, region: str, *, home: str | None = None, takes: float = 0.0, budget_ms: int = 5000,
        flags: int = Flag.IDEMPOTENT, job: bytes | None = None,
    ) -> bytes:  # fmt: skip
        """Send a request that takes so many seconds; return its job id. Answers come into `inbox` as time goes on."""
        job = job or next(self._ids).to_bytes(16, "big")
        head = Header(kind=Kind.REQUEST, flags=flags, region=pad_region(home or region), job=job, budget_ms=budget_ms)
        self.tell(client, region, encode(head, str(takes).encode()))
        return job

    def tell(self, client: str, region: str, frame: bytes) -> None:
        """Send any frame as a client, and let everything settle."""
        self._queue.append((Address("broker", region), Link.FRONT, client.encode(), frame))
        self._settle()

    def heads(self, client: str) -> list[Header]:
        """Return the headers of what a client got, without the WELCOMEs."""
        heads = [peek(frame) for frame in self.inbox.get(client, [])]
        return [head for head in heads if head.kind != Kind.WELCOME]

    # -- time ----------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass: jobs end, ticks happen."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + _STEP)
            while self._running and self._running[0][0] <= self.now:
                _, _, address, job = heappop(self._running)
                self._finish(address, job)
            for address, core in list(self.cores.items()):
                if self.now >= core.wake_at():
                    core.tick(self.now)
                    self.perform(address)
            self._settle()

    def _finish(self, address: Address, job: Run) -> None:
        core = self.cores.get(address)
        if isinstance(core, WorkerCore):
            core.finished(job.job, job.body, float(job.body or 0), self.now)
            self.perform(address)
            self._settle()

    def _settle(self) -> None:
        while self._queue:
            to, link, sender, frame = self._queue.popleft()
            core = self.cores.get(to)
            if core is not None:
                core.receive(link, sender, frame, self.now)
                self.perform(to)

    # -- the network ---------------------------------------------------------------------------------------------------

    def perform(self, who: Address) -> None:
        """Do what a core has decided."""
        core = self.cores[who]
        while actions := core.take(self.now):
            for action in actions:
                self._do(who, core, action)

    def _do(self, who: Address, core: Core, action: Action) -> None:
        if isinstance(action, Send):
            if not self._carry(who, action):
                core.undeliverable(action.link, action.to, action.frame, self.now)
        elif isinstance(action, Run):
            self.ran.append((who.name, action.job))
            heappush(self._running, (self.now + float(action.body or 0), next(self._order), who, action))
        elif isinstance(action, Log):
            self.log.append(action)
        elif isinstance(action, Stop):
            self.stopped.add(who)

    def _carry(self, who: Address, action: Send) -> bool:
        """Deliver a frame as ZeroMQ would; False where it would say EHOSTUNREACH."""
        to, link = self._route(who, action)
        if to.kind == "client":
            self.inbox.setdefault(to.name, []).append(action.frame)
            return True
        if to not in self.cores:
            return False
        if frozenset((who, to)) not in self.cut:
            self._queue.append((to, link, self._routing_id(who), action.frame))
        return True

    def _route(self, who: Address, action: Send) -> tuple[Address, int]:
        name = action.to.decode()
        if who.kind == "worker":
            return Address("broker", who.name.split("/")[0]), Link.LOCAL
        if action.link == Link.LOCAL:
            return Address("worker", name), Link.LOCAL
        if action.link == Link.BACK:
            return Address("broker", name), Link.FRONT
        return (Address("broker", name), Link.BACK) if name in self.regions else (Address("client", name), Link.FRONT)

    @staticmethod
    def _routing_id(who: Address) -> bytes:
        return who.name.encode()


def text_of(frame: bytes) -> str:
    """Return the text of a NACK."""
    return body.decode_text(frame[SIZE:])
