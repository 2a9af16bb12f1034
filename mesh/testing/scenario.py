"""Load on a simulated mesh, and what came of it.

The service times are log-normal (sigma 0.8) around a mean and the arrivals Poisson, as in most measured systems; a
region's load is given as a multiple of what its own workers can do.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from mesh.protocol.header import Kind, Reason, peek
from mesh.testing.simulation import Simulation

REGIONS = ("ne", "south", "mw", "sw", "ca")
_SIGMA = 0.8


@dataclass(kw_only=True)
class Load:
    """Which load for how long: *hot* on the first region, *mesh* on all together; 1.0 is capacity. Times in seconds."""

    hot: float
    mesh: float
    seconds: float = 60.0
    service_seconds: float = 0.05
    workers: int = 8
    budget_ms: int = 5000
    #: This share of the run is left out of the latencies.
    warm_up: float = 0.1

    @property
    def rates(self) -> list[float]:
        """Requests a second at each region."""
        capacity = self.workers / self.service_seconds
        others = (self.mesh * len(REGIONS) - self.hot) / (len(REGIONS) - 1)
        return [self.hot * capacity, *[others * capacity] * (len(REGIONS) - 1)]


@dataclass
class Result:
    """What the clients saw, and what it cost."""

    asked: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    spilled: int = 0
    between_brokers: int = 0

    def percentile(self, share: float) -> float:
        """Return a latency in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[int(share * (len(ordered) - 1))] * 1000

    @property
    def remote_share(self) -> float:
        """Spilled jobs over all jobs."""
        return self.spilled / self.asked

    @property
    def messages_each(self) -> float:
        """Messages between brokers for each request, heartbeats included."""
        return self.between_brokers / self.asked


class LoadedMesh:
    """A mesh of five regions under a load, one open-loop client at each broker."""

    def __init__(self, load: Load, seed: int = 0) -> None:
        self.load = load
        self.simulation = Simulation(REGIONS, workers=load.workers, seed=seed)
        self.result = Result()
        self._open: dict[bytes, float] = {}
        self._began = self._end = 0.0

    def run(self) -> Result:
        """Let the load run its time and everything it asked for end."""
        mesh, load = self.simulation, self.load
        mesh.advance(1.0)  # everybody has said hello
        for region in REGIONS:
            mesh.hears[f"at-{region}"] = self._hear
            mesh.hello(f"at-{region}", region)
        self._began, self._end = mesh.clock.now, mesh.clock.now + load.seconds
        before = mesh.network.between_brokers
        for region, rate in zip(REGIONS, load.rates, strict=True):
            self._next(region, rate)
        mesh.advance(load.seconds)
        self.result.between_brokers = mesh.network.between_brokers - before
        mesh.advance(load.budget_ms / 1000 + 1.0)
        self.result.spilled = sum(mesh.broker(region).jobs.count["spilled_out"] for region in REGIONS)
        return self.result

    @property
    def unanswered(self) -> int:
        """Requests whose end no client has heard of."""
        return len(self._open)

    def _next(self, region: str, rate: float) -> None:
        when = self.simulation.clock.now + self.simulation.dice.expovariate(rate)
        if when < self._end:
            self.simulation.clock.at(when, self._ask, region, rate)

    def _ask(self, region: str, rate: float) -> None:
        mesh, load = self.simulation, self.load
        self._next(region, rate)
        self.result.asked += 1
        job = self.result.asked.to_bytes(16, "big")
        self._open[job] = mesh.clock.now
        mean = math.log(load.service_seconds) - _SIGMA**2 / 2
        takes = mesh.dice.lognormvariate(mean, _SIGMA)
        mesh.ask(f"at-{region}", region, job, takes=takes, budget_ms=load.budget_ms)

    def _hear(self, _client: str, frame: bytes, now: float) -> None:
        head = peek(frame)
        asked = self._open.pop(head.job, None) if head.kind in {Kind.REPLY, Kind.NACK} else None
        if asked is None:
            return
        if head.kind == Kind.NACK:
            self.result.refused[Reason(head.reason).name.lower()] += 1
            return
        self.result.answered += 1
        if asked >= self._began + self.load.warm_up * self.load.seconds:
            self.result.latencies.append(now - asked)
