"""The base image: a Debian 12 as bare as an installer leaves it, cached by a digest of its recipe."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nspawn_lab.layout import CACHE, LabError
from nspawn_lab.processes import run

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
#: What the roles want and a bare host gets from Debian's mirror. Guests reach none, so it is here beforehand and apt's
#: `state: present` has nothing to do.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "libcurl4",  # mongod
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",  # ansible.builtin.apt
    "python3-debian",  # ansible.builtin.deb822_repository
    "python3-venv",
    "systemd",
    "systemd-sysv",
)
#: nspawn mounts the controllers of cgroup v1 read-only for a guest, and systemd, which looks once at its start, then
#: manages none: MemoryMax=64M let a process take 200 MB (measured, systemd 252). Remounted before systemd starts, it
#: is killed. On a host with cgroup v2 only, everything is writable already and this does nothing.
INIT = """#!/bin/sh
for controller in /sys/fs/cgroup/*/cgroup.clone_children; do
  [ -e "$controller" ] && mount -o remount,bind,rw "${controller%/*}"
done
exec /lib/systemd/systemd "$@"
"""
FILES = {
    "usr/local/sbin/lab-init": INIT,
    "etc/apt/sources.list": "# No mirror can be reached from a lab guest.\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/resolv.conf": "# No name server can be reached from a lab guest; names are in /etc/hosts.\n",
}
#: Timers that would take dpkg's lock at a random moment, and a login prompt that nobody sees.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service")
#: Each guest gets its own of these.
REMOVED = ("etc/machine-id", "var/lib/dbus/machine-id", "etc/hosts", "etc/hostname", "etc/ssh/ssh_host_*_key*")


def digest() -> str:
    """Return 12 hex digits that change with anything that changes the image."""
    recipe = (SUITE, PACKAGES, sorted(FILES.items()), MASKED, REMOVED)
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]


def path() -> Path:
    """Return where the image is, or would be, cached."""
    return CACHE / digest()


def ensure(say: Callable[[str], None], mirror: str = MIRROR) -> Path:
    """Return the cached image, built first where it is missing."""
    image = path()
    if not image.exists():
        with _lock():  # two labs may start at once
            if not image.exists():
                _build(image, mirror, say)
    return image


def clean(in_use: Callable[[Path], bool]) -> list[Path]:
    """Remove cached images that no lab has mounted; return them."""
    with _lock():  # not one that is being built
        unused = [tree for tree in CACHE.iterdir() if tree.is_dir() and not in_use(tree)]
    for tree in unused:
        shutil.rmtree(tree)
    return unused


def _build(image: Path, mirror: str, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    say(f"building the base image from {mirror}, which takes a minute or two and is done once")
    building = CACHE / f"building-{os.getpid()}"
    try:
        _debootstrap(building, mirror, say)
        _configure(building)
        building.rename(image)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"base image {image} ready after {time.monotonic() - started:.0f} s")


def _debootstrap(tree: Path, mirror: str, say: Callable[[str], None]) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(tree), mirror]
    lines: list[str] = []
    stage = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            words = line.split()
            if words[:1] == ["I:"] and words[1:2] != [stage] and words[1] in _STAGES:
                stage = words[1]
                say(f"  {stage.lower()} packages ...")
    if process.returncode:
        raise LabError("debootstrap failed: " + " / ".join(lines[-4:]))


_STAGES = ("Retrieving", "Extracting", "Unpacking", "Configuring")


def _configure(tree: Path) -> None:
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).unlink(missing_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    (tree / "usr/local/sbin/lab-init").chmod(0o755)
    for pattern in REMOVED:
        for file in tree.glob(pattern):
            file.unlink()
    for file in (tree / "var/lib/apt/lists").glob("*_*"):
        file.unlink()
    for unit in MASKED:
        (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    run("chroot", tree, "apt-get", "clean")


@contextmanager
def _lock() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
