"""Whether a client's jobs may go out: not while its broker leaves, and few at a time when another has come.

The second half is for the crowd: all that was held in a restart would arrive in one moment, fill the new broker's
queue, be refused, and use up the budget for retries. As with TCP after a loss, each answer brings the next.
"""

from math import inf

#: Seconds between two HELLOs to a broker that leaves: the longest that a replacement can go unnoticed.
PROBE_SECONDS = 0.2
#: Unanswered jobs of one link after a restart, until nothing waits any more. A broker's queue holds 256.
WINDOW = 32


class Gate:
    """Closed while the broker leaves; open, half open until the crowd is through."""

    def __init__(self) -> None:
        self.closed = False
        #: When to ask whether the broker has been replaced.
        self._probe_at = inf
        #: How many more jobs may go out.
        self._room = inf

    def close(self, now: float, dice: float) -> None:
        """Let no job through, and ask again in a while; with jitter, as others wait for the same."""
        self.closed = True
        self._probe_at = now + PROBE_SECONDS * (0.75 + 0.5 * dice)

    def probe(self) -> None:
        """Ask as soon as possible."""
        self._probe_at = -inf

    def open(self) -> None:
        """Let jobs through again, few at first."""
        self.closed, self._probe_at, self._room = False, inf, WINDOW

    def probe_due(self, now: float) -> bool:
        """Whether it is time to ask whether the broker has been replaced."""
        return now >= self._probe_at

    @property
    def has_room(self) -> bool:
        """Whether a job may go out."""
        return not self.closed and self._room > 0

    def sent(self) -> None:
        """Count a job that went out."""
        self._room -= 1

    def ended(self) -> None:
        """Count a job that was out and is not any more."""
        self._room += 1

    def settle(self) -> None:
        """Note that nothing waits: the crowd is through."""
        self._room = inf
