"""mesh-local, as its user meets it: real processes, and nothing left of them."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mesh import Client
from mesh.errors import ConfigError, MeshError
from mesh.store.mongod import find_mongod

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
PLACES = 21_783
_PROGRAM = [sys.executable, "-c", "from mesh.cli.local import main; main()"]
_SECONDS = 90.0


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Return a directory of its own for whatever mesh-local makes, short enough for a socket's path."""
    path = Path(tempfile.mkdtemp(prefix="ml-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def real_mongod() -> None:
    """Without a mongod, skip on a laptop with the reason, and fail in CI."""
    try:
        find_mongod()
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


class Up:
    """A running `mesh-local up --json`."""

    def __init__(self, scratch: Path, *arguments: str) -> None:
        self.scratch = scratch
        command = [*_PROGRAM, "up", "--json", "--base-port", str(_free_ports()), *arguments]
        self.said = scratch.parent / f"{scratch.name}.stderr"
        with self.said.open("w") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=_environment(scratch)
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.said.read_text()
        self.ready: dict[str, Any] = json.loads(line)
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def client(self, region: str = "ne") -> Client:
        """Return a client of a region's broker."""
        return Client(self.ready["brokers"][region], cache_dir=self.scratch / "cache", timeout=10)

    def pids(self) -> set[int]:
        """Return the process ids that the mesh named."""
        return {
            pid
            for region in self.ready["pids"].values()
            for pid in (region["broker"], *region["workers"], region["store"])
            if pid
        }

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; nothing may have been printed after the first line."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=_SECONDS)
        assert rest == ""
        return self.process.returncode

    def leftovers(self) -> list[object]:
        """Return the processes that still run and the files that are still there."""
        alive = [child for child in self.children if _runs(child)]
        return [*alive, *(path for path in self.scratch.iterdir() if path.name.startswith("mesh-"))]


@pytest.fixture
def up(scratch: Path) -> Iterator[Callable[..., Up]]:
    """Return what starts a mesh; whatever the test leaves of it is ended."""
    started: list[Up] = []

    def start(*arguments: str) -> Up:
        started.append(Up(scratch, *arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.process.communicate(timeout=20)
        each.process.kill()
        each.process.wait()
        each.process.stdout.close()  # type: ignore[union-attr]
        each.said.unlink(missing_ok=True)


@pytest.mark.parametrize("store", ["memory", pytest.param("mongo", marks=pytest.mark.mongo)])
def test_a_mesh_is_ready_when_it_says_so_and_leaves_nothing_behind(
    up: Callable[..., Up], store: str, request: pytest.FixtureRequest
) -> None:
    """After its one line every broker has its peers, workers and places; after SIGTERM there is no trace of it."""
    if store == "mongo":
        request.getfixturevalue("real_mongod")
    mesh = up("--store", store)
    assert list(mesh.ready["brokers"]) == ["ne", "south", "mw", "sw", "ca"]
    assert (mesh.ready["store"], mesh.ready["data"]["places"]) == (store, PLACES)
    assert len(mesh.pids()) == 5 * 4
    for region in mesh.ready["brokers"]:
        with mesh.client(region) as client:
            status = client.status()
            assert [worker["state"] for worker in status["workers"]] == ["open", "open"]
            assert all(peer["serving"] == peer["asking"] == "open" for peer in status["peers"])
            assert client.count() == PLACES
            assert client.nearest(lon=-97.74, lat=30.27, limit=1)[0].properties["name"] == "Austin"
    assert mesh.end() == 0
    assert mesh.leftovers() == []
    assert mesh.said.read_text() == ""


@pytest.mark.mongo
@pytest.mark.usefixtures("real_mongod")
def test_a_data_directory_keeps_places_and_has_one_user(up: Callable[..., Up], scratch: Path) -> None:
    """What was written is there the next time and is not loaded again; a second mesh-local is refused."""
    data = scratch / "data"
    first = up("--data", str(data))
    with first.client() as client:
        client.insert({"id": "mine", "lon": -74.0, "lat": 40.7, "properties": {}})
        client.delete("geonames:5128581")
    refused = _run(scratch, "up", "--data", str(data))
    assert refused.returncode == 78
    assert refused.stderr.count("\n") == 1
    assert "in use by another mesh-local" in refused.stderr
    assert first.end(signal.SIGINT) == 0
    second = up("--data", str(data))
    assert second.ready["data"] == {"places": PLACES, "directory": str(data)}
    with second.client() as client:
        assert client.get("mine").region == "ne"
        assert client.count({"name": "New York City", "state": "NY"}) == 0
    assert second.end() == 0
    assert second.leftovers() == []


def test_a_killed_child_comes_back(up: Callable[..., Up]) -> None:
    """A worker, a broker and a store killed with SIGKILL are started again, and the user is told."""
    mesh = up("--store", "memory", "--load", "none")
    pids = mesh.ready["pids"]["sw"]
    for pid in (pids["workers"][0], pids["broker"], pids["store"]):
        os.kill(pid, signal.SIGKILL)
    for name in ("worker-sw-1", "broker-sw", "store-sw"):
        _wait_until(lambda name=name: f"{name} is back" in mesh.said.read_text())
    with mesh.client("sw") as client:
        _wait_until(lambda: len(client.status()["workers"]) == 2)
        _wait_until(lambda: _answers(client))
        assert client.insert({"id": "a", "lon": -97.74, "lat": 30.27}).region == "sw"
    mesh.children += psutil.Process(mesh.process.pid).children(recursive=True)
    assert mesh.end() == 0
    assert mesh.leftovers() == []


@pytest.mark.mongo
@pytest.mark.usefixtures("real_mongod")
def test_a_killed_mongod_comes_back_with_its_places(up: Callable[..., Up]) -> None:
    """A mongod killed with SIGKILL is started again on its port, and its places are still there."""
    mesh = up()
    os.kill(mesh.ready["pids"]["sw"]["store"], signal.SIGKILL)
    _wait_until(lambda: "mongod-sw is back" in mesh.said.read_text())
    with mesh.client() as client:
        _wait_until(lambda: not client.nearest(lon=-97.74, lat=30.27, limit=3).partial)
        assert client.nearest(lon=-97.74, lat=30.27, limit=3)[0].properties["name"] == "Austin"
    mesh.children += psutil.Process(mesh.process.pid).children(recursive=True)
    assert mesh.end() == 0
    assert mesh.leftovers() == []


@pytest.mark.parametrize("store", ["memory", pytest.param("mongo", marks=pytest.mark.mongo)])
def test_nothing_survives_a_kill_of_mesh_local_itself(
    up: Callable[..., Up], store: str, request: pytest.FixtureRequest
) -> None:
    """After SIGKILL nobody could tidy up, and still no process and no directory is left within seconds."""
    if store == "mongo":
        request.getfixturevalue("real_mongod")
    mesh = up("--store", store, "--load", "none")
    assert Path(mesh.ready["directory"]).exists()
    assert mesh.end(signal.SIGKILL) == -signal.SIGKILL
    _wait_until(lambda: mesh.leftovers() == [], seconds=10)


@pytest.mark.parametrize("children", [1, 4, 8, 12, 16])
def test_an_interrupt_while_it_comes_up_ends_it(scratch: Path, children: int) -> None:
    """SIGINT between any two forks, or in one, is neither lost nor does it leave anything."""
    command = [*_PROGRAM, "up", "--store", "memory", "--base-port", str(_free_ports())]
    with subprocess.Popen(command, env=_environment(scratch)) as process:
        itself = psutil.Process(process.pid)
        while len(itself.children()) < children:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert list(scratch.iterdir()) == []


def test_a_port_in_use_is_one_clear_line(scratch: Path) -> None:
    """The line names the port, its region and the option; the exit code is 78, and nothing was started."""
    base = _free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 2))
        taken.listen()
        done = _run(scratch, "up", "--base-port", str(base))
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in (str(base + 2), "mw", "in use", "--base-port"))
    assert (done.stdout, list(scratch.iterdir())) == ("", [])


def test_a_child_that_cannot_start_is_quoted(scratch: Path) -> None:
    """A program that refuses to start ends the mesh with its last words, and nothing is left."""
    done = _run(scratch, "up", "--service", "dance", "--load", "none", "--base-port", str(_free_ports()))
    assert done.returncode == 78
    assert "there is no service 'dance'" in done.stderr
    assert list(scratch.iterdir()) == []


def test_a_mongod_without_its_library_is_named_with_the_package(up: Callable[..., Up], scratch: Path) -> None:
    """Asked for, it is an error that says what to install; by default places are kept in memory, and it says why."""
    fake = scratch / "mongod"
    fake.write_text("#!/bin/sh\necho 'libcurl.so.4: cannot open shared object file' >&2; exit 127\n")
    fake.chmod(0o755)
    done = _run(scratch, "up", "--mongod", str(fake), "--base-port", str(_free_ports()))
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "apt-get install libcurl4" in done.stderr
    os.environ["MESH_MONGOD"] = str(fake)
    try:
        mesh = up("--load", "none")
    finally:
        del os.environ["MESH_MONGOD"]
    assert mesh.ready["store"] == "memory"
    assert mesh.said.read_text().count("\n") == 1
    assert "kept in memory" in mesh.said.read_text()
    assert "apt-get install libcurl4" in mesh.said.read_text()
    assert mesh.end() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mongod", "/no/such/mongod"], "/no/such/mongod"),
        (["--store", "memory", "--data", "/tmp/never-made"], "--data"),
        (["--workers", "0"], "--workers"),
        (["--base-port", "65535"], "--base-port"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_78(scratch: Path, arguments: list[str], words: str) -> None:
    """Whoever cannot be served is told which option is wrong, and nothing is started or made."""
    ports = [] if "--base-port" in arguments else ["--base-port", str(_free_ports())]
    done = _run(scratch, "up", *ports, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
    assert words in done.stderr
    assert list(scratch.iterdir()) == []


def test_a_tour_without_places_is_refused(scratch: Path) -> None:
    """Who takes the places out of the demo is told so before anything is started."""
    done = _run(scratch, "demo", "--once", "--load", "none", "--base-port", str(_free_ports()))
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (78, 1, "")
    assert "the tour needs places" in done.stderr


def test_a_mesh_of_echoes_needs_no_store(up: Callable[..., Up]) -> None:
    """A service other than places is passed on to the workers, and no store is started for it."""
    mesh = up("--service", "echo", "--workers", "1")
    assert (mesh.ready["store"], mesh.ready["data"]["places"], len(mesh.pids())) == (None, 0, 10)
    with mesh.client() as client:
        assert [worker["service"] for worker in client.status()["workers"]] == ["echo"]
    assert mesh.end() == 0


@pytest.mark.parametrize("store", ["memory", pytest.param("mongo", marks=pytest.mark.mongo)])
def test_every_step_of_the_tour_gives_what_it_should(scratch: Path, store: str, request: pytest.FixtureRequest) -> None:
    """`demo --once` shows six steps, each with its claims checked, and ends with status 0 and without a trace."""
    if store == "mongo":
        request.getfixturevalue("real_mongod")
    done = _run(scratch, "demo", "--once", "--store", store, "--base-port", str(_free_ports()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 steps gave what they should" in done.stdout
    assert "✘" not in done.stdout
    assert "first answer" in done.stdout
    assert f"{PLACES:,} places" in done.stdout
    assert list(scratch.iterdir()) == []


def _run(scratch: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = _environment(scratch)
    return subprocess.run(
        [*_PROGRAM, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment
    )


def _environment(scratch: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(scratch), "PYTHONUTF8": "1"}


def _free_ports() -> int:
    """Return the first of five free ports in a row, below those that the kernel hands out."""
    while True:
        # Not the seeded generator: two runs of the tests at the same time would choose the same.
        first = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + 5):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def _runs(process: psutil.Process) -> bool:
    # Where nobody collects orphans, as in some containers, the dead stay as zombies.
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _answers(client: Client) -> bool:
    with contextlib.suppress(MeshError):
        return client.count() >= 0
    return False


def _wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
