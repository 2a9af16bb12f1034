"""Making ZeroMQ sockets, with every option that a production mesh needs and the trap behind each.

The traps are libzmq 4.3.5's, found by measurement.
"""

import errno
from typing import NamedTuple

import zmq

from mesh.errors import CannotListen, ConfigError
from mesh.protocol import limits

#: Milliseconds. Dead hosts are found by the transport in about three seconds; hung processes by our own heartbeats.
HEARTBEAT_IVL_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 3_000
#: Messages per peer. Both sides always drain into queues of their own, which are bounded by credit; this is a backstop.
HIGH_WATER_MARK = 20_000
#: Port scanners and slow-loris connections hold a descriptor this long (libzmq's default is 30 s).
HANDSHAKE_MS = 5_000


class Retry(NamedTuple):
    """How soon a broken connection is tried again, in milliseconds: the first wait, which doubles up to the longest."""

    first: int
    longest: int


#: There may be thousands of clients; those that know several brokers do not wait for this.
CLIENT = Retry(100, 1_000)
#: There are few of them, and until they are back a region's work stays where it came in.
PEER = Retry(100, 400)
#: Jobs wait for nobody else. With libzmq's usual back-off, workers came 1.8 s after a broker that was away for 5 s.
WORKER = Retry(25, 50)

_HINTS = {
    errno.EADDRINUSE: "another process listens there; stop it or choose another port",
    errno.EADDRNOTAVAIL: "no interface of this host has that address",
}


def router(context: "zmq.Context[zmq.Socket[bytes]]", *, routing_id: bytes | None = None) -> "zmq.Socket[bytes]":
    """Return a ROUTER that never drops silently and never waits."""
    socket = context.socket(zmq.ROUTER)
    _common(socket)
    # Without MANDATORY, messages to unknown or full peers vanish: 1,975 of 2,000 were lost without a sign.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # Without HANDOVER a peer that comes back on a new connection, before its old one is known to be dead, is ignored:
    # the connection stands, is kept alive, and nothing on it is read, for ever (libzmq looks at a new connection's
    # routing id once). Two brokers lost each other so after a link had been down for four seconds.
    # It also lets whoever bears a peer's name take its place; that is for the check of keys against names to prevent.
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if routing_id is not None:
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
    return socket


def dealer(context: "zmq.Context[zmq.Socket[bytes]]", *, routing_id: bytes | None = None) -> "zmq.Socket[bytes]":
    """Return a DEALER for a worker or a client."""
    socket = context.socket(zmq.DEALER)
    _common(socket)
    if routing_id is not None:
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
    return socket


def connecting(socket: "zmq.Socket[bytes]", retry: Retry) -> None:
    """Set what only the connecting side needs; call before `connect`. CONNECT_ROUTING_ID stays unused: it aborts."""
    # Without IMMEDIATE, jobs for a dead peer are accepted, kept, and replayed when it returns.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, retry.first)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, retry.longest)  # back-off happens only when MAX is set
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 3_000)


def bind(socket: "zmq.Socket[bytes]", endpoint: str, field: str) -> str:
    """Bind and return the real endpoint; the errors name the *field* it came from.

    Raises `CannotListen` for what may pass, such as an address the network has yet to bring, else `ConfigError`.
    """
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        message, hint = f"cannot listen on {endpoint}: {_reason(error)}", _HINTS.get(error.errno or 0)
        if hint is not None:
            raise CannotListen(f"{field}: {message} ({hint})") from None
        raise ConfigError(message, field=field) from None
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def adopt(socket: "zmq.Socket[bytes]", fd: int, endpoint: str, field: str) -> str:
    """Listen on a socket that systemd keeps open while brokers come and go; otherwise as `bind`.

    libzmq closes its descriptor with the ZeroMQ socket; systemd has its own.
    """
    socket.setsockopt(zmq.USE_FD, fd)
    try:
        return bind(socket, endpoint, field)
    finally:
        # It stays set otherwise: a second bind would adopt the same descriptor again, and libzmq aborts the process
        # ("File exists", src/epoll.cpp:73).
        socket.setsockopt(zmq.USE_FD, -1)


def connect(socket: "zmq.Socket[bytes]", endpoint: str, field: str) -> None:
    """Connect; raises `ConfigError` naming the *field* it came from if the endpoint has no valid form."""
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(
            f"{endpoint!r} is no endpoint: {_reason(error)}", field=field, hint="write tcp://HOST:PORT"
        ) from None


def _reason(error: zmq.ZMQError) -> str:
    # Not error.strerror: pyzmq appends the address to it, which stands in our line already.
    return str(zmq.strerror(error.errno or 0)).lower()


def _common(socket: "zmq.Socket[bytes]") -> None:
    socket.setsockopt(zmq.LINGER, 0)  # the default waits for ever at exit; a drain sets its own
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.MAX_PART_BYTES)  # per part, so the loop counts parts as well
    # ZMTP heartbeats are answered by the I/O thread; safe only because these sockets are always drained: a socket
    # nobody reads turns them into false disconnects, lost messages, and an abort on a connecting DEALER.
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_IVL_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 3)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    socket.setsockopt(zmq.TCP_MAXRT, 5_000)  # a half-open link otherwise lives for a quarter of an hour
    socket.setsockopt(zmq.BACKLOG, 512)
