"""A client's connection to the mesh: one broker at a time, and the next of the list when that one leaves or is gone.

Theory of operation. A `Link` is one DEALER and one `AskCore`; `pump` moves whatever can move without waiting. It learns
that a connection is gone from POLLOUT: with IMMEDIATE=1 a DEALER without a finished connection is not writable. Two
drivers wait between pumps: `Connection` here, with a poller, and `AsyncConnection` in `mesh.transport.aio`.
"""

import contextlib
import os
import random
import threading
import time
from collections.abc import Sequence

import zmq

from mesh.core.asking import AskCore, Outcome
from mesh.core.requests import Request
from mesh.core.retry import RetryBudget
from mesh.errors import InvalidRequest, LocalProtocolError
from mesh.protocol.header import ANY_MAP
from mesh.transport import sockets

DEFAULT_PORT = 5570
#: Seconds a broker has to accept and greet us before the next one of the list is tried. A connection across a
#: continent takes three round trips of 0.1 s.
PATIENCE_SECONDS = 1.0
#: Seconds between looks at a connection while jobs wait: less than RECONNECT_IVL, so that no loss goes unnoticed.
_LOOK_SECONDS = 0.08
#: Frames taken in one pump, so that an event loop gets its turn.
_MAX_FRAMES = 500

#: Milliseconds that a goodbye may take to leave; it matters little, so no one waits for it longer.
_LINGER_MS = 50

# Plain integers: pyzmq's enum flags cost as much as a small message.
_POLLIN, _POLLOUT, _EVENTS, _NOBLOCK = int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.EVENTS), int(zmq.NOBLOCK)


def endpoint(broker: str) -> str:
    """Return the ZeroMQ endpoint for HOST, HOST:PORT, tcp://HOST[:PORT] or ipc://PATH; raises `InvalidRequest`."""
    if broker.startswith("ipc://") and len(broker) > len("ipc://"):
        return broker
    host, colon, port = broker.removeprefix("tcp://").rpartition(":")
    if not colon or port.endswith("]"):
        host, port = broker.removeprefix("tcp://"), str(DEFAULT_PORT)
    good_host = host and not set(host) & set("/ \t\n\\@") and (":" not in host or host.startswith("["))
    if not good_host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        hint = "write ne.example.net, ne.example.net:5570, tcp://127.0.0.1:5570 or ipc:///run/mesh/cloud"
        raise InvalidRequest(f"{broker!r} is no address of a broker", field="broker", hint=hint)
    return f"tcp://{host}:{port}"


def endpoints(brokers: str | Sequence[str]) -> tuple[str, ...]:
    """Return the endpoints of one broker or several; raises `InvalidRequest`."""
    found = tuple(endpoint(broker) for broker in ([brokers] if isinstance(brokers, str) else brokers))
    if not found:
        raise InvalidRequest("name at least one broker", field="broker")
    return found


