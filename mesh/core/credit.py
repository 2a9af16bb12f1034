"""Cumulative credit, the arithmetic of AMQP 1.0's link credit: limit - sent can neither overtake nor be overtaken.

Publishing "I have 3 idle workers" cannot work: the number overwrites what is already on its way (54-87 % refusals at
90 % load in the simulation). A limit that only grows can be repeated, delayed or lost without harm.
"""

from math import ceil


class Wallet:
    """What this broker may spill to one peer."""

    __slots__ = ("limit", "sent", "unbacked")

    def __init__(self) -> None:
        self.limit = 0
        self.sent = 0
        #: How many of the last credits have no idle worker behind them: jobs sent on those wait for one there.
        self.unbacked = 0

    @property
    def left(self) -> int:
        """Jobs that may be sent now."""
        return self.limit - self.sent

    @property
    def backed(self) -> bool:
        """Whether an idle worker was behind the next credit when the peer last spoke."""
        return self.left > self.unbacked

    def raise_to(self, limit: int, unbacked: int) -> bool:
        """Note the peer's limit; return True if it grew."""
        self.unbacked = unbacked
        grew = limit > self.limit
        if grew:
            self.limit = limit
        return grew

    def void(self) -> None:
        """Give up what is left, as when the peer is lost or drains."""
        self.limit = self.sent


class Grant:
    """What one peer may spill to this broker."""

    __slots__ = ("granted", "received", "wanted")

    def __init__(self) -> None:
        self.granted = 0
        self.received = 0
        #: How many jobs the peer last said it would like to spill.
        self.wanted = 0

    @property
    def unspent(self) -> int:
        """Jobs that may arrive at any moment."""
        return self.granted - self.received

    def catch_up(self, sent: int) -> None:
        """Note how many the peer says it sent: what was lost on the way must not tie up credit for ever."""
        self.received = min(max(self.received, sent), self.granted)


#: Beside the bandwidth-delay product: service times vary, and a worker that falls idle early should find the next job.
PREFETCH_MARGIN = 1.5


def prefetch(slots: int, rtt_seconds: float, service_seconds: float) -> int:
    """Return how many jobs should be on their way to this broker beside its idle slots: ceil(1.5 W x RTT / S) + 1.

    It is the bandwidth-delay product: with none, a freed slot idles for a round trip, and p99 was 20 s, not 0.28 s.
    """
    if service_seconds <= 0:
        return slots + 1
    return min(ceil(PREFETCH_MARGIN * slots * rtt_seconds / service_seconds), 4 * slots) + 1


def promised(grants: list[Grant]) -> int:
    """Return how many jobs those who want to spill may still send."""
    return sum(grant.unspent for grant in grants if grant.wanted)


def share(grants: list[Grant], room: int, *, standing: bool) -> list[Grant]:
    """Raise grants until *room* is used up; return those that were raised.

    Those who want more than they hold come first, the neediest before the others. With *standing*, each peer without
    credit gets one unasked, so that its first spill costs no round trip. Standing credit takes no room: it would
    strand idle workers with those who do not need them. It can be spent all the same, so a spilled job may have to
    wait here; there are at most as many such credits as peers.
    """
    room -= promised(grants)
    raised: dict[Grant, None] = {}
    while room > 0:
        neediest = max(grants, key=lambda grant: grant.wanted - grant.unspent, default=None)
        if neediest is None or neediest.wanted <= neediest.unspent:
            break
        neediest.granted += 1
        raised[neediest] = None
        room -= 1
    for grant in grants if standing else ():
        if grant.unspent == 0:
            grant.granted += 1
            raised[grant] = None
    return list(raised)
