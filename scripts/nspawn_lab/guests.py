"""One guest: its file system, its start, its first process, its end."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from nspawn_lab import cgroups, network
from nspawn_lab.layout import Guest, LabError, Layout
from nspawn_lab.processes import Record, children, descendants, enter, network_of, start_daemon, wait_until

MEMORY_BYTES = 3 << 30  # a seat belt: a deployed guest takes 0.2 GB and what the page cache likes
BOOT_SECONDS = 180
POWEROFF_SECONDS = 60
#: nspawn leaves with 133 when a guest with --keep-unit reboots. The inner shell joins the guest's groups, the outer
#: one stays outside: cgroup v2 allows no process in a group that has children.
SUPERVISOR = """
joins=$1; shift
while :; do
  (for join in $joins; do echo 0 >"$join" || exit; done; exec "$@")
  [ $? -eq 133 ] || exit 0
done
"""


def start(lab: Layout, guest: Guest) -> None:
    """Start a guest in its own network; it boots while the caller does something else."""
    network.identity(lab.namespace(guest))
    cgroups.remove(lab, guest.short)  # an nspawn whose supervisor was killed still runs, and holds the file system
    joins = " ".join(str(file) for file in cgroups.make(lab, guest.short, MEMORY_BYTES))
    words = ["sh", "-c", SUPERVISOR, "lab-guest", joins, *_nspawn(lab, guest)]
    start_daemon(words, lab.state(guest) / "console.log").write(lab.state(guest) / "supervisor.json")


def supervisor(lab: Layout, guest: Guest) -> Record | None:
    """Return the record of a guest's supervisor while it runs, which is as long as the guest is on."""
    record = Record.read(lab.state(guest) / "supervisor.json")
    return record if record and record.alive else None


def leader(lab: Layout, guest: Guest) -> int | None:
    """Return the pid, on this machine, of a guest's first process; None while it is off or not yet booting."""
    record = supervisor(lab, guest)
    for nspawn in children(record.pid) if record else []:
        for child in children(nspawn):
            if _is_first(child):
                return child
    return None


def run_in(lab: Layout, guest: Guest, command: Sequence[str], timeout_seconds: float = 60) -> tuple[int, str, str]:
    """Run a command inside a guest, without its network; return exit code, output and errors."""
    first = leader(lab, guest)
    if first is None:
        raise LabError(f"{guest.host} is off; start it with `scripts/lab start {guest.short}`")
    done = subprocess.run(
        enter(first, command), capture_output=True, text=True, check=False, timeout=timeout_seconds, errors="replace"
    )
    return done.returncode, done.stdout, done.stderr


def wait_for(lab: Layout, guest: Guest, timeout_seconds: float = BOOT_SECONDS) -> list[str]:
    """Wait until a guest has booted; return the units that failed. LabError when it does not boot."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if supervisor(lab, guest) is None:
            raise LabError(f"{guest.host} went off while booting: {_last_words(lab, guest)}")
        _check_network(lab, guest)
        state = _system_state(lab, guest)
        if state in {"running", "degraded"}:
            return failed_units(lab, guest)
        time.sleep(0.1)
    jobs = _jobs(lab, guest)
    raise LabError(f"{guest.host} has not booted after {timeout_seconds:.0f} s{jobs}: {_last_words(lab, guest)}")


def failed_units(lab: Layout, guest: Guest) -> list[str]:
    """Return the units of a guest that failed."""
    _, output, _ = run_in(lab, guest, ["systemctl", "--failed", "--plain", "--no-legend"])
    return [line.split()[0] for line in output.splitlines() if line.strip()]


def state(lab: Layout, guest: Guest) -> str:
    """Return what systemd says of the whole guest, or `off`."""
    return _system_state(lab, guest) if supervisor(lab, guest) else "off"


def power_off(lab: Layout, guest: Guest) -> None:
    """Shut a guest down the way a power button does; its file system stays."""
    record = supervisor(lab, guest)
    if record is None:
        return
    for nspawn in children(record.pid):
        Record(nspawn, (Record.of(nspawn) or record).start).end(signal.SIGTERM)  # nspawn passes on RTMIN+4
    if not wait_until(lambda: not record.alive, POWEROFF_SECONDS):
        raise LabError(f"{guest.host} has not shut down after {POWEROFF_SECONDS} s: {_last_words(lab, guest)}")


def cut_power(lab: Layout, short: str) -> None:
    """Take a guest's power away at once, whatever it is doing."""
    record = Record.read(lab.run / "guests" / short / "supervisor.json")
    if record and record.alive:
        below = [Record.of(pid) for pid in descendants(record.pid)]
        record.end()  # first, or it would boot the guest again
        for child in below:
            if child:
                child.end()
        wait_until(lambda: not any(child and child.alive for child in below), 10)
    cgroups.remove(lab, short)
    _remove_traces(lab, short)


