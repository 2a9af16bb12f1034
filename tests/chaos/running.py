"""A mesh of real processes on the hosts of a chaos run: brokers, workers, mongods, watched and started again.

Not `mesh.local.running`: that is one host. Its parts are used, the supervisor and the shipped template.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from mesh import Client
from mesh.errors import MeshError
from mesh.local.layout import render
from mesh.local.processes import Program, Supervisor
from mesh.local.running import missing
from mesh.store import replica_set
from mesh.store.mongo import MongoStore
from mesh.store.mongod import find_mongod
from tests.chaos.hosts import Host, Hosts
from tests.chaos.schedule import REGIONS

READY_SECONDS = 60.0


class Placed(Program):
    """A program on a host."""

    def __init__(self, name: str, host: Host, module: str, arguments: Sequence[str], log: Path, clock: Path | None):
        super().__init__(name, module, arguments, log)
        stepped = ["env", f"LD_PRELOAD={clock}", f"MESH_CLOCK={host.clock}"] if clock else []
        self._command = [*host.prefix, *stepped, *self._command]


class PlacedMongod(Program):
    """A mongod on a host, a replica set of one member."""

    def __init__(self, host: Host, log: Path) -> None:
        super().__init__(f"mongod-{host.region}", "", (), log)
        self._host = host
        self._command = [
            *host.prefix, str(find_mongod()), "--replSet", host.region, "--bind_ip", host.address,
            "--port", str(host.mongod_port), "--dbpath", str(host.data), "--quiet", "--nounixsocket",
            "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64",
            # A checkpoint every two seconds instead of sixty: its journal has room in advance, so a full disk would
            # mean nothing to it for longer than a fault lasts.
            "--syncdelay", "2",
            "--setParameter", "diagnosticDataCollectionEnabled=false",
        ]  # fmt: skip

    @property
    def uri(self) -> str:
        """The shard's URI."""
        return f"mongodb://{self._host.address}:{self._host.mongod_port}/?replicaSet={self._host.region}"

    def terminate(self) -> None:
        """End it at once: nobody needs its data."""
        if self._process and self._process.poll() is None:
            self._process.kill()

    def prepare(self) -> None:
        """Wait until it takes writes, and create its indexes."""
        own = f"{self._host.address}:{self._host.mongod_port}"
        deadline = time.monotonic() + READY_SECONDS
        with MongoClient[Any](f"mongodb://{own}/?directConnection=true", serverSelectionTimeoutMS=500) as client:
            while not self._answers(client):
                if time.monotonic() > deadline or self.exit_code() is not None:
                    raise MeshError(f"{self.name} does not come up: {self.last_words()}")
                time.sleep(0.05)
            replica_set.ensure(client, self._host.region, [own], own, change=True, seconds=READY_SECONDS)
        store = MongoStore(self.uri, self._host.region)
        store.ensure_indexes()
        store.close()

    @staticmethod
    def _answers(client: "MongoClient[Any]") -> bool:
        with contextlib.suppress(PyMongoError):
            return bool(client.admin.command("ping"))
        return False


class Keeper(Supervisor):
    """A supervisor that can also leave the dead alone for a while."""

    def crash(self, name: str) -> None:
        """Kill a child, and leave it dead until `resume`."""
        record = self._records[name]
        with self._lock:
            record.wanted, record.due = False, None
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.child.pid, signal.SIGKILL)
        record.child.wait(5.0)

    def resume(self, name: str) -> None:
        """Let the watcher start it: a child dies with the thread that forked it, and ours may end with its fault."""
        record = self._records[name]
        with self._lock:
            record.wanted, record.due = True, time.monotonic()

    def names(self) -> list[str]:
        """Return the names of all children."""
        return list(self._records)


class ChaosMesh:
    """Five regions on their hosts; a context manager."""

    def __init__(self, hosts: Hosts, workers: int, tell: Callable[[str], None]) -> None:
        self.hosts, self.workers = hosts, workers
        self.keeper = Keeper(tell)
        self.mongods = {name: PlacedMongod(host, self._log(f"mongod-{name}")) for name, host in hosts.hosts.items()}
        self.brokers = {name: f"tcp://{host.address}:{host.broker_port}" for name, host in hosts.hosts.items()}
        self.cache = hosts.directory / "cache"
        self._admin: dict[str, Client] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        self.keeper.close(last=[mongod.name for mongod in self.mongods.values()])
        for client in self._admin.values():
            client.close()

    def pid(self, name: str) -> int:
        """Return the process id of a program such as `broker-ne`, `worker-ne-1`, `mongod-ne`."""
        return self.keeper.pid(name)

    def status(self, region: str, timeout: float = 1.0) -> dict[str, Any] | None:
        """Return what a broker says of itself, None if it says nothing."""
        with contextlib.suppress(MeshError):
            return self._admin[region].status(timeout=timeout)
        return None

    def lacks(self, timeout: float = 1.0) -> str:
        """Return what the mesh still lacks, or nothing."""
        found = (missing(region, self.status(region, timeout), self.workers) for region in REGIONS)
        return next(filter(None, found), "")

    def wait_ready(self, seconds: float) -> None:
        """Return when every broker has its peers and workers."""
        deadline = time.monotonic() + seconds
        while missing := self.lacks():
            if time.monotonic() > deadline:
                raise MeshError(f"the mesh is not ready: {missing}")
            time.sleep(0.05)

    def _start(self) -> None:
        for mongod in self.mongods.values():
            self.keeper.start(mongod)
        for region in REGIONS:
            self._programs(region)
        with ThreadPoolExecutor(len(REGIONS)) as pool:
            list(pool.map(PlacedMongod.prepare, self.mongods.values()))
        self.wait_ready(READY_SECONDS)
        self.keeper.settle()

    def _programs(self, region: str) -> None:
        host = self.hosts.hosts[region]
        config = self.hosts.directory / f"{region}.toml"
        config.write_text(render(self._variables(host)), encoding="utf-8")
        self._admin[region] = Client(self.brokers[region], cache_dir=self.cache, timeout=10.0)
        self._place("broker", f"broker-{region}", host, "--config", str(config))
        for number in range(1, self.workers + 1):
            instance = ("--config", str(config), "--instance", str(number))
            self._place("worker", f"worker-{region}-{number}", host, *instance)

    def _place(self, module: str, name: str, host: Host, *arguments: str) -> None:
        self.keeper.start(Placed(name, host, module, arguments, self._log(name), self.hosts.clock_library))

    def _variables(self, host: Host) -> dict[str, Any]:
        return {
            "mesh_managed_by": "Written by tests/chaos",
            "mesh_region": host.region,
            "mesh_broker_listen": self.brokers[host.region],
            "mesh_broker_workers": f"ipc://{self.hosts.directory}/{host.region}.ipc",
            "mesh_peers": {name: {"endpoint": at} for name, at in self.brokers.items() if name != host.region},
            "mesh_shards": {name: {"uri": mongod.uri} for name, mongod in self.mongods.items()},
        }

    def _log(self, name: str) -> Path:
        return self.hosts.directory / f"{name}.log"
