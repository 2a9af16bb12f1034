"""Processes under measurement: start, CPU time, stop."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.client.sync import Client
from mesh.local.layout import render
from mesh.store.mongod import free_port

_TICKS = os.sysconf("SC_CLK_TCK")
_SCRIPTS = Path(sys.executable).parent


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used, user and system, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Measured:
    """One child process and the CPU it used since `mark`."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._since = 0.0

    def mark(self) -> None:
        """Begin to count."""
        self._since = cpu_seconds(self.process.pid)

    def used(self) -> float:
        """Return the CPU seconds since `mark`."""
        return cpu_seconds(self.process.pid) - self._since

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def one_region(
    service: str, workers: int, *, window: int = 8, shard: str = ""
) -> Iterator[tuple[str, Measured, list[Measured]]]:
    """Run the broker and the workers of NE, and no other region; yield the endpoint and the processes."""
    with tempfile.TemporaryDirectory(prefix="mesh-b-", dir="/tmp") as folder:
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        config = Path(folder) / "mesh.toml"
        config.write_text(_config(folder, endpoint, service, window, shard))
        broker = Measured(str(_SCRIPTS / "mesh-broker"), "--config", str(config))
        children = [
            Measured(str(_SCRIPTS / "mesh-worker"), "--config", str(config), "--instance", str(number + 1))
            for number in range(workers)
        ]
        try:
            _wait_for(endpoint, workers)
            yield endpoint, broker, children
        finally:
            for process in (*children, broker):
                process.stop()


def _config(folder: str, endpoint: str, service: str, window: int, shard: str) -> str:
    return render(
        {
            "mesh_region": "ne",
            "mesh_broker_listen": endpoint,
            "mesh_broker_workers": f"ipc://{folder}/w",
            "mesh_broker_options": {"window": window},
            "mesh_worker_service": service,
            "mesh_peers": {},
            "mesh_shards": {"ne": {"uri": shard}} if shard else {},
        }
    )


def _wait_for(endpoint: str, workers: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    with Client(endpoint, timeout=seconds) as client:
        while len(client.status()["workers"]) < workers:
            if time.monotonic() > deadline:
                raise TimeoutError("the workers did not come up")
            time.sleep(0.05)


@contextmanager
def lru_proxy_with_echo(workers: int, window: int) -> Iterator[tuple[str, Measured, list[Measured]]]:
    """Run the rival of a region that echoes."""
    with tempfile.TemporaryDirectory(prefix="mesh-b-", dir="/tmp") as folder:
        front, back = f"tcp://127.0.0.1:{free_port()}", f"ipc://{folder}/w"
        command = (sys.executable, "-m", "bench.lru_proxy")
        proxy = Measured(*command, "proxy", front, back)
        echoes = [Measured(*command, "worker", back, str(window)) for _ in range(workers)]
        try:
            yield front, proxy, echoes
        finally:
            for process in (*echoes, proxy):
                process.stop()
