"""What systemd is told of us (sd_notify): ready, status, alive, stopping.

Theory of operation. `Notifier` writes single datagrams and never raises: a mesh that works must not stop because
nobody listens to how it is. `Reporter` decides when. The message loop calls it at each turn, and nothing else does:
a helper thread would go on saying "alive" for a loop that is stuck.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from math import inf
from time import monotonic

#: Seconds between two looks at the status line, and before READY between two looks whether it can be said.
STATUS_SECONDS = 1.0
READY_LOOK_SECONDS = 0.02
#: Seconds that systemd is asked for beyond the drain: closing sockets takes one at most.
_EXTRA_SECONDS = 5.0


class Notifier:
    """Writes to `$NOTIFY_SOCKET`; without one, says nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@name" is Linux's abstract namespace, whose names start with NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket:
            self._socket.setblocking(False)  # a service manager that does not read must not hold up the messages
        #: Seconds of silence after which systemd kills us; infinite if it does not watch this process.
        self.watchdog_seconds = _watchdog(environ)

    def say(self, *lines: str) -> bool:
        """Send some `KEY=value` in one datagram; False if it could not be sent."""
        if self._socket is None:
            return True
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), self._address)
            return True
        return False

    def close(self) -> None:
        """Close the socket; what is said afterwards is lost."""
        if self._socket:
            self._socket.close()


class Reporter:
    """Keeps systemd informed; call it at each turn of the message loop, which must not sleep beyond *longest_wait*.

    Args:
        notifier: where to say it.
        describe: returns the status line.
        ready: says whether READY may be said.

    """

    def __init__(self, notifier: Notifier, describe: Callable[[], str], ready: Callable[[], bool]) -> None:
        self._notifier, self._describe, self._ready = notifier, describe, ready
        self._told = ""
        self._told_ready = False
        self._beat_seconds = notifier.watchdog_seconds / 2  # as sd_watchdog_enabled(3) recommends
        self._next_beat = inf if self._beat_seconds == inf else 0.0
        self._next_look = self._due = 0.0
        #: How long the loop may sleep at most, in seconds.
        self.longest_wait = min(self._beat_seconds, STATUS_SECONDS)

    def __call__(self) -> None:
        """Say what is due; at nearly all turns that is nothing, and costs a comparison."""
        now = monotonic()
        if now >= self._due:
            self._report(now)
            self._due = min(self._next_beat, self._next_look)

    def stopping(self, seconds: float) -> None:
        """Say that we end within so many seconds, whatever the unit's TimeoutStopSec; safe from a signal handler."""
        extended = int((seconds + _EXTRA_SECONDS) * 1e6)
        self._notifier.say("STOPPING=1", f"EXTEND_TIMEOUT_USEC={extended}")

    def stopped(self) -> None:
        """Take back the status: systemd shows the last one also of a unit that does not run any more."""
        self._notifier.say("STATUS=stopped")
        self._notifier.close()

    def _report(self, now: float) -> None:
        if now >= self._next_beat and self._notifier.say("WATCHDOG=1"):
            self._next_beat = now + self._beat_seconds
        if now >= self._next_look:
            self._look()
            self._next_look = now + (STATUS_SECONDS if self._told_ready else READY_LOOK_SECONDS)

    def _look(self) -> None:
        status = one_line(self._describe())
        lines = [] if status == self._told else [f"STATUS={status}"]
        ready = self._told_ready or self._ready()
        if ready and not self._told_ready:
            lines.append("READY=1")
        # What could not be sent is tried again at the next look.
        if lines and self._notifier.say(*lines):
            self._told, self._told_ready = status, ready


def one_line(text: str) -> str:
    """Return a text in which nothing can pass for a further line to systemd."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _watchdog(environ: Mapping[str, str]) -> float:
    """Return the seconds of $WATCHDOG_USEC, unless they are meant for another process (our parent, say)."""
    meant_for = environ.get("WATCHDOG_PID", str(os.getpid()))
    with contextlib.suppress(ValueError):
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
        if meant_for == str(os.getpid()) and microseconds > 0:
            return microseconds / 1e6
    return inf
