"""The other brokers: whether they live, how far they are, what may be spilled to them."""

from collections.abc import Iterator
from math import inf

from mesh.core.credit import Grant, Wallet
from mesh.protocol import header
from mesh.protocol.session import State

#: Weight of one measurement in the moving average of a round trip.
RTT_WEIGHT = 1 / 4
#: What a round trip counts beside a wait of the same length. Less than one, for a job that leaves shortens the wait of
#: all behind it too. Simulated (docs/routing.md): 0.5 spills 10 % of an evenly loaded mesh's jobs, 0.7 adds a tenth to
#: p99 of an overloaded region's.
RTT_COST = 0.6


class Peer:
    """One other broker: two sessions, one for each direction in which jobs go."""

    __slots__ = (
        "asking",
        "asking_epoch",
        "asking_heard",
        "forwarded",
        "grant",
        "name",
        "routing_id",
        "rtt_seconds",
        "serving",
        "serving_epoch",
        "serving_heard",
        "spilled_in",
        "spilled_out",
        "told_credit",
        "wallet",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.routing_id = name.encode()
        #: My jobs to it: its cloud FE, on my cloud BE.
        self.serving = State.NEW
        self.serving_epoch = ""
        self.serving_heard = 0.0
        self.wallet = Wallet()
        #: Moving average; infinite until the first heartbeat came back.
        self.rtt_seconds = inf
        #: Its jobs to me: its cloud BE, on my cloud FE.
        self.asking = State.NEW
        self.asking_epoch = ""
        self.asking_heard = 0.0
        self.grant = Grant()
        self.told_credit = 0
        self.forwarded = 0
        self.spilled_out = 0
        self.spilled_in = 0

    def __repr__(self) -> str:
        return f"<Peer {self.name} serving={self.serving.value} credit={self.wallet.left} asking={self.asking.value}>"

    @property
    def alive(self) -> bool:
        """Whether jobs for its region may be forwarded to it."""
        return self.serving is State.OPEN

    def lose(self) -> None:
        """Note that it is gone: no job goes there until it says WELCOME again."""
        self.serving = State.NEW
        self.wallet.void()
        self.rtt_seconds = inf


class Peers:
    """All peers, by name and by the header's region field."""

    def __init__(self, own: str, regions: tuple[str, ...]) -> None:
        self._by_routing_id = {name.encode(): Peer(name) for name in regions if name != own}
        #: No spill can cost less, in seconds.
        self.nearest_cost = inf
        #: Who owns a region; None for this broker itself.
        self.owners: dict[bytes, Peer | None] = {header.pad_region(own): None}
        for peer in self:
            self.owners[header.pad_region(peer.name)] = peer

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._by_routing_id.values())

    def get(self, routing_id: bytes) -> Peer | None:
        """Return the peer with this routing id, which is its region's name."""
        return self._by_routing_id.get(routing_id)

    def cheapest(self, wait_here: float, wait_there: float, but: Peer | None) -> Peer | None:
        """Return the nearest peer that has granted room, if going there beats waiting here.

        The cost of a peer is `RTT_COST` of the round trip, and *wait_there* seconds more if no idle worker is behind
        its credit.
        """
        best, lowest = None, wait_here
        for peer in self._by_routing_id.values():
            if peer.wallet.left > 0 and peer is not but and peer.serving is State.OPEN:
                cost = RTT_COST * peer.rtt_seconds + (0.0 if peer.wallet.backed else wait_there)
                if cost < lowest:
                    best, lowest = peer, cost
        return best

    def measured(self, peer: Peer, rtt_seconds: float) -> None:
        """Note one round trip."""
        old = peer.rtt_seconds
        peer.rtt_seconds = rtt_seconds if old == inf else old + (rtt_seconds - old) * RTT_WEIGHT
        self._find_nearest()

    def lost(self, peer: Peer) -> None:
        """Note that a peer is gone."""
        peer.lose()
        self._find_nearest()

    def _find_nearest(self) -> None:
        self.nearest_cost = RTT_COST * min(peer.rtt_seconds for peer in self)

    def grants(self) -> list[Grant]:
        """Return the grants of all peers that may spill to this broker."""
        return [peer.grant for peer in self if peer.asking is State.OPEN]
