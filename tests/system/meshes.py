"""Real meshes for tests: `mesh.local` for the five regions, and `SmallMesh` for what no sound mesh has."""

import contextlib
import random
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from mesh.client.sync import Client
from mesh.errors import MeshError
from mesh.local.layout import HOST, render
from mesh.local.processes import Program
from mesh.local.running import LocalMesh
from mesh.local.stores import opened
from mesh.store.mongo import MongoStore

READY_SECONDS = 60.0
STOP_SECONDS = 3.0


def free_ports(count: int) -> int:
    """Return the first of so many free ports in a row, below those the kernel gives to outgoing connections."""
    while True:
        # Not the module's generator: pytest-randomly gives it the same seed in every run on this machine.
        first = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind((HOST, port))
            return first


def run(program: str, *arguments: object, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
    """Run one of the mesh's programs to its end."""
    code = f"from mesh.cli.{program.removeprefix('mesh-')} import main; main()"
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)


def wait_until(condition: Any, what: str, seconds: float = READY_SECONDS) -> None:
    """Return when *condition* holds; fail with *what* did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def empty(mesh: LocalMesh) -> None:
    """Remove all places from the shards, past the brokers."""
    for region, shard in mesh.shards.items():
        with opened(region, shard.uri) as store:
            assert isinstance(store, MongoStore)
            store._collection().delete_many({})


class SmallMesh:
    """Brokers and workers of some regions, wired as a test says; nobody starts again what dies."""

    def __init__(
        self,
        directory: Path,
        *regions: str,
        workers: int = 1,
        service: str = "echo",
        shards: Mapping[str, str] | None = None,
        peers: Mapping[str, str] | None = None,
        maps: Mapping[str, Path] | None = None,
    ) -> None:
        self.directory, self.regions, self.workers, self.service = directory, regions, workers, service
        self.shards, self.maps = dict(shards or {}), dict(maps or {})
        first = free_ports(len(regions))
        self.endpoints = {name: f"tcp://{HOST}:{first + number}" for number, name in enumerate(regions)}
        #: Where peers are looked for.
        self.peers = self.endpoints | dict(peers or {})
        self.programs: dict[str, Program] = {}
        self._clients: list[Client] = []

    def __enter__(self) -> Self:
        try:
            for name in self.regions:
                self._start(name)
            for name in self.regions:
                wait_until(lambda name=name: self._ready(name), f"{name} is not ready\n{self.logs()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        for program in self.programs.values():
            program.terminate()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda program: program.wait(STOP_SECONDS), self.programs.values()))

    def local(self, region: str) -> str:
        """Return where a region's workers connect."""
        return f"ipc://{self.directory}/{region}.ipc"

    def client(self, region: str, timeout: float = 10.0) -> Client:
        """Return a client of one region's broker, closed at the end."""
        self._clients.append(Client(self.endpoints[region], timeout=timeout, cache_dir=self.directory / "cache"))
        return self._clients[-1]

    def pids(self) -> dict[str, int]:
        """Return the process ids of those that run."""
        return {name: program.pid for name, program in self.programs.items() if program.exit_code() is None}

    def log(self, name: str) -> str:
        """Return what a program has logged."""
        return (self.directory / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def logs(self) -> str:
        """Return the end of every log, for a failed test's report."""
        return "\n".join(
            f"--- {name}: {each.exit_code()}\n{self.log(name)[-2000:]}" for name, each in self.programs.items()
        )

    def status(self, region: str) -> dict[str, Any]:
        """Return what a broker says of itself, nothing while it does not answer."""
        with contextlib.suppress(MeshError), Client(self.endpoints[region], timeout=1.0) as client:
            return client.status()
        return {}

    def _ready(self, name: str) -> bool:
        assert len(self.pids()) == len(self.programs), self.logs()
        return len(self.status(name).get("workers", ())) == self.workers

    def _start(self, name: str) -> None:
        config = self.directory / f"{name}.toml"
        variables = {
            "mesh_region": name,
            "mesh_region_map": str(self.maps.get(name, "")),
            "mesh_broker_listen": self.endpoints[name],
            "mesh_broker_workers": self.local(name),
            "mesh_worker_service": self.service,
            "mesh_worker_slots": 2,
            "mesh_peers": {other: {"endpoint": at} for other, at in self.peers.items() if other != name},
            "mesh_shards": {other: {"uri": uri} for other, uri in self.shards.items()},
        }
        config.write_text(render(variables), encoding="utf-8")
        self._run(f"broker-{name}", "broker", "--config", str(config))
        for number in range(1, self.workers + 1):
            self._run(f"worker-{name}-{number}", "worker", "--config", str(config), "--instance", str(number))

    def _run(self, name: str, module: str, *arguments: str) -> None:
        self.programs[name] = Program(name, module, arguments, self.directory / f"{name}.log")
        self.programs[name].start()
