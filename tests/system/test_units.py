"""Broker and worker as units: what systemd hears of them, and the socket it keeps for them."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mesh import Client
from mesh.local.layout import HOST, render
from tests.system.meshes import free_ports, run, wait_until
from tests.system.units import Unit, listening

pytestmark = pytest.mark.slow
Start = Callable[..., Unit]


@pytest.fixture
def start() -> Iterator[Start]:
    """Make units that end with the test."""
    units: list[Unit] = []

    def make(*arguments: Any, **options: Any) -> Unit:
        units.append(Unit(*arguments, **options))
        return units[-1]

    yield make
    for unit in units:
        unit.close()


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """Return the socket that systemd holds."""
    with listening() as sock:
        yield sock


def configure(directory: Path, port: int, **changes: Any) -> Path:
    """Write the mesh.toml of a region of its own."""
    variables = {
        "mesh_region": "ne",
        "mesh_release": "1.0-abc",
        "mesh_broker_listen": f"tcp://{HOST}:{port}",
        "mesh_broker_workers": f"ipc://{directory}/w",
        "mesh_worker_service": "sleep:20",
        "mesh_peers": {},
        "mesh_shards": {},
        **changes,
    }
    file = directory / "mesh.toml"
    file.write_text(render(variables), encoding="utf-8")
    return file


def port_of(held: socket.socket) -> int:
    return int(held.getsockname()[1])


def fingerprinted(directory: Path, text: str = "0123456789ab") -> Path:
    """Return a directory with the credential that the deployment writes."""
    found = directory / "credentials"
    found.mkdir()
    (found / "fingerprint").write_text(text + "\n")
    return found


def test_a_broker_is_ready_when_its_sockets_are(directory: Path, held: socket.socket, start: Start) -> None:
    """At READY a client is answered; the status line says what was deployed and who is there."""
    file = configure(directory, port_of(held))
    credentials = fingerprinted(directory)
    broker = start(directory, "broker", ["-c", str(file)], listener=held, credentials=credentials).start()
    assert broker.status == "release=1.0-abc fingerprint=0123456789ab peers=0/0 workers=0"
    worker = start(directory, "worker", ["-c", str(file)], credentials=credentials).start()
    assert worker.status == "release=1.0-abc fingerprint=0123456789ab instance=1 broker=connected"
    wait_until(lambda: broker.status.endswith("workers=1"), "the broker counts its worker")
    with Client(f"{HOST}:{port_of(held)}") as client:
        status = client.status()
    assert status["release"] == "1.0-abc"
    assert len(status["config_digest"]) == 12
    assert worker.stop() == 0
    assert broker.stop() == 0


def test_a_worker_is_ready_without_its_broker_but_not_at_once(directory: Path, start: Start) -> None:
    """It waits for a welcome, so that one worker after the other can be restarted; and not for ever."""
    worker = start(directory, "worker", ["-c", str(configure(directory, free_ports(1)))])
    begin = time.monotonic()
    worker.start()
    assert 2.5 < time.monotonic() - begin < 10.0
    assert worker.status == "release=1.0-abc fingerprint=none instance=1 broker=away"
    assert worker.stop() == 0


def test_a_drain_is_announced_with_the_time_it_takes(directory: Path, held: socket.socket, start: Start) -> None:
    """STOPPING, and as much time as the configuration's grace, whatever the unit says."""
    file = configure(directory, port_of(held), mesh_broker_options={"grace": 42.0})
    broker = start(directory, "broker", ["-c", str(file)], listener=held).start()
    assert broker.stop() == 0
    broker.wait_for("STOPPING=1")
    broker.wait_for("EXTEND_TIMEOUT_USEC=47000000")


