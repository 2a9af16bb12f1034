"""The loop that moves messages: sockets and timers in, a core in the middle, actions out.

One thread and a plain poller: `zmq.asyncio` can miss wake-ups (pyzmq #2173). Every readable socket is drained, at most
BATCH messages a turn, into the core; a socket that is not read turns ZMTP heartbeats into lost messages and aborts.
"""

import contextlib
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

import zmq
from zmq.backend import Socket as _Backend
from zmq.backend import zmq_poll as _poll

from mesh.core.actions import Core, Log, Run, Send

#: Messages taken from one socket before the others have their turn.
BATCH = 64

# The public methods build enum flags at each call; the base class's take plain ints, and are three times as fast.
_recv = _Backend.recv
_send = _Backend.send
_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE_NOBLOCK = int(zmq.SNDMORE) | _NOBLOCK
_POLLIN = int(zmq.POLLIN)

LogLine = Callable[[str, str, dict[str, Any]], None]


class Loop:
    """Drives one core until it says `Stop`."""

    def __init__(self, core: Core, sockets: dict[int, "zmq.Socket[bytes]"], log: LogLine) -> None:
        self.core = core
        self.sockets = sockets
        self.log = log
        self.running = False
        #: Called once each turn of the loop, as the systemd watchdog wants it.
        self.each_turn: Callable[[], None] = lambda: None
        #: Performs `Run`; a worker sets it.
        self.run_job: Callable[[Run, float], None] | None = None
        self._addressed = {link: socket.socket_type == zmq.ROUTER for link, socket in sockets.items()}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._on_wake: list[Callable[[float], None]] = []
        self._asked_to_drain = False

    # -- from other threads and signal handlers ------------------------------------------------------------------------

    def wake(self) -> None:
        """Make the loop turn now; safe from any thread and from signal handlers."""
        os.eventfd_write(self._wake_fd, 1)

    def request_drain(self) -> None:
        """Begin the drain at the next turn; safe from signal handlers."""
        self._asked_to_drain = True
        self.wake()

    def on_wake(self, callback: Callable[[float], None]) -> None:
        """Call *callback* with the time after each wake."""
        self._on_wake.append(callback)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the core stops; closes the sockets."""
        links = {socket: link for link, socket in self.sockets.items()}
        # What zmq.Poller hands to this function each time.
        watched: list[tuple[Any, int]] = [*((socket, _POLLIN) for socket in links), (self._wake_fd, _POLLIN)]
        self.running = True
        try:
            while self.running:
                timeout = max(0, int((self.core.wake_at() - monotonic()) * 1000) + 1)
                events = _poll(watched, timeout)
                self._turn(links, [ready for ready, _ in events])
        finally:
            self.close()

    def _turn(self, links: dict[Any, int], ready: list[Any]) -> None:
        """Take in what has arrived, decide, and only then act."""
        now = monotonic()
        for source in ready:
            if source in links:
                self._drain(links[source], source, now)
            else:
                self._woken(now)
        if now >= self.core.wake_at():
            self.core.tick(now)
        while sends := self._perform(now):
            self._deliver(sends, now)
        self.each_turn()

    def _drain(self, link: int, socket: "zmq.Socket[bytes]", now: float) -> None:
        """Hand over what has arrived, at most BATCH messages."""
        receive, addressed = self.core.receive, self._addressed[link]
        with contextlib.suppress(zmq.Again):
            for _ in range(BATCH):
                sender = _recv(socket, _NOBLOCK) if addressed else b""
                # As a Frame, which knows whether more parts follow: asking the socket costs an enum's look-up.
                frame = _recv(socket, _NOBLOCK, False)
                if frame.more:
                    self.core.malformed(link, sender, 1 + _discard_rest(socket), now)
                else:
                    receive(link, sender, frame.bytes, now)

    def _woken(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        for callback in self._on_wake:
            callback(now)
        if self._asked_to_drain:
            self._asked_to_drain = False
            self.core.drain(now)

    # -- actions -------------------------------------------------------------------------------------------------------

    def _perform(self, now: float) -> list[Send]:
        """Do all that the core decided except for the sends; return those.

        Sends that follow each other closely find libzmq's I/O thread awake; one between two decisions, or between two
        jobs, has to wake it each time, which costs three times the decision.
        """
        sends: list[Send] = []
        while actions := self.core.take(now):
            for action in actions:
                if isinstance(action, Send):
                    sends.append(action)
                elif isinstance(action, Run):
                    if self.run_job is not None:
                        self.run_job(action, now)
                elif isinstance(action, Log):
                    self.log(action.level, action.event, action.fields)
                else:
                    self.running = False
        return sends

    def _deliver(self, sends: list[Send], now: float) -> None:
        """Hand over each message; what the core decides about those that cannot be is left for the next round."""
        sockets, addressed = self.sockets, self._addressed
        for link, to, frame in sends:
            socket = sockets[link]
            try:
                if addressed[link]:
                    _send(socket, to, _SNDMORE_NOBLOCK)
                _send(socket, frame, _NOBLOCK)
            except zmq.ZMQError as error:
                # EHOSTUNREACH: nobody there. EAGAIN: no room. Polling a ROUTER for room would spin; the core decides.
                if error.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                    raise
                self.core.undeliverable(link, to, frame, now)

    def close(self) -> None:
        """Close the sockets, giving what was sent last a second to leave."""
        for socket in self.sockets.values():
            socket.close(linger=1000)
        os.close(self._wake_fd)


def _discard_rest(socket: "zmq.Socket[bytes]") -> int:
    """Read the remaining parts of a message and forget them; return how many there were."""
    parts, more = 0, True
    while more:
        more = _recv(socket, _NOBLOCK, False).more
        parts += 1
    return parts