class Link:
    """One DEALER and its jobs; not thread-safe, and `pump` never waits."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        targets: Sequence[str],
        budget: RetryBudget,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.core = AskCore(budget, random.random, " or ".join(targets))
        self._context = context
        self._targets, self._turn, self._patience = targets, 0, patience
        self.socket = self._connect()
        #: Since when we wait for a greeting; None while there is a session or nothing to wait for.
        self._waiting_since: float | None = None
        self._linked = False
        #: Whether a connection broke that we had; when we last went to another broker.
        self._broken = False
        self._turned = 0.0

    @property
    def linked(self) -> bool:
        """Whether there was a connection at the last look."""
        return self._linked

    @property
    def target(self) -> str:
        """The endpoint in use."""
        return self._targets[self._turn]

    def submit(self, requests: Sequence[Request], deadline: float) -> list[bytes]:
        """Take jobs and return their ids; nothing is sent before the next `pump`."""
        ids = [os.urandom(16) for _ in requests]
        for job_id, request in zip(ids, requests, strict=True):
            self.core.submit(job_id, request, deadline)
        return ids

    def pump(self, now: float) -> float | None:
        """Receive and send what can be; return the time of the next pump at the latest, None if there is no job."""
        budget = _MAX_FRAMES
        while True:
            # Reading EVENTS takes the edge of the descriptor, so look again after each send and leave only when
            # there is nothing to read (pyzmq#2173: this is how zmq.asyncio stalls).
            events = int(self.socket.getsockopt(_EVENTS))
            if events & _POLLIN and budget:
                budget -= 1
                self.core.received(self.socket.recv(_NOBLOCK), now)
                continue
            self.core.tick(now)
            self._notice(linked=bool(events & _POLLOUT))
            if not budget:
                return now
            if not (self._linked and self.core.wants_to_send):
                return self._next_look(now)
            self._send(now)

    def close(self) -> None:
        """Say goodbye, so that the broker need not wait for our silence, and close the socket."""
        farewell = self.core.farewell()
        if farewell is not None and not self.socket.closed:
            with contextlib.suppress(zmq.Again):
                self.socket.send(farewell, _NOBLOCK)
        self.socket.close(_LINGER_MS)

    def _notice(self, *, linked: bool) -> None:
        if self._linked and not linked:
            self.core.lost()
            self._broken = True
        self._linked = linked

    def _send(self, now: float) -> None:
        for frame in self.core.frames(now):
            try:
                self.socket.send(frame, _NOBLOCK)
            except zmq.Again:
                self._notice(linked=False)
                return

    def _next_look(self, now: float) -> float | None:
        if self.core.idle:
            self._waiting_since, self._broken = None, False
            return None
        if self._gives_up(now) and len(self._targets) > 1:
            self._turn_to_next(now)
        times = (now + _LOOK_SECONDS, self.core.next_time())
        return min(at for at in times if at is not None)

    def _connect(self) -> "zmq.Socket[bytes]":
        socket = sockets.dealer(self._context)
        sockets.connecting(socket, sockets.CLIENT)
        sockets.connect(socket, self.target, "broker")
        return socket

    def _gives_up(self, now: float) -> bool:
        """Whether another broker is a better bet than the one in use."""
        leaves = self.core.leaving and not self.core.must_stay
        if self.core.welcome is not None and not leaves:
            self._waiting_since, self._broken = None, False
            return False
        if self._broken or leaves:
            return now - self._turned >= _LOOK_SECONDS  # lest we run in circles when all of them leave
        if self._waiting_since is None:
            self._waiting_since = now
        return now - self._waiting_since >= self._patience

    def _turn_to_next(self, now: float) -> None:
        # Another socket, for disconnect() only begins to take effect: what is sent next may go to the former broker
        # all the same, which is about to end and reads no more. Made before the other is closed, so that the two have
        # different descriptors, by which `AsyncConnection` sees the change.
        former, self._turn = self.socket, (self._turn + 1) % len(self._targets)
        self.socket = self._connect()
        former.close(0)
        self._linked = self._broken = False
        self._waiting_since = self._turned = now
        self.core.lost()


class Connection:
    """A connection for several threads: each call in progress has a link of its own, and links are used again."""

    def __init__(self, brokers: str | Sequence[str], *, patience: float = PATIENCE_SECONDS) -> None:
        self.endpoints = endpoints(brokers)
        #: Four bytes that name the region map the caller plans by; goes into every request.
        self.map_digest = ANY_MAP
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # Shared by all threads without a lock: a lost update of a token now and then does no harm.
        self._budget = RetryBudget()
        self._patience = patience
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._busy = 0
        self._closed = False

    def ask(self, requests: Sequence[Request], timeout: float) -> list[Outcome]:
        """Send all requests at once and return how each ended, in their order; *timeout* in seconds."""
        link = self._take()
        try:
            return self._collect(link, requests, time.monotonic() + timeout)
        finally:
            self._give_back(link)

    def close(self) -> None:
        """Close; calls still in progress in other threads end normally."""
        with self._lock:
            self._closed = True
            links, self._idle = self._idle, []
        for link in links:
            link.close()
        self._end_if_last()

    def _collect(self, link: Link, requests: Sequence[Request], deadline: float) -> list[Outcome]:
        core = link.core
        core.map_digest = self.map_digest
        core.done.clear()
        outcomes: dict[bytes, Outcome] = {}
        ids = link.submit(requests, deadline)
        try:
            while True:
                wake = link.pump(time.monotonic())
                if core.done:
                    outcomes.update(core.done)
                    core.done.clear()
                if len(outcomes) == len(ids):
                    return [outcomes[job_id] for job_id in ids]
                _wait(link, wake)
        finally:
            if len(outcomes) < len(ids):  # an exception, such as Ctrl-C: tell the broker
                _abandon(link, ids)

    def _take(self) -> Link:
        with self._lock:
            if self._closed:
                raise LocalProtocolError("this client is closed")
            self._busy += 1
            if self._idle:
                return self._idle.pop()
        return Link(self._context, self.endpoints, self._budget, self._patience)

    def _give_back(self, link: Link) -> None:
        with self._lock:
            self._busy -= 1
            if not self._closed:
                self._idle.append(link)
                return
        link.close()
        self._end_if_last()

    def _end_if_last(self) -> None:
        with self._lock:
            last = not self._busy and not self._context.closed
        if last:
            self._context.term()


def _wait(link: Link, wake: float | None) -> None:
    seconds = _LOOK_SECONDS if wake is None else wake - time.monotonic()
    if seconds > 0:
        # A DEALER without a connection becomes writable when it gets one; with one it always is, and we would spin.
        link.socket.poll(int(seconds * 1000) + 1, _POLLIN if link.linked else _POLLIN | _POLLOUT)


def _abandon(link: Link, ids: Sequence[bytes]) -> None:
    for job_id in ids:
        link.core.abandon(job_id)
    link.pump(time.monotonic())
