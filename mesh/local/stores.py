"""The five shards of a local mesh: real mongods, or memory stores served on unix sockets."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from mesh.errors import ConfigError, StoreOverloaded, StoreUnavailable
from mesh.local.layout import REGIONS, Layout, Options
from mesh.local.processes import Child, Program
from mesh.model import Count
from mesh.store.base import Store
from mesh.store.mongo import MongoStore
from mesh.store.mongod import Mongod, find_mongod
from mesh.store.open import open_store

#: Seconds that a store which has just been started may take to answer; five mongods start at once, on a machine that
#: may have other work.
PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.25
_T = TypeVar("_T")


class ShardChild(Child, Protocol):
    """A child that serves a shard."""

    @property
    def uri(self) -> str:
        """Return the shard's URI, known as soon as it was started."""

    def prepare(self) -> None:
        """Wait until it takes writes, and create its indexes."""


class MongodChild:
    """A mongod with the places of one region."""

    def __init__(self, region: str, directory: Path, path: Path | None, *, tidy: bool) -> None:
        self.name = f"mongod-{region}"
        self._region, self._directory, self._path, self._tidy = region, directory, path, tidy
        self._running: Mongod | None = None

    @property
    def uri(self) -> str:
        """The shard's URI."""
        return self._mongod.uri

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        return self._mongod.pid

    def start(self) -> None:
        """Start it, the second time on the same port."""
        port = self._running.port if self._running else None
        self._running = Mongod(self._directory, port=port, path=self._path)

    def prepare(self) -> None:
        """Wait until it takes writes, and create its indexes."""
        self._mongod.wait()
        store = open_store(self.uri, self._region)
        if isinstance(store, MongoStore):
            patiently(store.ensure_indexes)
        store.close()

    def exit_code(self) -> int | None:
        """Return how it ended, None while it runs; the process is left for `Mongod` to collect."""
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return 0
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def terminate(self) -> None:
        """Ask it to end; when nobody needs its data, nobody waits for it to be tidy."""
        if self.exit_code() is None:
            os.kill(self.pid, signal.SIGTERM if self._tidy else signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended; writing out the data may take longer than other programs get."""
        self._mongod.stop(max(seconds, 10.0) if self._tidy else seconds)

    def last_words(self) -> str:
        """Return nothing: `Mongod.wait` quotes its log."""
        return ""

    @property
    def _mongod(self) -> Mongod:
        if self._running is None:
            raise StoreUnavailable(f"{self.name} was not started")
        return self._running


class MemoryChild(Program):
    """A `mesh-store serve` with the places of one region; they go with the process."""

    def __init__(self, region: str, layout: Layout) -> None:
        path = layout.socket(f"{region}.store")
        name = f"store-{region}"
        super().__init__(name, "store", ["serve", "--listen", str(path), "--region", region], layout.log(name))
        self.uri = f"memory://{path}"

    def prepare(self) -> None:
        """Need nothing: what asks for it waits until it listens."""


def kind(options: Options, tell_fallback: "Teller") -> str | None:
    """Return which stores to run: `mongo`, `memory`, or None for a service that needs none."""
    if options.store is None and options.service != "places":
        return None
    if options.store == "memory":
        if options.data:
            raise ConfigError("memory keeps nothing", field="--data", hint="use --store mongo, or leave --data out")
        return "memory"
    try:
        find_mongod(options.mongod)
    except ConfigError as error:
        if options.store or options.mongod or options.data:
            raise
        tell_fallback(f"places are kept in memory, because no MongoDB can run: {error}")
        return "memory"
    return "mongo"


class Teller(Protocol):
    """Takes a line for the user."""

    def __call__(self, line: str, /) -> None:
        """Show it."""


def children(which: str | None, layout: Layout, options: Options, data: Path) -> dict[str, ShardChild]:
    """Return the shards by region, none of them started."""
    if which == "mongo":
        tidy = options.data is not None
        return {region: MongodChild(region, data / region, options.mongod, tidy=tidy) for region in REGIONS}
    return {region: MemoryChild(region, layout) for region in REGIONS} if which == "memory" else {}


@contextmanager
def opened(region: str, uri: str) -> Iterator[Store]:
    """Open a shard directly, past the brokers."""
    store = open_store(uri, region)
    try:
        yield store
    finally:
        store.close()


def count(uris: dict[str, str]) -> dict[str, int]:
    """Return how many places each shard holds."""
    counts = {}
    for region, uri in uris.items():
        with opened(region, uri) as store:
            counts[region] = patiently(partial(store.count, Count()))
    return counts


def patiently(ask: Callable[[], _T], seconds: float = PATIENCE_SECONDS) -> _T:
    """Ask a store until it answers; raises its last error when it has not for so many seconds."""
    until = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (StoreUnavailable, StoreOverloaded):
            if time.monotonic() >= until:
                raise
        time.sleep(_PAUSE_SECONDS)