def _nspawn(lab: Layout, guest: Guest) -> list[str]:
    return [
        "systemd-nspawn",
        "--quiet",
        "--register=no",  # there may be no systemd here, so no systemd-machined either
        "--keep-unit",
        f"--network-namespace-path={network.NAMESPACES / lab.namespace(guest)}",
        "--capability=CAP_NET_ADMIN",  # the guest's own nftables; given by default only with --private-network
        # mongod with TLS or accounts keeps secrets out of swap, and aborts where it may not lock memory.
        "--system-call-filter=@memlock",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=read-only",
        "--kill-signal=SIGRTMIN+4",  # power off
        f"--directory={lab.root(guest)}",
        f"--machine={lab.name}-{guest.short}",  # names files of nspawn's on this machine, so not `ne` alone
        f"--hostname={guest.short}",
        "/usr/local/sbin/lab-init",  # instead of --boot: see image.INIT
    ]


def _remove_traces(lab: Layout, short: str) -> None:
    """Remove what an nspawn that was killed leaves in its own directories."""
    nspawn, root = Path("/run/systemd/nspawn"), lab.run / "guests" / short / "root"
    shutil.rmtree(nspawn / "propagate" / f"{lab.name}-{short}", ignore_errors=True)
    if root.exists():
        status = root.stat()
        (nspawn / "locks" / f"inode-{status.st_dev}:{status.st_ino}").unlink(missing_ok=True)


def _is_first(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("NSpid:"):
                return line.split()[2:] == ["1"]
    return False


def _check_network(lab: Layout, guest: Guest) -> None:
    first = leader(lab, guest)
    with contextlib.suppress(OSError):
        # Before it runs our program, the process is nspawn's and on its way into the namespace.
        own = first and Path(f"/proc/{first}/comm").read_text(encoding="ascii").strip() in {"lab-init", "systemd"}
        if first and own and network_of(first) != network.identity(lab.namespace(guest)):
            cut_power(lab, guest.short)
            raise LabError(f"{guest.host} came up in a network that is not its own, and was stopped")


def _system_state(lab: Layout, guest: Guest) -> str:
    try:
        return run_in(lab, guest, ["systemctl", "is-system-running"])[1].strip() or "booting"
    except (LabError, subprocess.TimeoutExpired):
        return "booting"


def _jobs(lab: Layout, guest: Guest) -> str:
    with contextlib.suppress(LabError, subprocess.TimeoutExpired):
        _, output, _ = run_in(lab, guest, ["systemctl", "list-jobs", "--no-legend", "--plain"], timeout_seconds=10)
        running = [line.split()[1] for line in output.splitlines() if line.endswith("running")]
        return f", waiting for {', '.join(running)}" if running else ""
    return ""


def _last_words(lab: Layout, guest: Guest) -> str:
    console = lab.state(guest) / "console.log"
    text = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} (all of it: {console})"
