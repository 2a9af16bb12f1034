"""Children that are watched, started again when they die, and never outlive us.

Theory of operation. Three things keep a child from surviving: we stop it; the kernel kills it when the thread that
forked it ends (PR_SET_PDEATHSIG), so even a SIGKILL of this process leaves nobody; and it starts in a session of its
own, so a Ctrl-C at the terminal reaches only us, who then stop all in order. Children are forked by the main thread or
by the watcher, and the watcher ends last.
"""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from mesh.errors import MeshError
from mesh.local import interrupts
from mesh.service.lifecycle import EXIT_CONFIG

#: How often the watcher looks at the children.
WATCH_SECONDS = 0.05
#: The wait before a child is started again: doubled at each death, and forgotten once a child has lived long enough.
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, LIVED_SECONDS = 0.1, 5.0, 10.0
#: How long a child may take to end before it is killed.
STOP_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1
#: numpy's threads for matrices, a pool in each of many processes, would only be started and never used.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
_prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: 0


class Child(Protocol):
    """A process that can be started again and again."""

    name: str

    @property
    def pid(self) -> int:
        """Return the process id of the latest start."""

    def start(self) -> None:
        """Start it."""

    def exit_code(self) -> int | None:
        """Return how it ended, a signal as a negative number; None while it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def wait(self, seconds: float) -> None:
        """Wait until it has ended; kill it when the time is up."""

    def last_words(self) -> str:
        """Return the end of its log."""


class Program:
    """One of our own programs as a child."""

    def __init__(self, name: str, module: str, arguments: Iterable[str], log: Path) -> None:
        self.name, self._log = name, log
        # -P: a directory named `mesh` where the user stands is not ours.
        code = f"from mesh.cli.{module} import main; main()"
        self._command = [sys.executable, "-P", "-c", code, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it, with its log lines appended to the log."""
        with self._log.open("ab") as log:
            # preexec_fn is unsafe where other threads hold locks; this one calls a C function found beforehand.
            self._process = subprocess.Popen(  # noqa: S603
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | _ENVIRONMENT, preexec_fn=functools.partial(_die_with, os.getpid()),  # noqa: PLW1509
            )  # fmt: skip

    def exit_code(self) -> int | None:
        """Return how it ended, None while it runs."""
        return self._process.poll() if self._process else None

    def terminate(self) -> None:
        """Ask it to end; one that was stopped with SIGSTOP goes on first, or it would never hear of it."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            if self._process and self._process.poll() is None:
                self._process.send_signal(number)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended; kill it when the time is up."""
        if not self._process:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """Return the last lines of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
        return ""


class _Record:
    """What is known of one child."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.wanted = True
        self.started = time.monotonic()
        self.deaths = 0
        #: When to start it again; None while it runs or is not wanted.
        self.due: float | None = None


class Supervisor:
    """Keeps children running; *tell* is called with a line whenever one dies or comes back."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._records: dict[str, _Record] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        #: Before, a child that dies is a failure to start, and is not started again.
        self.settled = False

    def start(self, child: Child) -> None:
        """Start a child and keep it running from now on."""
        with interrupts.held():
            child.start()
            with self._lock:
                self._records[child.name] = _Record(child)

    def settle(self) -> None:
        """Note that all children are up: from now on one that dies is started again."""
        self.settled = True
        self._watcher.start()

    def pid(self, name: str) -> int:
        """Return a child's process id."""
        return self._records[name].child.pid

    def stop(self, name: str) -> None:
        """End one child and leave it ended."""
        record = self._records[name]
        with self._lock:
            record.wanted, record.due = False, None
        record.child.terminate()
        record.child.wait(STOP_SECONDS)

    def resume(self, name: str) -> None:
        """Start a child again that was stopped."""
        with self._lock:
            self._begin(self._records[name])

    def check(self) -> None:
        """Raise `MeshError` with a child's last words if one died while the mesh was coming up."""
        for record in self._records.values():
            # A mongod's death is reported, with its reason, by whoever waits for it.
            code = record.child.exit_code() if isinstance(record.child, Program) else None
            if code is not None:
                words = record.child.last_words()
                raise MeshError(f"{record.child.name} ended ({_how(code)}) while starting:\n{words}".rstrip(":\n"))

    def close(self, last: Iterable[str] = ()) -> None:
        """End all children at the same time, except that those named in *last* end after the others."""
        self._closing.set()
        with self._lock:
            for record in self._records.values():
                record.wanted = False
        names = set(last)
        self._end([record.child for name, record in self._records.items() if name not in names])
        self._end([record.child for name, record in self._records.items() if name in names])
        if self.settled:
            self._watcher.join()

    @staticmethod
    def _end(children: list[Child]) -> None:
        for child in children:
            child.terminate()
        until = time.monotonic() + STOP_SECONDS
        for child in children:
            child.wait(max(0.1, until - time.monotonic()))

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_SECONDS):
            for record in list(self._records.values()):
                with self._lock:
                    self._look(record, time.monotonic())

    def _look(self, record: _Record, now: float) -> None:
        code = record.child.exit_code() if record.wanted else None
        if code is None:
            return
        if record.due is None:
            self._mourn(record, code, now)
        elif now >= record.due:
            self._begin(record)
            self._tell(f"{record.child.name} is back (pid {record.child.pid})")

    def _mourn(self, record: _Record, code: int, now: float) -> None:
        name = record.child.name
        if code == EXIT_CONFIG:  # as RestartPreventExitStatus=78 does in production
            record.wanted = False
            self._tell(f"{name} refuses its configuration and stays down: {record.child.last_words()}")
            return
        record.deaths = 1 if now - record.started > LIVED_SECONDS else record.deaths + 1
        wait = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (record.deaths - 1))
        record.due = now + wait
        self._tell(f"{name} died ({_how(code)}); it starts again in {wait:g} s")

    @staticmethod
    def _begin(record: _Record) -> None:
        with interrupts.held():
            record.child.start()
        record.wanted, record.due, record.started = True, None, time.monotonic()


def _how(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"signal {-code}"


def _die_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the line above
        os._exit(1)
