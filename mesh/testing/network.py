"""A network in virtual time: who hears what when, how late, and what is lost on the way.

Messages between the same two parties stay in order, as on one TCP connection; between different pairs they overtake
each other as delays have it. Everything random comes from one seeded generator, so that a run can be repeated.
"""

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, NamedTuple


class Address(NamedTuple):
    """Who: a kind of party (`broker`, `worker`, `client`), and its name."""

    kind: str
    name: str


#: Round trips between regions in milliseconds, as assumed for hosts in their largest cities.
US_RTT_MS = {
    ("ne", "south"): 30, ("ne", "mw"): 25, ("ne", "sw"): 55, ("ne", "ca"): 70, ("south", "mw"): 30,
    ("south", "sw"): 30, ("south", "ca"): 55, ("mw", "sw"): 35, ("mw", "ca"): 50, ("sw", "ca"): 20,
}  # fmt: skip


class Clock:
    """Events in the order of their times; time jumps from one to the next."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        """Do something at a time, after whatever was planned for the same time before."""
        self._order += 1
        heappush(self._events, (max(when, self.now), self._order, what, arguments))

    def run(self, until: float) -> None:
        """Let time pass."""
        events = self._events
        while events and events[0][0] <= until:
            when, _, what, arguments = heappop(events)
            self.now = when
            what(*arguments)
        self.now = until


class Network:
    """The delays and faults of every pair of parties; times in seconds."""

    def __init__(self, dice: random.Random, rtt_ms: dict[tuple[str, str], float] | None = None) -> None:
        self._dice = dice
        self._one_way = {}
        for (a, b), milliseconds in (US_RTT_MS if rtt_ms is None else rtt_ms).items():
            self._one_way[a, b] = self._one_way[b, a] = milliseconds / 2000
        #: Added to each delay: uniform between 0 and this.
        self.jitter = 0.0
        #: Share of the messages between brokers that are lost without a word.
        self.loss = 0.0
        #: Directed pairs between which nothing is delivered, and pairs that are slower by so many seconds.
        self.cut: set[tuple[Address, Address]] = set()
        self.slower: dict[tuple[Address, Address], float] = {}
        #: Messages that went from one broker to another.
        self.between_brokers = 0
        self._last: dict[tuple[Address, Address, int], float] = {}

    def arrival(self, now: float, sender: Address, to: Address, link: int) -> float | None:
        """Return when a message that is sent now arrives, None if it never does."""
        far = sender.kind == to.kind == "broker"
        self.between_brokers += far
        if (sender, to) in self.cut or (far and self.loss and self._dice.random() < self.loss):
            return None
        delay = self._one_way.get((sender.name, to.name), 0.0) if far else 0.0
        delay += self.slower.get((sender, to), 0.0)
        if self.jitter:
            delay += self._dice.random() * self.jitter
        when = max(now + delay, self._last.get((sender, to, link), 0.0))
        self._last[sender, to, link] = when
        return when

    def part(self, a: Address, b: Address, *, both_ways: bool = True) -> None:
        """Cut the link from *a* to *b*, and back."""
        self.cut.add((a, b))
        if both_ways:
            self.cut.add((b, a))

    def join(self, a: Address, b: Address) -> None:
        """Mend a link."""
        self.cut -= {(a, b), (b, a)}
