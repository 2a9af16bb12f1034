"""Sockets that systemd opened for us and keeps open while we restart (sd_listen_fds), by their names in the unit."""

import fcntl
import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

from mesh.errors import ConfigError

#: SD_LISTEN_FDS_START of sd-daemon.h.
FIRST_FD = 3
_ANYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - to recognise them


class Inherited(NamedTuple):
    """One listening TCP socket."""

    fd: int
    host: str
    port: int

    def __str__(self) -> str:
        """Return its endpoint."""
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    def fits(self, endpoint: str) -> bool:
        """Whether binding *endpoint* would have made the same socket; libzmq does not look at it."""
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        if port not in {str(self.port), "*"}:
            return False
        if host == "*":
            return self.host in _ANYWHERE
        try:
            return self.host in {str(entry[4][0]) for entry in socket.getaddrinfo(host.strip("[]"), self.port)}
        except OSError:
            return False


def inherited(environ: Mapping[str, str] = os.environ, first: int = FIRST_FD) -> dict[str, list[int]]:
    """Return the descriptors meant for this process, by FileDescriptorName; those without a name are `unknown`."""
    if environ.get("LISTEN_PID") != str(os.getpid()):  # our parent's, or nobody's
        return {}
    count = environ.get("LISTEN_FDS", "0")
    names = [name for name in environ.get("LISTEN_FDNAMES", "").split(":") if name]
    found: dict[str, list[int]] = {}
    for number in range(int(count) if count.isdecimal() else 0):
        name = names[number] if number < len(names) else "unknown"
        found.setdefault(name, []).append(_prepared(first + number))
    return found


def listener(name: str, environ: Mapping[str, str] = os.environ, first: int = FIRST_FD) -> Inherited | None:
    """Return the one listening socket of that name, None if systemd gave none; raises `ConfigError` for others."""
    fds = inherited(environ, first).get(name, [])
    if not fds:
        return None
    if len(fds) > 1:
        message = f"the socket unit has {len(fds)} sockets named {name!r}"
        raise ConfigError(message, field="LISTEN_FDNAMES", hint="write one ListenStream= in mesh-broker.socket")
    return Inherited(fds[0], *_address(fds[0], name))


def _prepared(fd: int) -> int:
    try:
        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        # systemd makes them blocking unless the unit says NonBlocking=yes, and a blocking accept() of a connection
        # that is gone by then would hold up libzmq's I/O thread, and with it every other connection.
        os.set_blocking(fd, False)
    except OSError as error:
        message = f"descriptor {fd} is not open: {(error.strerror or str(error)).lower()}"
        raise ConfigError(message, field="LISTEN_FDS", hint="start the program by its unit") from None
    return fd


def _address(fd: int, name: str) -> tuple[str, int]:
    with socket.socket(fileno=os.dup(fd)) as copy:
        tcp = copy.family in {socket.AF_INET, socket.AF_INET6} and copy.type == socket.SOCK_STREAM
        if not tcp or not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            message = f"the socket named {name!r} is no listening TCP socket"
            raise ConfigError(message, field="LISTEN_FDS", hint="write ListenStream=ADDRESS:PORT in mesh-broker.socket")
        host, port = copy.getsockname()[:2]
        return str(host), int(port)
