"""A whole mesh as one object: up, ready, loaded, and gone without a trace."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mesh import Client
from mesh.errors import ConfigError, MeshError
from mesh.local import directory, stores
from mesh.local.layout import REGIONS, Layout, Options, check_ports
from mesh.local.load import load, together
from mesh.local.places import us_places
from mesh.local.processes import Program, Supervisor
from mesh.model import Draft

#: How long the mesh may take to come up.
READY_SECONDS = 90.0
#: Seconds between two questions to a broker that is not ready.
_ASK_AGAIN_SECONDS = 0.03
_STATUS_SECONDS = 1.0
#: In a data directory: what was loaded into it, completely.
_LOADED = "loaded"

Status = Mapping[str, Any]


class LocalMesh:
    """Five brokers with their workers and shards; a context manager.

    Args:
        options: what to run.
        tell: called with a line when something happens that the user should know.

    """

    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        self.options = options
        #: `mongo`, `memory`, or None where the service needs no places.
        self.store: str | None = None
        self.places: list[Draft] = []
        self.shards: dict[str, stores.ShardChild] = {}
        self.clients: dict[str, Client] = {}
        self._tell = tell
        self._exits = ExitStack()
        self._supervisor = Supervisor(tell)
        self._data = Path()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    # -- coming up -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and return when every broker has its peers and workers and every shard takes writes."""
        self._check()
        self.layout = Layout(self._exits.enter_context(directory.temporary()), self.options.base_port)
        self._data = self.layout.directory / "data"
        if self.options.data:
            self._data = self._exits.enter_context(directory.kept(self.options.data))
        self._exits.callback(self._close)
        self._start_shards()
        self._start_programs()
        together([
            partial(self.wait_ready, READY_SECONDS), self._read_places,
            *[shard.prepare for shard in self.shards.values()],
        ])  # fmt: skip
        self._supervisor.settle()

    def load(self, report: Callable[[int], None]) -> bool:
        """Load the places unless they are there; return whether that was necessary."""
        if not self.places or self._marker.exists():
            return False
        load(self.places, self.layout.brokers, self.cache, report)
        if self.options.data:
            self._marker.write_text("us\n")
        return True

    def wait_ready(self, seconds: float) -> None:
        """Return when every broker has all its peers and workers; `MeshError` says what is missing."""
        deadline = time.monotonic() + seconds
        for region in REGIONS:
            while missing := self._lacks(region):
                if not self._supervisor.settled:
                    self._supervisor.check()
                if time.monotonic() > deadline:
                    raise MeshError(f"the mesh is not ready: {missing}")
                time.sleep(_ASK_AGAIN_SECONDS)

    # -- while it is up --------------------------------------------------------------------------------------------

    @property
    def cache(self) -> Path:
        """Where clients keep the region map, so that the user's own cache stays as it is."""
        return self.layout.directory / "cache"

    @property
    def brokers(self) -> dict[str, str]:
        """Each region's endpoint."""
        return self.layout.brokers

    def status(self, region: str, timeout: float = _STATUS_SECONDS) -> Status | None:
        """Return what a broker says of itself, None if it says nothing."""
        try:
            return self.clients[region].status(timeout=timeout)
        except MeshError:
            return None

    def statuses(self, timeout: float = _STATUS_SECONDS) -> dict[str, Status | None]:
        """Return the status of every broker."""
        return {region: self.status(region, timeout) for region in REGIONS}

    def counts(self) -> dict[str, int]:
        """Return how many places each shard holds."""
        return stores.count({region: shard.uri for region, shard in self.shards.items()})

    def pids(self, region: str) -> dict[str, Any]:
        """Return the process ids of a region: `broker`, `workers`, `store`."""
        workers = [self._supervisor.pid(f"worker-{region}-{n + 1}") for n in range(self.options.workers)]
        store = self.shards[region].pid if region in self.shards else None
        return {"broker": self._supervisor.pid(f"broker-{region}"), "workers": workers, "store": store}

    def stop(self, name: str) -> None:
        """Stop one program, such as `broker-sw`, and leave it stopped."""
        self._supervisor.stop(name)

    def resume(self, name: str) -> None:
        """Start a program that was stopped."""
        self._supervisor.resume(name)

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _marker(self) -> Path:
        return self._data / _LOADED

    def _check(self) -> None:
        check_ports(Layout(Path(), self.options.base_port))
        if not 1 <= self.options.workers <= 64:
            raise ConfigError(f"{self.options.workers} is out of range", field="--workers", hint="1 to 64")
        self.store = stores.kind(self.options, self._tell)

    def _start_shards(self) -> None:
        self.shards = stores.children(self.store, self.layout, self.options, self._data)
        for shard in self.shards.values():
            self._supervisor.start(shard)

    def _start_programs(self) -> None:
        self.layout.write({region: shard.uri for region, shard in self.shards.items()}, self.options.service)
        for region in REGIONS:
            self._program(f"broker-{region}", "broker", region)
        for region in REGIONS:
            self.clients[region] = Client(self.brokers[region], cache_dir=self.cache, timeout=10.0)
            for number in range(1, self.options.workers + 1):
                self._program(f"worker-{region}-{number}", "worker", region, "--instance", str(number))

    def _program(self, name: str, module: str, region: str, *more: str) -> None:
        arguments = ["--config", str(self.layout.config(region)), *more]
        self._supervisor.start(Program(name, module, arguments, self.layout.log(name)))

    def _read_places(self) -> None:
        if self.options.load == "us" and self.options.service == "places":
            self.places = us_places()

    def _lacks(self, region: str) -> str:
        return missing(region, self.status(region), self.options.workers)

    def _close(self) -> None:
        self._supervisor.close(last=[shard.name for shard in self.shards.values()])
        for client in self.clients.values():
            client.close()


def missing(region: str, status: Mapping[str, Any] | None, workers: int) -> str:
    """Return what the broker of a region still lacks of its peers and *workers*, by its status; or nothing."""
    if status is None:
        return f"the broker of {region} does not answer"
    away = [p["region"] for p in status["peers"] if {p["serving"], p["asking"]} != {"open"}]
    if away:
        return f"the broker of {region} has no connection with {', '.join(away)}"
    ready = sum(worker["state"] == "open" for worker in status["workers"])
    return f"{region} has {ready} of {workers} workers" if ready < workers else ""
