"""The directories of a local mesh: one that goes with it whatever happens, and one that may stay.

Theory of operation. Processes die with mesh-local because the kernel sees to it (see `processes`), but files do not. So
a shell waits at the end of a pipe that only mesh-local holds open. However mesh-local ends, the pipe closes, and the
shell removes the run-time directory: sockets, configurations, logs, and places nobody asked to keep.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.errors import ConfigError

#: Longest directory that leaves room for a socket's name in the 107 bytes of its path.
_LONGEST = 60
#: A dying mongod may write a file while the directory is being removed, so the shell tries again for a while.
_JANITOR = """
cat >/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" 2>/dev/null; [ -e "$1" ] || exit 0; sleep 0.2; done
"""


@contextmanager
def temporary() -> Iterator[Path]:
    """Make the run-time directory, which goes when the block ends or this process does, even by SIGKILL."""
    place = tempfile.gettempdir()
    made = Path(tempfile.mkdtemp(prefix="mesh-", dir=place if len(place.encode()) < _LONGEST else "/tmp"))  # noqa: S108
    command = ["/bin/sh", "-c", _JANITOR, "mesh-local-janitor", str(made)]
    janitor = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        start_new_session=True,
    )  # fmt: skip
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        janitor.communicate()


@contextmanager
def kept(data: Path) -> Iterator[Path]:
    """Make or take a data directory for as long as the block lasts; `ConfigError` if another mesh-local has it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use {data}: {error.strerror}", field="--data") from None
    try:
        _take(lock, data)
        yield data.resolve()
    finally:
        os.close(lock)


def _take(lock: int, data: Path) -> None:
    # The kernel lets go of it with the process, so a crash leaves no stale lock.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
        message = f"{data} is in use by another mesh-local (pid {owner or 'unknown'})"
        raise ConfigError(message, field="--data", hint="stop it, or choose another directory") from None
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
