"""Running commands, and ending only the processes that the lab started."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nspawn_lab.layout import LabError

#: The host's PATH, locale and proxies are none of a guest's business.
GUEST_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def run(*command: str | Path, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command; when it fails and `check` is set, raise LabError with what it said."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise LabError(f"`{shlex.join(words)}` failed: {said[-1]}")
    return done


def enter(leader: int, command: Sequence[str]) -> list[str]:
    """Return the command that runs another one inside the guest whose first process is `leader`.

    A guest that shuts down stops, terminates and continues every process, then waits until they are gone. nsenter
    would stop itself along with its child, so never reap it, and the guest would wait for 90 s (measured). So nsenter
    does not fork (-F); a shell outside the guest's pid namespace does, and waits for its child without such niceties.
    """
    environment = [f"{name}={value}" for name, value in GUEST_ENVIRONMENT.items()]
    nsenter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "-F"]
    return [*nsenter, "env", "-i", *environment, "sh", "-c", '"$@"; exit $?', "sh", *command]


def start_daemon(command: Sequence[str], log: Path) -> "Record":
    """Start a process that outlives this one, in a session of its own, its output appended to *log*."""
    # By way of a shell that leaves at once: a child of ours would become a zombie in a caller that lives on.
    detach = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'
    log.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["sh", "-c", detach, "sh", str(log), *command], stdout=subprocess.PIPE, text=True, check=True, cwd="/"
    )
    record = Record.of(int(done.stdout))
    if record is None:
        raise LabError(f"{command[0]} ended at once; see {log}")
    return record


@dataclass(frozen=True)
class Record:
    """A process that the lab started. A pid alone is not enough: pids are used again."""

    pid: int
    start: int  # clock ticks after boot, field 22 of /proc/<pid>/stat

    @classmethod
    def of(cls, pid: int) -> "Record | None":
        """Return the record of a process that exists."""
        started = _start(pid)
        return None if started is None else cls(pid, started)

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """Return the record in a file, or None where there is none that makes sense."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(int(values["pid"]), int(values["start"]))
        return None

    def write(self, path: Path) -> None:
        """Keep this record in a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def alive(self) -> bool:
        """Tell whether the process recorded still runs, rather than another one with its number."""
        return _start(self.pid) == self.start

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, to this process and no other."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def children(pid: int) -> list[int]:
    """Return the processes that a process started, those of all its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return found


def descendants(pid: int) -> Iterator[int]:
    """Return what a process started, and what those started, and so on."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def network_of(pid: int | str) -> tuple[int, int]:
    """Return what identifies the network namespace of a process: device and inode."""
    status = Path(f"/proc/{pid}/ns/net").stat()
    return status.st_dev, status.st_ino


def wait_until(condition: Callable[[], bool], timeout_seconds: float, step_seconds: float = 0.1) -> bool:
    """Return whether a condition came true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step_seconds)
    return True


def _start(pid: int) -> int | None:
    try:
        # The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
