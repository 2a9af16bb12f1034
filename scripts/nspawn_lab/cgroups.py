"""A control group for each guest in every hierarchy, since two systemds in one group would fight over it."""

import contextlib
import os
import signal
from pathlib import Path

from nspawn_lab.layout import Layout
from nspawn_lab.processes import wait_until

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = "+cpu +memory +pids"


def unified() -> bool:
    """Tell whether this host has cgroup v2 only."""
    return (CGROUPS / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Return the roots: one with cgroup v2, one for each controller with v1, both kinds on a hybrid host."""
    if unified():
        return [CGROUPS]
    # cpu -> cpu,cpuacct are links on some hosts.
    return sorted(d for d in CGROUPS.iterdir() if not d.is_symlink() and (d / "cgroup.procs").exists())


def make(lab: Layout, short: str, memory_bytes: int) -> list[Path]:
    """Make the groups of a guest; return the files that a process writes 0 to in order to join them."""
    groups = []
    for root in hierarchies():
        for group in (root / lab.name, root / lab.name / short):
            group.mkdir(exist_ok=True)
            _fill_cpuset(group)
        if unified():
            (root / lab.name / "cgroup.subtree_control").write_text(CONTROLLERS, encoding="ascii")
        groups.append(root / lab.name / short)
    _limit_memory(groups, memory_bytes)
    return [group / "cgroup.procs" for group in groups]


def pids(lab: Layout, short: str = "") -> set[int]:
    """Return the processes in the groups of a guest, or of all guests."""
    found: set[int] = set()
    for root in hierarchies():
        for file in (root / lab.name / short).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in file.read_text(encoding="ascii").split()}
    return found - {0}  # how a process of another pid namespace is shown; to a kill(), 0 means ourselves


def remove(lab: Layout, short: str = "") -> bool:
    """Kill what is left in the groups and remove them; return whether they are gone."""

    def gone() -> bool:
        for pid in pids(lab, short):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for root in hierarchies():
            _remove_tree(root / lab.name / short)
        return not any((root / lab.name / short).exists() for root in hierarchies())

    return wait_until(gone, 10)


def _remove_tree(group: Path) -> None:
    with contextlib.suppress(OSError):
        for child in sorted((d for d in group.rglob("*") if d.is_dir()), reverse=True):
            child.rmdir()
        group.rmdir()


def _fill_cpuset(group: Path) -> None:
    # A new v1 cpuset is empty and takes no process until it is told what it may use.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists() and not unified() and not (group / name).read_text(encoding="ascii").strip():
            (group / name).write_text((group.parent / name).read_text(encoding="ascii"), encoding="ascii")


def _limit_memory(groups: list[Path], memory_bytes: int) -> None:
    for group in groups:
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (group / name).exists():
                (group / name).write_text(str(memory_bytes), encoding="ascii")
