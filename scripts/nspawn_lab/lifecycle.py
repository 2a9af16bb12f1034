"""Bringing the whole lab up, and taking every trace of it away."""

import contextlib
import fcntl
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from nspawn_lab import cgroups, control, disks, guests, image, keys, network, repository
from nspawn_lab.layout import Guest, LabError, Layout
from nspawn_lab.processes import Record, run, wait_until

Say = Callable[[str], None]
TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}


def missing() -> str:
    """Return why this machine cannot run a lab and what to do about it, in one line; nothing when it can."""
    if platform.system() != "Linux":
        return "the lab needs Linux"
    if os.geteuid():
        return "the lab makes namespaces and mounts: run it as root (sudo)"
    packages = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if packages:
        return f"the lab needs more programs: apt-get install {' '.join(packages)}"
    return ""


@contextmanager
def alone(lab: Layout) -> Iterator[None]:
    """Keep a second `up` or `down` of this lab waiting until this one is through."""
    with Path(f"/run/{lab.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def up(lab: Layout, hosts: list[Guest], say: Say, mirror: str = image.MIRROR) -> None:
    """Start every guest that is off, all at once, and wait for them; what runs is left alone."""
    started = time.monotonic()
    base = image.ensure(say, mirror)
    _prepare(lab, hosts, base)
    repository.serve(lab)
    off = start_all(lab, hosts, say)
    say(f"{len(hosts)} hosts are up, {off} of them started, after {time.monotonic() - started:.1f} s")


def wait_all(lab: Layout, hosts: list[Guest], say: Say) -> None:
    """Wait until guests have booted, and say what failed in them."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        for guest, failed in zip(hosts, pool.map(lambda g: guests.wait_for(lab, g), hosts), strict=True):
            if failed:
                say(f"{guest.host} is degraded: {', '.join(failed)} failed")


def save(lab: Layout, hosts: list[Guest], name: str, say: Say) -> None:
    """Shut every guest down, put its disk aside under a name, boot it again."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda guest: guests.power_off(lab, guest), hosts))
        list(pool.map(lambda guest: disks.save(lab, guest, name), hosts))
    start_all(lab, hosts, say)


def restore(lab: Layout, hosts: list[Guest], name: str, say: Say) -> None:
    """Take the power from every guest and boot it with the disk that it had at `save`."""
    for guest in hosts:
        disks.require(lab, guest, name)
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda guest: guests.cut_power(lab, guest.short), hosts))
        list(pool.map(lambda guest: disks.restore(lab, guest, name), hosts))
    start_all(lab, hosts, say)


def start_all(lab: Layout, hosts: list[Guest], say: Say) -> int:
    """Boot the guests that are off, all at once, and wait for all of them; return how many were off."""
    off = [guest for guest in hosts if guests.supervisor(lab, guest) is None]
    for guest in off:
        guests.start(lab, guest)
    wait_all(lab, hosts, say)
    return len(off)


def down(lab: Layout) -> list[str]:
    """Stop and remove everything of this lab; return what could not be removed.

    Works from names as well as from records, so it also cleans what a killed lab left behind.
    """
    shorts = sorted({entry.name for entry in (lab.run / "guests").glob("*")})
    with ThreadPoolExecutor(max(1, len(shorts))) as pool:
        list(pool.map(lambda short: guests.cut_power(lab, short), shorts))
    cgroups.remove(lab)
    _end_strays(lab)
    for mounted in reversed(mounts(lab)):
        run("umount", "--lazy", mounted, check=False)
    for namespace in network.names(lab):
        network.remove(namespace)
    for directory in (lab.run, lab.var, lab.etc):
        _remove(lab, directory)
    return leftovers(lab)


def leftovers(lab: Layout) -> list[str]:
    """Return everything on this machine that belongs to the lab."""
    found = [f"mount {mounted}" for mounted in mounts(lab)]
    found += [f"namespace {name}" for name in network.names(lab)]
    found += [f"process {pid}" for pid in sorted(cgroups.pids(lab))]
    groups = (root / lab.name for root in cgroups.hierarchies())
    return found + [str(path) for path in (lab.run, lab.var, lab.etc, *groups) if path.exists()]


def mounts(lab: Layout) -> list[Path]:
    """Return what is mounted below the lab's directory, outer before inner."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return sorted(p for p in (Path(line.split()[4]) for line in lines) if p.is_relative_to(lab.run))


def image_in_use(tree: Path) -> bool:
    """Tell whether any lab has guests on a cached image."""
    words = Path("/proc/self/mountinfo").read_text(encoding="utf-8").replace(",", " ").replace(":", " ").split()
    return str(tree) in words or f"lowerdir={tree}" in words


def _prepare(lab: Layout, hosts: list[Guest], base: Path) -> None:
    keys.make(lab, hosts)
    control.make_secrets(lab)
    network.make_control(lab)
    for guest in hosts:
        network.make_guest(lab, guest)
        disks.mount(lab, guest, base, hosts)


def _end_strays(lab: Layout) -> None:
    """End what runs in the lab's own namespaces: a playbook, load, an ssh left open, nspawn's remains."""
    strays = [r for name in network.names(lab) for pid in network.pids(name) if (r := Record.of(pid))]
    server = Record.read(lab.run / "repository.json")
    for record in [*strays, *([server] if server else [])]:
        if record.pid != os.getpid():
            record.end(signal.SIGKILL)
    wait_until(lambda: not any(r.alive for r in strays), 5)


def _remove(lab: Layout, directory: Path) -> None:
    # Never walk into a mount: below it may be the shared image, or a guest's /proc.
    if directory == lab.run and mounts(lab):
        raise LabError(f"cannot unmount {mounts(lab)[0]}; see `fuser -vm` on it")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
