"""Where the parties of a chaos run live: five hosts and the clients', each a network namespace on one wire.

Theory of operation. The harness runs itself anew below `unshare --net --mount`. What it makes there, devices, mounts
and further namespaces, has no name outside and goes with its last process, however that ends; so there is nothing to
clean up after a crash, and no way to hit the machine's own network. Namespaces for ordinary processes come up in
milliseconds; nspawn guests (`scripts/lab`) would add systemd, which these tests are not about.
Where that is not allowed, everything shares the loopback device, and faults of network and disk cannot be had.
"""

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from mesh.local.processes import _die_with
from tests.chaos.schedule import REGIONS
from tests.chaos.wire import Wire, address, host_commands, open_tun

#: Set for the harness below `unshare`.
INSIDE = "MESH_CHAOS_NAMESPACE"
DISK_BYTES = 512 * 1024 * 1024
#: Ours alone, below `unshare --mount`.
_DISKS = Path("/mnt")
_NETWORK = ("link down", "one way", "cut pair", "slow link")


@dataclass
class Host:
    """A host of one region: how a program is run on it, and its addresses."""

    region: str
    number: int
    address: str
    broker_port: int
    mongod_port: int
    data: Path
    prefix: tuple[str, ...] = ()
    device: str = ""
    clock: Path | None = None


@dataclass
class Hosts:
    """All hosts, and what can be done to them."""

    directory: Path
    hosts: dict[str, Host] = field(default_factory=dict)
    wire: Wire | None = None
    #: The library that steps clocks, where there is a compiler.
    clock_library: Path | None = None
    #: Kinds of faults that cannot be had here -> why.
    lacking: dict[str, str] = field(default_factory=dict)

    def run(self, region: str, *command: str) -> None:
        """Run a command on a host."""
        _run(*self.hosts[region].prefix, *command)


def enter() -> None:
    """Go on in namespaces of our own; returns if we are there, or may not make any."""
    command = unshare()
    if os.environ.get(INSIDE) or not command:
        return
    os.environ[INSIDE] = "1"
    _become([*command, sys.executable, "-m", "tests.chaos", *sys.argv[1:]])


def unshare() -> list[str] | None:
    """Return the command that gives a program namespaces of its own, None where that is not allowed."""
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *root, "--net", "--mount", "--propagation", "private"]
    probe = ["sh", "-c", "mount -t tmpfs none /mnt && ip tuntap add dev probe mode tun"]
    if not all(map(shutil.which, ("unshare", "nsenter", "ip", "mount"))):
        return None
    done = subprocess.run([*command, *probe], check=False, capture_output=True)
    return command if done.returncode == 0 else None


@contextlib.contextmanager
def made(directory: Path, seed: int, base_port: int) -> Iterator[Hosts]:
    """Make the hosts for as long as the block lasts."""
    with ExitStack() as exits:
        hosts = Hosts(directory)
        if os.environ.get(INSIDE):
            _isolated(hosts, seed, exits)
        else:
            _shared(hosts, base_port)
        _clocks(hosts)
        yield hosts


def _shared(hosts: Hosts, base_port: int) -> None:
    why = "needs namespaces of its own: root (or user namespaces), unshare, ip, mount and /dev/net/tun"
    hosts.lacking |= dict.fromkeys((*_NETWORK, "full disk"), why)
    for number, region in enumerate(REGIONS):
        data = hosts.directory / f"data-{region}"
        data.mkdir()
        hosts.hosts[region] = Host(region, number, "127.0.0.1", base_port + number, base_port + 10 + number, data)


def _isolated(hosts: Hosts, seed: int, exits: ExitStack) -> None:
    tuns = []
    _run("mount", "-t", "tmpfs", "none", str(_DISKS))
    for number, region in enumerate(REGIONS):
        holder = _holder()
        exits.callback(_end, holder)
        device = f"mesh-{region}"
        tuns.append(open_tun(device))
        _run("ip", "link", "set", device, "netns", str(holder.pid))
        prefix = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        for command in host_commands(device, number):
            _run(*prefix, *command)
        data = _disk(region)
        hosts.hosts[region] = Host(region, number, address(number), 5570, 27017, data, prefix, device)
    tuns.append(open_tun("clients"))
    for command in host_commands("clients", len(REGIONS)):
        _run(*command)
    hosts.wire = Wire(tuns, seed)
    exits.callback(hosts.wire.close)


def _holder() -> "subprocess.Popen[bytes]":
    """Start a process that does nothing but have a network namespace, and dies with us."""
    parent = os.getpid()
    holder = subprocess.Popen(
        ["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - one C function, found beforehand
    )  # fmt: skip
    ours, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + 5
    while Path(f"/proc/{holder.pid}/ns/net").readlink() == ours:
        if time.monotonic() > deadline:
            raise RuntimeError("no network namespace came up")
        time.sleep(0.002)
    return holder


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def _disk(region: str) -> Path:
    # Not below the run-time directory: whoever removes that after a crash cannot remove what is mounted.
    data = _DISKS / region
    data.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(data))
    return data


def _clocks(hosts: Hosts) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        hosts.lacking["clock step"] = "needs a C compiler, for a library that steps the clock of some processes alone"
        return
    library = hosts.directory / "clock.so"
    _run(compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(Path(__file__).with_name("clock.c")))
    hosts.clock_library = library
    for region, host in hosts.hosts.items():
        host.clock = hosts.directory / f"clock-{region}"
        set_clock(host.clock, 0)


def set_clock(path: Path, seconds: int) -> None:
    """Step a host's clock to so many seconds from the right time."""
    # Written in place: processes have mapped this very file.
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("q", seconds))


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _become(command: list[str]) -> NoReturn:
    os.execvp(command[0], command)
