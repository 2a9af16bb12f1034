"""How each kind of fault is done to a mesh, and healed: a context manager a kind.

Names are those of `schedule.KINDS`. What a kind needs and this machine lacks is in `Hosts.lacking`, with the reason.
"""

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import msgspec
import psutil

from mesh.model import Find
from tests.chaos.beside import beside
from tests.chaos.hosts import set_clock
from tests.chaos.running import ChaosMesh
from tests.chaos.schedule import REGIONS, Fault
from tests.chaos.wire import Rules
from tests.system.raw import Stranger

#: One way, each time two hosts meet: a round trip of 200 ms.
SLOW_DELAY_SECONDS, SLOW_LOSS = 0.1, 0.02
#: Connections that knock where descriptors have run out.
KNOCKS = 12
#: Questions a second of a client that reads no answer, and how large those are.
UNREAD_PER_SECOND, UNREAD_PLACES = 40, 100

Doing = Callable[[ChaosMesh, Fault], AbstractContextManager[None]]


def doing(mesh: ChaosMesh, fault: Fault) -> AbstractContextManager[None]:
    """Return the context manager that does a fault when entered and heals it when left."""
    return _KINDS[fault.kind](mesh, fault)


def _victim(fault: Fault) -> str:
    program = fault.kind.split()[-1]
    return f"{program}-{fault.whom}-{fault.other}" if program == "worker" else f"{program}-{fault.whom}"


# -- processes ---------------------------------------------------------------------------------------------------------


@contextmanager
def _kill(mesh: ChaosMesh, fault: Fault) -> Iterator[None]:
    """SIGKILL; whoever keeps it running starts it again when the fault is over."""
    mesh.keeper.crash(_victim(fault))
    try:
        yield
    finally:
        mesh.keeper.resume(_victim(fault))


@contextmanager
def _stop(mesh: ChaosMesh, fault: Fault) -> Iterator[None]:
    """SIGSTOP, SIGCONT: it is there, holds its connections, and says nothing."""
    pid = mesh.pid(_victim(fault))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _restart(mesh: ChaosMesh, fault: Fault) -> Iterator[None]:
    """SIGTERM, which drains, and a new one."""
    mesh.keeper.stop(_victim(fault))
    try:
        yield
    finally:
        mesh.keeper.resume(_victim(fault))


@contextmanager
def _no_descriptors(mesh: ChaosMesh, fault: Fault) -> Iterator[None]:
    """Take away a process's room for descriptors beyond those it has, and knock at its door."""
    name = f"{fault.other}-{fault.whom}" + ("-1" if fault.other == "worker" else "")
    process = psutil.Process(mesh.pid(name))
    had = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds(), had[1]))
    host = mesh.hosts.hosts[fault.whom]
    port = {"broker": host.broker_port, "mongod": host.mongod_port}.get(fault.other)
    try:
        with ExitStack() as knocks:
            for _ in range(KNOCKS if port else 0):
                knock = knocks.enter_context(socket.socket())
                knock.setblocking(False)
                knock.connect_ex((host.address, port))
            yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(resource.RLIMIT_NOFILE, had)


@contextmanager
def _slow_reader(mesh: ChaosMesh, fault: Fault) -> Iterator[None]:
    """Ask for much, in a hurry, and read nothing: buffers fill from the client's kernel to the broker's queue."""
    question = msgspec.msgpack.encode(Find(limit=UNREAD_PLACES))
    with Stranger(mesh.brokers[fault.whom]) as stranger:
        import zmq  # noqa: PLC0415 - as tests/system/raw.py

        stranger.socket.setsockopt(zmq.RCVHWM, 1)
        stranger.hello()

        def ask() -> None:
            stranger.ask(fault.whom, question, budget_ms=2000)

        with beside(ask, 1 / UNREAD_PER_SECOND):
            yield


@contextmanager
def _full_disk(mesh: ChaosMesh, fault: Fault) -> Iterator[None]:
    """Fill a mongod's disk; it ends itself when a write fails, and again at each start until there is room."""
    ballast = mesh.hosts.hosts[fault.whom].data / "ballast"
    block = bytes(1024 * 1024)
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(block):  # in parts, in the end; then ENOSPC
                pass
        yield
    finally:
        ballast.unlink(missing_ok=True)


@contextmanager
def _clock_step(mesh: ChaosMesh, fault: Fault) -> Iterator[None]:
    """Set the clock of a region's broker and workers; a mongod keeps the right time (see docs/testing.md)."""
    clock = mesh.hosts.hosts[fault.whom].clock
    if clock is None:
        raise RuntimeError("there is no clock to step")
    set_clock(clock, int(fault.other))
    try:
        yield
    finally:
        set_clock(clock, 0)


# -- network -----------------------------------------------------------------------------------------------------------


@contextmanager
def _link_down(mesh: ChaosMesh, fault: Fault) -> Iterator[None]:
    """Take a host's only interface down: it reaches nobody, and knows."""
    device = mesh.hosts.hosts[fault.whom].device
    mesh.hosts.run(fault.whom, "ip", "link", "set", device, "down")
    try:
        yield
    finally:
        mesh.hosts.run(fault.whom, "ip", "link", "set", device, "up")


@contextmanager
def _ruled(mesh: ChaosMesh, rules: Rules) -> Iterator[None]:
    wire = mesh.hosts.wire
    if wire is None:
        raise RuntimeError("there is no wire")
    wire.set(rules)
    try:
        yield
    finally:
        wire.clear(rules)


def _one_way(mesh: ChaosMesh, fault: Fault) -> AbstractContextManager[None]:
    """Lose all that one host sends to another; what that one sends arrives."""
    return _ruled(mesh, {(REGIONS.index(fault.whom), REGIONS.index(fault.other)): (0.0, 1.0)})


def _cut_pair(mesh: ChaosMesh, fault: Fault) -> AbstractContextManager[None]:
    """Lose all that two hosts send to each other; clients reach both."""
    one, other = REGIONS.index(fault.whom), REGIONS.index(fault.other)
    return _ruled(mesh, dict.fromkeys([(one, other), (other, one)], (0.0, 1.0)))


def _slow_link(mesh: ChaosMesh, fault: Fault) -> AbstractContextManager[None]:
    """Delay and lose some of what a host sends and receives, clients included."""
    one = REGIONS.index(fault.whom)
    pairs = [pair for other in range(len(REGIONS) + 1) if other != one for pair in ((one, other), (other, one))]
    return _ruled(mesh, dict.fromkeys(pairs, (SLOW_DELAY_SECONDS, SLOW_LOSS)))


_KINDS: dict[str, Doing] = {
    "kill broker": _kill,
    "kill worker": _kill,
    "kill mongod": _kill,
    "stop broker": _stop,
    "stop worker": _stop,
    "stop mongod": _stop,
    "restart broker": _restart,
    "no descriptors": _no_descriptors,
    "slow reader": _slow_reader,
    "full disk": _full_disk,
    "clock step": _clock_step,
    "link down": _link_down,
    "one way": _one_way,
    "cut pair": _cut_pair,
    "slow link": _slow_link,
}
