"""mesh.service.activation, with real descriptors."""

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.service.activation import inherited, listener

ME = str(os.getpid())


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(16)
        yield sock


def environ(names: str = "front", count: int = 1, pid: str = ME) -> dict[str, str]:
    return {"LISTEN_PID": pid, "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}


def test_the_socket_comes_with_its_address(listening: socket.socket) -> None:
    """By its name, and ready for a loop: it neither blocks nor reaches children."""
    fd = listening.fileno()
    os.set_blocking(fd, True)
    os.set_inheritable(fd, True)
    found = listener("front", environ(), first=fd)
    assert found is not None
    assert found == (fd, "127.0.0.1", listening.getsockname()[1])
    assert str(found) == f"tcp://127.0.0.1:{found.port}"
    assert not os.get_blocking(fd)
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_an_ipv6_address_has_its_brackets() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        sock.listen()
        found = listener("front", environ(), first=sock.fileno())
        assert str(found) == f"tcp://[::1]:{sock.getsockname()[1]}"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        environ(pid="1"),
        environ(pid=""),
        environ(count=0),
        environ(names="other"),
        {"LISTEN_PID": ME, "LISTEN_FDS": "nonsense", "LISTEN_FDNAMES": "front"},
        {"LISTEN_PID": ME, "LISTEN_FDS": "1"},
    ],
)
def test_without_a_socket_for_us_there_is_none(variables: dict[str, str], listening: socket.socket) -> None:
    """Started by hand, by another's variables, or by a unit whose sockets have other names."""
    assert listener("front", variables, first=listening.fileno()) is None


def test_sockets_are_told_apart_by_name() -> None:
    """Their order is that of the socket units, which nobody should have to know."""
    first = _free_row(3)
    held = []
    try:
        for number in range(3):
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            os.dup2(sock.fileno(), first + number)
            held.append(sock)
        names = environ("metrics:front:metrics", 3)
        assert inherited(names, first) == {"metrics": [first, first + 2], "front": [first + 1]}
        found = listener("front", names, first)
        assert found is not None
        assert found.port == held[1].getsockname()[1]
        with pytest.raises(ConfigError, match="2 sockets named 'metrics'"):
            listener("metrics", names, first)
    finally:
        for number in range(3):
            os.close(first + number)
        for sock in held:
            sock.close()


def test_a_descriptor_that_is_not_open_is_named() -> None:
    """Instead of an abort inside libzmq."""
    with pytest.raises(ConfigError, match=r"descriptor \d+ is not open"):
        listener("front", environ(), first=_free_row(1))


def test_what_is_no_listening_tcp_socket_is_refused(socket_path: Path) -> None:
    """A datagram socket, a connection, a unix socket: libzmq would abort at the first connection."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagram,
        socket.socket() as silent,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        datagram.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        unix.bind(str(socket_path))
        unix.listen()
        for sock in (datagram, silent, unix):
            with pytest.raises(ConfigError, match="no listening TCP socket"):
                listener("front", environ(), first=sock.fileno())


def _free_row(count: int) -> int:
    """Return the first of so many descriptors that are not open."""
    first = 200
    while any(Path(f"/proc/self/fd/{number}").exists() for number in range(first, first + count)):
        first += 1
    return first
