"""A whole mesh in one process and in virtual time: the shipped cores behind a network with delays and faults."""

import random
from typing import Any

from mesh.core.actions import Action, Core, Link, Log, Run, Send, Stop
from mesh.core.broker import BrokerCore
from mesh.core.settings import BrokerSettings, WorkerSettings
from mesh.core.worker import WorkerCore
from mesh.protocol import body
from mesh.protocol.header import Flag, Header, Kind, encode, pad_region
from mesh.testing.network import Address, Clock, Network

MAP_DIGEST = b"\x01\x02\x03\x04"


class Simulation:
    """Brokers, workers and clients; a job's body says how many seconds it takes."""

    def __init__(
        self, regions: tuple[str, ...], *, workers: int, seed: int = 0, broker: type[BrokerCore] = BrokerCore,
        rtt_ms: dict[tuple[str, str], float] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.regions = regions
        self.dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.clock = Clock()
        self.network = Network(self.dice, rtt_ms)
        self.cores: dict[Address, Core] = {}
        self.log: list[tuple[float, Address, Log]] = []
        #: Jobs that workers were told to run: (worker, job).
        self.ran: list[tuple[str, bytes]] = []
        #: What clients got: called with the client's name, the frame and the time.
        self.hears: dict[str, Any] = {}
        self._broker, self._settings = broker, settings
        self._due: dict[Address, float] = {}
        self._epoch = 0
        for region in regions:
            self.start_broker(region)
            for number in range(1, workers + 1):
                self.start_worker(region, str(number))

    # -- parties -------------------------------------------------------------------------------------------------------

    def start_broker(self, region: str) -> BrokerCore:
        """Start a broker, or start it again with a new epoch."""
        settings = BrokerSettings(
            region=region, regions=self.regions, epoch=self._next_epoch(), map_digest=MAP_DIGEST, region_map=b"{}",
            **self._settings,
        )  # fmt: skip
        core = self._broker(settings, self.clock.now)
        self._start(Address("broker", region), core)
        return core

    def start_worker(self, region: str, instance: str) -> WorkerCore:
        """Start a worker."""
        settings = WorkerSettings(
            region=region, instance=instance, epoch=self._next_epoch(), map_digest=MAP_DIGEST, service="sleep"
        )
        core = WorkerCore(settings, self.clock.now)
        self._start(Address("worker", f"{region}/{instance}"), core)
        return core

    def kill(self, who: Address) -> None:
        """End a party without a word; what it ran is lost."""
        self.cores.pop(who, None)

    def broker(self, region: str) -> BrokerCore:
        """Return a broker's core."""
        core = self.cores[Address("broker", region)]
        assert isinstance(core, BrokerCore)  # noqa: S101
        return core

    def _start(self, who: Address, core: Core) -> None:
        self.cores[who] = core
        self._due.pop(who, None)
        self.clock.at(self.clock.now, self._tick, who, core)

    def _next_epoch(self) -> str:
        self._epoch += 1
        return f"epoch-{self._epoch}"

    # -- clients -------------------------------------------------------------------------------------------------------

    def hello(self, client: str, region: str) -> None:
        """Say HELLO as a client."""
        self.tell(client, region, encode(Header(kind=Kind.HELLO), body.encode(body.Hello(role="client"))))

    def ask(  # noqa: PLR0913 - a request has that many sides
        self, client: str, region: str, job: bytes, *, takes: float, home: str = "", budget_ms: int = 5000,
        flags: int = Flag.IDEMPOTENT, criticality: int = 1,
    ) -> None:  # fmt: skip
        """Send a request that takes so many seconds."""
        head = Header(
            kind=Kind.REQUEST, flags=flags, region=pad_region(home or region), job=job, budget_ms=budget_ms,
            criticality=criticality,
        )  # fmt: skip
        self.tell(client, region, encode(head, repr(takes).encode()))

    def tell(self, client: str, region: str, frame: bytes) -> None:
        """Send any frame as a client."""
        self._carry(Address("client", client), Address("broker", region), Link.FRONT, frame)

    # -- time ----------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(self.clock.now + seconds)

    def _tick(self, who: Address, core: Core) -> None:
        if self.cores.get(who) is not core:
            return
        if self._due.get(who, 0.0) <= self.clock.now:
            self._due.pop(who, None)
        if self.clock.now >= core.wake_at():
            core.tick(self.clock.now)
        self._perform(who, core)

    def _arrive(self, to: Address, link: int, sender: Address, frame: bytes) -> None:
        if to.kind == "client":
            self.hears[to.name](to.name, frame, self.clock.now)
        elif (core := self.cores.get(to)) is not None:
            core.receive(link, sender.name.encode(), frame, self.clock.now)
            self._perform(to, core)

    def _finish(self, who: Address, core: WorkerCore, run: Run) -> None:
        if self.cores.get(who) is core:
            core.finished(run.job, run.body, float(run.body), self.clock.now)
            self._perform(who, core)

    # -- actions -------------------------------------------------------------------------------------------------------

    def _perform(self, who: Address, core: Core) -> None:
        while actions := core.take(self.clock.now):
            for action in actions:
                self._do(who, core, action)
        due = core.wake_at()
        if due < self._due.get(who, due + 1):
            self._due[who] = due
            self.clock.at(due, self._tick, who, core)

    def _do(self, who: Address, core: Core, action: Action) -> None:
        now = self.clock.now
        if isinstance(action, Send):
            to, link = self._route(who, action)
            if not self._carry(who, to, link, action.frame):
                core.undeliverable(action.link, action.to, action.frame, now)
        elif isinstance(action, Run) and isinstance(core, WorkerCore):
            self.ran.append((who.name, action.job))
            self.clock.at(now + float(action.body), self._finish, who, core, action)
        elif isinstance(action, Log):
            self.log.append((now, who, action))
        elif isinstance(action, Stop):
            self.kill(who)

    def _carry(self, sender: Address, to: Address, link: int, frame: bytes) -> bool:
        """Deliver a frame as ZeroMQ would; False where it would say EHOSTUNREACH."""
        if to.kind != "client" and to not in self.cores:
            return False
        when = self.network.arrival(self.clock.now, sender, to, link)
        if when is not None:
            self.clock.at(when, self._arrive, to, link, sender, frame)
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
