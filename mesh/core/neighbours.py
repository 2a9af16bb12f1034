"""The sessions with the other brokers: hello, heartbeats, demand, credit, loss, leave.

Theory of operation. Between two brokers there are two sessions, one for each direction in which jobs go. The asking
side (cloud BE) says HELLO until it hears WELCOME, then a HEARTBEAT each interval; it carries demand (jobs it would like
to spill) and, in the credit field, how many it has spilled in all. The serving side (cloud FE) echoes each heartbeat at
once with the limit in the credit field, so that a round trip is measured, and sends one unasked when a limit rises;
its demand field says how many of those credits have no idle worker behind them.
Both sides zero the counters when the other's epoch changes, and only then.
"""

from mesh.core.actions import Link
from mesh.core.dispatch import Dispatcher
from mesh.core.peers import Peer
from mesh.core.settings import BrokerSettings
from mesh.errors import InvalidRequest
from mesh.protocol import body
from mesh.protocol.header import NO_JOB, SIZE, Header, Kind, Reason, encode
from mesh.protocol.session import State

#: Demand is told at most this often outside of heartbeats, in seconds.
DEMAND_GAP_SECONDS = 0.005


class Neighbours:
    """Keeps both sessions with every peer."""

    def __init__(self, settings: BrokerSettings, jobs: Dispatcher) -> None:
        self.settings = settings
        self.jobs = jobs
        self.out = jobs.out
        self.peers = jobs.peers
        #: Something happened after which limits may rise.
        self.changed = False
        #: Whether any peer would like to spill here.
        self.anyone_wants = False
        self._next_demand = 0.0
        self._hello = encode(Header(kind=Kind.HELLO), self._introduce("peer"))
        self._welcome_body = self._introduce("broker")

    def _introduce(self, role: str) -> bytes:
        own = self.settings
        return body.encode(
            body.Hello(
                role=role,
                region=own.region,
                epoch=own.epoch,
                map_digest=own.map_digest.hex(),
                regions=own.regions,
                software=own.software,
            )
        )

    def welcome(self, credit: int = 0, unbacked: int = 0) -> bytes:
        """Return a WELCOME."""
        head = Header(kind=Kind.WELCOME, credit=credit, demand=unbacked, map_digest=self.settings.map_digest)
        return encode(head, self._welcome_body)

    # -- a peer that asks ----------------------------------------------------------------------------------------------

    def asked(self, peer: Peer, frame: bytes, head: Header, after: State) -> None:
        """Take a HELLO, HEARTBEAT or GOODBYE from a peer's cloud BE."""
        if head.kind == Kind.HELLO:
            self._peer_hello(peer, frame, after)
        elif head.kind == Kind.HEARTBEAT:
            peer.grant.wanted = head.demand
            peer.grant.catch_up(head.credit)
            self.changed = True
            self._tell_credit(peer, head.job)
        else:
            peer.asking = after
            peer.grant.wanted = 0

    def _peer_hello(self, peer: Peer, frame: bytes, after: State) -> None:
        try:
            hello = body.decode_hello(frame[SIZE:])
        except InvalidRequest as error:
            self.jobs.refuse(peer.routing_id, NO_JOB, Reason.MALFORMED, f"HELLO: {error}")
            return
        if hello.map_digest != self.settings.map_digest.hex():
            mine = self.settings.map_digest.hex()
            text = f"the region maps differ: {peer.name} has {hello.map_digest}, {self.settings.region} has {mine}"
            self.out.log("error", "region maps differ", peer=peer.name, theirs=hello.map_digest, mine=mine)
            self.jobs.refuse(peer.routing_id, NO_JOB, Reason.STALE_MAP, text)
            return
        if hello.epoch != peer.asking_epoch:
            peer.asking_epoch = hello.epoch
            peer.grant.granted = peer.grant.received = peer.grant.wanted = 0
        peer.asking = after
        self.changed = True
        peer.told_credit = peer.grant.granted
        self.out.send(Link.FRONT, peer.routing_id, self.welcome(peer.grant.granted, self.jobs.unbacked(peer)))

    def _tell_credit(self, peer: Peer, token: bytes = NO_JOB) -> None:
        peer.told_credit = peer.grant.granted
        head = Header(kind=Kind.HEARTBEAT, job=token, credit=peer.grant.granted, demand=self.jobs.unbacked(peer))
        self.out.send(Link.FRONT, peer.routing_id, encode(head))

    # -- a peer that serves --------------------------------------------------------------------------------------------

    def served(self, peer: Peer, frame: bytes, head: Header, after: State, now: float) -> None:
        """Take anything from a peer's cloud FE."""
        peer.serving_heard = now
        if head.kind == Kind.WELCOME:
            self._peer_welcome(peer, frame, head, after, now)
            return
        richer = peer.wallet.raise_to(head.credit, head.demand)
        if head.kind in {Kind.REPLY, Kind.NACK}:
            self._answered(peer, frame, head, now)
        elif head.kind == Kind.HEARTBEAT and head.job != NO_JOB:
            self.peers.measured(peer, round_trip(head.job, now))
        elif head.kind == Kind.DRAIN:
            peer.wallet.void()
            peer.serving = after
        elif head.kind == Kind.GOODBYE:
            self.jobs.lose_peer(peer, now, "it said goodbye")
        if richer:
            self.jobs.pump(now)

    def _answered(self, peer: Peer, frame: bytes, head: Header, now: float) -> None:
        if head.kind == Kind.NACK and head.job == NO_JOB:
            reason = Reason(head.reason).name.lower() if head.reason in set(Reason) else str(head.reason)
            self.out.log_rarely(now, "error", "peer refuses us", peer=peer.name, reason=reason,
                                text=body.decode_text(frame[SIZE:]))  # fmt: skip
        else:
            self.jobs.returned(peer, frame, head, now)
        if head.kind == Kind.NACK and head.reason == Reason.NO_SESSION:
            self.jobs.lose_peer(peer, now, "it restarted")

    def _peer_welcome(self, peer: Peer, frame: bytes, head: Header, after: State, now: float) -> None:
        try:
            welcome = body.decode_hello(frame[SIZE:])
        except InvalidRequest:
            self.jobs.count["garbage_malformed"] += 1
            return
        if welcome.epoch != peer.serving_epoch:
            peer.serving_epoch = welcome.epoch
            peer.wallet.limit = peer.wallet.sent = 0
            self.jobs.retry_with(peer, now, f"broker {peer.name} restarted")
        if peer.serving is not State.OPEN:
            self.out.log("info", "peer up", peer=peer.name, software=welcome.software)
        peer.serving = after
        peer.wallet.raise_to(head.credit, head.demand)
        self._heartbeat(peer, now)

    # -- time ----------------------------------------------------------------------------------------------------------

    def beat(self, now: float) -> None:
        """Say hello to those who are away, keep in touch with the others, give up on the silent ones."""
        for peer in self.peers:
            if peer.serving is State.NEW:
                self.out.send(Link.BACK, peer.routing_id, self._hello)
            elif now - peer.serving_heard > self.settings.patience:
                self.jobs.lose_peer(peer, now, f"silent for {now - peer.serving_heard:.2f} s")
            else:
                self._heartbeat(peer, now)
            if peer.asking is State.OPEN and now - peer.asking_heard > self.settings.patience:
                peer.asking = State.NEW
                peer.grant.wanted = 0
        self.jobs.told_demand = self.jobs.waiting.local
        self.changed = True

    def _heartbeat(self, peer: Peer, now: float) -> None:
        demand = min(self.jobs.waiting.local, 0xFFFF)
        head = Header(kind=Kind.HEARTBEAT, demand=demand, credit=peer.wallet.sent, job=time_token(now))
        self.out.send(Link.BACK, peer.routing_id, encode(head))

    def settle(self, now: float) -> None:
        """At the end of a turn, tell peers of demand and of credit that changed, if they cannot know yet."""
        self._tell_demand(now)
        if not (self.changed or self.anyone_wants):
            return
        self.changed = False
        self.anyone_wants = any(peer.grant.wanted for peer in self.peers)
        for peer in self.jobs.grant():
            if peer.told_credit != peer.grant.granted:
                self._tell_credit(peer)

    def _tell_demand(self, now: float) -> None:
        """Ask those for credit who have none left for us, when work starts to wait and each time it has doubled.

        That the work is gone is told with the next regular heartbeat, or by the next job: a queue that fills and
        empties a hundred times a second must not cost a message each time.
        """
        demand = self.jobs.waiting.local
        if demand <= 2 * self.jobs.told_demand or now < self._next_demand:
            return
        self._next_demand = now + DEMAND_GAP_SECONDS
        self.jobs.told_demand = demand
        for peer in self.peers:
            if peer.serving is State.OPEN and not peer.wallet.left:
                self._heartbeat(peer, now)

    # -- leaving -------------------------------------------------------------------------------------------------------

    def announce_drain(self) -> None:
        """Ask peers to send nothing new."""
        for peer in self.peers:
            if peer.asking is State.OPEN:
                self.out.send(Link.FRONT, peer.routing_id, encode(Header(kind=Kind.DRAIN)))

    def leave(self, goodbye: bytes) -> None:
        """Say goodbye to both sides of every peer."""
        for peer in self.peers:
            if peer.asking is State.OPEN:
                self.out.send(Link.FRONT, peer.routing_id, goodbye)
            if peer.serving is not State.NEW:
                self.out.send(Link.BACK, peer.routing_id, goodbye)


def time_token(now: float) -> bytes:
    """Return a token for a heartbeat's job field that tells the round trip when it comes back."""
    return int(now * 1e6).to_bytes(16, "big")


def round_trip(token: bytes, now: float) -> float:
    """Return the seconds since `time_token` made this token."""
    return max(0.0, now - int.from_bytes(token, "big") / 1e6)
