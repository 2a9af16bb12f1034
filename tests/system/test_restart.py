"""`systemctl restart mesh-broker` is a non-event: real processes, a stand-in for systemd's socket, steady load."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from mesh import AsyncClient, Client
from mesh.core.requests import Request
from mesh.model import Counted, Draft
from mesh.protocol import body
from mesh.protocol.header import Flag, Kind, pad_region
from mesh.store.open import open_store
from mesh.transport.connection import Connection
from tests.system.meshes import wait_until
from tests.system.steady import Steady, SteadyTasks, SteadyThreads
from tests.system.units import UnitMesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

log = logging.getLogger(__name__)
#: Seconds a client gives each request. On two busy cores the slowest answer across a restart took 0.4 to 0.8 s.
PATIENCE = 3.0
HOMES = {"ne": (-73.99, 40.73), "south": (-84.39, 33.75), "mw": (-87.63, 41.88)}


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., UnitMesh]]:
    """Start meshes, with a place in each region, that end with the test."""
    running: list[UnitMesh] = []

    def starting(*regions: str, **options: bool) -> UnitMesh:
        mesh = UnitMesh(directory, *regions, **options)
        running.append(mesh)
        mesh.__enter__()
        for region in regions:
            store = open_store(f"memory://{directory}/{region}.store", region)
            store.insert(Draft(*HOMES[region], {"asked": 0}, f"{region}:1"))
            store.close()
        return mesh

    yield starting
    for mesh in running:
        mesh.__exit__()


def both(mesh: UnitMesh, brokers: str | list[str], per_second: float, *, writes: bool = False) -> list[Steady]:
    """Return a client of threads and one of tasks, which read, or write, the places of all regions in turn."""
    turns = count()
    cache = mesh.directory / "cache"

    def ask(client: Client) -> object:
        turn = next(turns)
        place = f"{mesh.regions[turn % len(mesh.regions)]}:1"
        return client.update(place, {"asked": turn}) if writes else client.get(place)

    blocking = Client(brokers, timeout=PATIENCE, cache_dir=cache)
    ask(blocking)  # fetches the region map, which the other then has, too
    return [
        SteadyThreads(blocking, ask, per_second),
        SteadyTasks(lambda: AsyncClient(brokers, timeout=PATIENCE, cache_dir=cache), ask, per_second),  # type: ignore[arg-type]
    ]


def assert_nobody_noticed(mesh: UnitMesh, loads: list[Steady], at_least: int) -> None:
    for load in loads:
        log.info("%s: %s", type(load).__name__, load.answers)
        assert load.answers.errors == [], mesh.logs()
        assert load.answers.asked >= at_least


def under(loads: list[Steady], happen: Callable[[], None]) -> None:
    """Let something happen while clients ask, and a second before and after."""
    with loads[0], loads[1]:
        time.sleep(1.0)
        happen()
        time.sleep(1.0)
    loads[0].close()


@pytest.mark.parametrize("writes", [False, True], ids=["reads", "writes"])
def test_a_restart_under_load(start: Callable[..., UnitMesh], writes: bool) -> None:
    """Clients of the broker itself: nobody answers for a moment, and they wait for its successor."""
    mesh = start("ne")
    loads = both(mesh, mesh.endpoints["ne"], 200, writes=writes)

    def restart_twice() -> None:
        for _ in range(2):
            mesh.brokers["ne"].restart()
            time.sleep(1.0)

    under(loads, restart_twice)
    assert_nobody_noticed(mesh, loads, at_least=400)
    assert "worker lost" not in mesh.brokers["ne"].log.read_text()


@pytest.mark.parametrize("activated", [True, False], ids=["socket", "no-socket"])
def test_all_brokers_are_restarted_one_after_the_other(start: Callable[..., UnitMesh], activated: bool) -> None:
    """The client of one broker, which asks for the places of all: others serve a region whose broker is away."""
    mesh = start("ne", "south", "mw", activated=activated)
    loads = both(mesh, mesh.endpoints["south"], 100)

    def restart_all() -> None:
        for broker in mesh.brokers.values():
            broker.restart()
            wait_until(lambda broker=broker: "peers=2/2 workers=2" in broker.status, "it has its peers and workers")

    under(loads, restart_all)
    assert_nobody_noticed(mesh, loads, at_least=100)


def test_clients_with_several_brokers_go_to_the_next(start: Callable[..., UnitMesh]) -> None:
    """They hardly wait: also for writes, which were refused before they were started."""
    mesh = start("ne", "south", "mw")
    loads = both(mesh, list(mesh.endpoints.values()), 100, writes=True)

    def restart_all() -> None:
        for broker in mesh.brokers.values():
            broker.restart()
            time.sleep(1.5)

    under(loads, restart_all)
    assert_nobody_noticed(mesh, loads, at_least=400)


def test_a_crash_costs_no_read(start: Callable[..., UnitMesh]) -> None:
    """No drain, no goodbye: the link breaks, and reads are asked again."""
    mesh = start("ne", "south")
    loads = both(mesh, mesh.endpoints["ne"], 100)

    def crash_both() -> None:
        for broker in mesh.brokers.values():
            broker.stop(signal.SIGKILL)
            broker.start()
            time.sleep(1.0)

    under(loads, crash_both)
    assert_nobody_noticed(mesh, loads, at_least=100)


def test_workers_are_restarted_one_after_the_other(start: Callable[..., UnitMesh]) -> None:
    """READY means that the broker gives it work, so that the next may go; a write that is on its way is waited for."""
    mesh = start("ne")
    loads = both(mesh, mesh.endpoints["ne"], 50, writes=True)

    def restart_all() -> None:
        for _ in range(2):
            for worker in mesh.staff["ne"]:
                worker.restart()

    under(loads, restart_all)
    assert_nobody_noticed(mesh, loads, at_least=100)


def test_what_runs_is_finished_and_what_waits_is_asked_again(start: Callable[..., UnitMesh]) -> None:
    """A job of a second is answered by the broker that was told to stop; those who come meanwhile get the next."""
    mesh = start("ne", service="sleep:1000")
    answer = body.encode(body.Reply(Counted(7), "ne/1"))  # what it sleeps on it returns
    slow = Request(int(Kind.REQUEST), pad_region("ne"), answer, int(Flag.NONE))
    broker = mesh.brokers["ne"]
    with ThreadPoolExecutor(8) as pool:
        connection = Connection(mesh.endpoints["ne"])
        running = [pool.submit(connection.ask, [slow], 10.0) for _ in range(2)]
        wait_until(lambda: status(mesh)["outstanding"] == 2, "both run")
        begin = time.monotonic()
        assert broker.process
        broker.process.send_signal(signal.SIGTERM)
        broker.wait_for("STOPPING=1")
        late = [pool.submit(connection.ask, [slow], 10.0) for _ in range(2)]
        assert [job.result() for job in running] == [[Counted(7)]] * 2
        assert broker.process.wait(10.0) == 0
        assert time.monotonic() - begin < 2.0
        broker.start()
        assert [job.result() for job in late] == [[Counted(7)]] * 2
        connection.close()


def status(mesh: UnitMesh) -> dict[str, object]:
    with Client(mesh.endpoints["ne"]) as client:
        return client.status()