def test_the_watchdog_is_fed_by_a_loop_that_turns(directory: Path, held: socket.socket, start: Start) -> None:
    """Also by one that has nothing to do; and by nobody while the process is stopped."""
    file = configure(directory, port_of(held), mesh_broker_options={"heartbeat": 30.0})
    broker = start(directory, "broker", ["-c", str(file)], listener=held, watchdog_seconds=0.4).start()
    worker = start(directory, "worker", ["-c", str(file)], watchdog_seconds=0.4).start()
    for unit in (broker, worker):
        time.sleep(1.2)
        beats = [heard for heard, line in unit.said if line == "WATCHDOG=1"]
        assert len(beats) >= 5
        assert max(later - earlier for earlier, later in pairwise(beats)) < 0.4
        assert unit.process
        os.kill(unit.process.pid, signal.SIGSTOP)
        time.sleep(0.1)
        unit.said.clear()
        time.sleep(0.6)
        assert unit.said == []


def test_a_question_asked_while_no_broker_runs_is_answered(directory: Path, held: socket.socket, start: Start) -> None:
    """The kernel takes the connection, the broker finds it when it comes."""
    file = configure(directory, port_of(held))
    broker = start(directory, "broker", ["-c", str(file)], listener=held)
    with Client(f"{HOST}:{port_of(held)}", timeout=5.0) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.status)
        time.sleep(0.3)
        broker.start()
        assert asked.result()["region"] == "ne"


def test_a_socket_with_another_address_is_refused(directory: Path, held: socket.socket, start: Start) -> None:
    """Or libzmq would listen there without a word, and whoever reads the configuration would be misled."""
    file = configure(directory, free_ports(1))
    broker = start(directory, "broker", ["-c", str(file)], listener=held)
    broker.begin()
    assert broker.process
    assert broker.process.wait(20) == 78
    assert f"but systemd listens on tcp://{HOST}:{port_of(held)} for us" in broker.log.read_text()


def test_two_addresses_for_workers(directory: Path, held: socket.socket, start: Start) -> None:
    """The second bind on one ROUTER comes after the adopted descriptor was set back: libzmq would abort otherwise."""
    port = free_ports(1)
    file = configure(directory, port_of(held), mesh_broker_workers_tcp=f"tcp://{HOST}:{port}")
    broker = start(directory, "broker", ["-c", str(file)], listener=held).start()
    start(directory, "worker", ["-c", str(file)]).start()
    away = directory / "away"
    away.mkdir()
    remote = configure(away, port_of(held), mesh_broker_workers=f"tcp://{HOST}:{port}")
    start(away, "worker", ["-c", str(remote), "--instance", "remote"]).start()
    wait_until(lambda: broker.status.endswith("workers=2"), "both workers are known")


def test_versions_and_checks_for_a_smoke_test(directory: Path) -> None:
    """They listen nowhere and need no secret; a wrong file ends with 78."""
    shards = {"ne": {"uri": "mongodb://10.0.0.1/", "username": "u", "password_credential": "shard.ne.password"}}
    file = configure(directory, 5570, mesh_worker_service="places", mesh_shards=shards)
    for program in ("mesh-broker", "mesh-worker"):
        assert run(program, "--version").stdout.startswith(f"{program} ")
        done = run(program, "--config", file, "--check")
        assert (done.returncode, done.stderr) == (0, "")
        file.write_text(file.read_text().replace('"ne"', '"mars"'))
        assert run(program, "--config", file, "--check").returncode == 78
        file.write_text(file.read_text().replace('"mars"', '"ne"'))
    done = run("mesh-worker", "--config", file)
    assert done.returncode == 78
    assert "shard.ne.password" in done.stderr


def test_an_address_that_is_not_there_yet_is_worth_another_try(directory: Path) -> None:
    """Exit code 1, which systemd starts again, not 78, after which it would leave the broker down."""
    file = configure(directory, 5570, mesh_broker_listen="tcp://192.0.2.1:5570")
    done = run("mesh-broker", "--config", file)
    assert done.returncode == 1
    assert "no interface of this host has that address" in done.stderr
