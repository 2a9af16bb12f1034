"""The load generator: it keeps its rate, counts every request once, and says what went wrong."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.local.layout import REGIONS, Options
from mesh.local.running import LocalMesh
from tests.lab.load import parse, percentile
from tests.system.meshes import free_ports

LOAD = Path(__file__).with_name("load.py")


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    """Run a mesh of five regions without places on this machine."""
    options = Options(base_port=free_ports(len(REGIONS)), store="memory", load="none", workers=1)
    with LocalMesh(options, lambda _: None) as running:
        running.start()
        yield running


def start(mesh: LocalMesh, *arguments: str) -> "subprocess.Popen[str]":
    brokers = [word for endpoint in mesh.brokers.values() for word in ("--broker", endpoint)]
    process = subprocess.Popen(
        [sys.executable, str(LOAD), *brokers, *arguments], stdout=subprocess.PIPE, text=True, cwd=LOAD.parents[2]
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def report(process: "subprocess.Popen[str]"):
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return json.loads(output)


def test_it_asks_at_its_rate_and_counts_every_request_once(mesh: LocalMesh):
    """So many requests a second for so long, each answered or failed, with latencies."""
    told = report(start(mesh, "--rate", "100", "--seconds", "2"))

    assert (told["asked"], told["answered"], told["failed"]) == (200, 200, 0)
    assert told["empty"] == 200, "this mesh has no places"
    assert told["partial"] == 0
    assert 1.9 < told["seconds"] < 6
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"] <= told["latency_ms"]["max"]


def test_sigterm_ends_it_with_a_report(mesh: LocalMesh):
    """A test that is done stops the load and reads what it did until then."""
    process = start(mesh, "--rate", "50", "--seconds", "60")
    time.sleep(1)
    process.terminate()

    told = report(process)

    assert 10 < told["asked"] < 500
    assert told["asked"] == told["answered"] + told["failed"]


def test_a_silent_broker_shows_as_failures_and_not_as_a_lower_rate(mesh: LocalMesh):
    """While one broker of five is stopped its requests fail and are named, and the others get theirs in time."""
    process = start(mesh, "--rate", "100", "--seconds", "2", "--timeout", "0.5")
    mesh.stop("broker-ca")
    try:
        told = report(process)
    finally:
        mesh.resume("broker-ca")

    assert told["asked"] == 200
    assert told["answered"] + told["failed"] == 200
    assert 20 <= told["failed"] <= 80, "a broker that is not there, and its region"
    assert {first["broker"] for first in told["first_errors"]} >= {mesh.brokers["ca"]}
    waited = [first["waited"] for first in told["first_errors"] if first["broker"] == mesh.brokers["ca"]]
    assert min(waited) < 2, "nobody waits much longer than the timeout"


def test_percentiles_are_those_of_the_nearest_rank():
    """Half of four values do not exceed the second; nothing has no percentiles."""
    assert percentile([0.001, 0.002, 0.003, 0.004], 50) == 2
    assert percentile([0.001, 0.002, 0.003, 0.004], 100) == 4
    assert percentile([], 50) is None


def test_a_broker_is_needed():
    """Without a broker there is nothing to ask."""
    with pytest.raises(SystemExit):
        parse(["--rate", "5"])
