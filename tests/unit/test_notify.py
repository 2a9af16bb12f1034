"""mesh.service.notify, with real datagram sockets in systemd's place."""

import os
import socket
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from mesh.service import notify
from mesh.service.notify import Notifier, Reporter, one_line


class Systemd:
    """A datagram socket that hears what a service says."""

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._told: list[Notifier] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Return the datagrams that have arrived."""
        texts = []
        while True:
            try:
                texts.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return texts

    def notifier(self, **environ: str) -> Notifier:
        """Return what talks to this socket."""
        self._told.append(Notifier({"NOTIFY_SOCKET": self._name, **environ}))
        return self._told[-1]

    def close(self) -> None:
        """Close the socket and those that talk to it."""
        for notifier in self._told:
            notifier.close()
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, socket_path: Path) -> Iterator[Systemd]:
    name = str(socket_path) if request.param == "path" else f"@mesh-test-{os.getpid()}-{time.monotonic_ns()}"
    heard = Systemd(name, "\0" + name[1:] if name.startswith("@") else name)
    yield heard
    heard.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, to be set; the first element counts."""
    now = [100.0]
    monkeypatch.setattr(notify, "monotonic", lambda: now[0])
    return now


def reporter(notifier: Notifier, status: str = "fine", ready: bool = True) -> Reporter:
    return Reporter(notifier, lambda: status, lambda: ready)


def test_lines_go_out_in_one_datagram(systemd: Systemd) -> None:
    """To a path as well as to a name in Linux's abstract namespace."""
    notifier = systemd.notifier()
    assert notifier.say("READY=1", "STATUS=release=1.0 peers=4/4")
    assert systemd.heard() == ["READY=1\nSTATUS=release=1.0 peers=4/4"]


def test_without_systemd_it_says_nothing_and_does_not_fail() -> None:
    """A program that a person started has nobody to tell."""
    notifier = Notifier({})
    assert notifier.say("READY=1")
    report = reporter(notifier)
    report()
    report.stopping(3.0)
    notifier.close()


@pytest.mark.parametrize("name", ["/no/such/socket", "@nobody-listens-here", "vsock:2:1234", "relative"])
def test_an_address_where_nobody_listens_is_no_error(name: str) -> None:
    """Whatever the address is, the service goes on."""
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"})
    assert not notifier.say("READY=1")
    reporter(notifier)()
    notifier.close()
    assert not notifier.say("READY=1")


def test_a_full_queue_does_not_hold_up_the_messages(systemd: Systemd) -> None:
    """A service manager that does not read makes us lose words, never time; they are said when it reads again."""
    notifier = systemd.notifier()
    begin = time.monotonic()
    while notifier.say("STATUS=x"):
        assert time.monotonic() - begin < 5.0, "the queue is endless"
    report = reporter(notifier)
    report()
    assert "READY=1" not in "".join(systemd.heard())
    deadline = time.monotonic() + 5.0
    while not any("READY=1" in text for text in systemd.heard()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        report()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, inf),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid() + 1)}, inf),
        ({"WATCHDOG_USEC": "0"}, inf),
        ({"WATCHDOG_USEC": "-5"}, inf),
        ({"WATCHDOG_USEC": "soon"}, inf),
    ],
)
def test_the_watchdog_is_ours_only_if_systemd_says_so(environ: dict[str, str], seconds: float) -> None:
    """WATCHDOG_PID names whom it watches; a child that inherited the variables is not meant."""
    assert Notifier(environ).watchdog_seconds == seconds


def test_the_loop_is_asked_to_wake_for_the_watchdog() -> None:
    """At least every half interval, even if nothing else happens."""
    assert reporter(Notifier({"WATCHDOG_USEC": "300000"})).longest_wait == pytest.approx(0.15)
    assert reporter(Notifier({})).longest_wait <= 1.0


def test_ready_is_said_once_and_only_when_it_is_so(systemd: Systemd, clock: list[float]) -> None:
    """Before, systemd sees the status and waits; afterwards nothing is repeated."""
    ready = []
    report = Reporter(systemd.notifier(), lambda: "opening", lambda: bool(ready))
    report()
    assert systemd.heard() == ["STATUS=opening"]
    ready.append(True)
    clock[0] += 0.03
    report()
    clock[0] += 5.0
    report()
    assert systemd.heard() == ["READY=1"]


def test_the_status_is_told_when_it_changes_and_once_a_second_at_most(systemd: Systemd, clock: list[float]) -> None:
    """Looking costs little, and a mesh in trouble does not flood systemd."""
    status = ["peers=0/4"]
    report = Reporter(systemd.notifier(), lambda: status[0], lambda: True)
    report()
    assert systemd.heard() == ["STATUS=peers=0/4\nREADY=1"]
    for count in range(5):
        status[0] = f"peers={count}/4"
        clock[0] += 0.1
        report()
    assert systemd.heard() == []
    clock[0] += 0.6
    report()
    clock[0] += 2.0
    report()
    assert systemd.heard() == ["STATUS=peers=4/4"]


def test_the_watchdog_is_fed_every_half_interval(systemd: Systemd, clock: list[float]) -> None:
    """By the turns of the loop and by nothing else: a loop that does not turn feeds nobody."""
    report = reporter(systemd.notifier(WATCHDOG_USEC="10000000"))
    for _ in range(200):  # 20 s
        report()
        clock[0] += 0.1
    assert systemd.heard().count("WATCHDOG=1") == 4
    clock[0] += 60.0
    assert systemd.heard() == []


def test_stopping_asks_for_the_time_of_the_drain(systemd: Systemd) -> None:
    """The grace of the configuration may be longer than the unit's TimeoutStopSec."""
    reporter(systemd.notifier()).stopping(60.0)
    (said,) = systemd.heard()
    assert said == "STOPPING=1\nEXTEND_TIMEOUT_USEC=65000000"


def test_a_status_does_not_outlive_its_process(systemd: Systemd) -> None:
    """Whoever reads the status of a stopped unit must not take it for that of a running one."""
    report = reporter(systemd.notifier(), "release=1 fingerprint=abc")
    report()
    report.stopped()
    assert systemd.heard()[-1] == "STATUS=stopped"


def test_a_status_cannot_forge_a_line() -> None:
    """A release name from a file must not say READY for us."""
    assert one_line("a\nREADY=1\r\x00é") == "a?READY=1??é"
