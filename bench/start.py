"""A newcomer's clock: how long `mesh-local up` takes to be ready with all places, beside five bare mongods."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.report import Figure
from mesh import Client
from mesh.errors import ConfigError
from mesh.local.layout import REGIONS, Layout, check_ports
from mesh.store.mongod import Mongod

ROUNDS = 3


def measure() -> list[Figure]:
    """Return the seconds until ready and until the first answer, and what five mongods alone take."""
    rounds = [(_mesh(), _mongods()) for _ in range(ROUNDS)]
    ready, first = (median(mesh[n] for mesh, _ in rounds) for n in range(2))
    alone = median(mongods for _, mongods in rounds)
    setting = f"five regions, two workers each, 21,783 places loaded, {ROUNDS} rounds"
    return [
        Figure("mesh-local up with data", ready, "s", "five bare mongods", alone, at_most=15, setting=setting),
        Figure("first answer after the start", first, "s", "five bare mongods", alone, at_most=180,
               setting=f"{setting}; a nearest-5 in New York, client included; making .venv not included"),
    ]  # fmt: skip


def _mesh() -> tuple[float, float]:
    started = time.perf_counter()
    command = [str(Path(sys.executable).parent / "mesh-local"), "up", "--json", "--base-port", str(_five_free_ports())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        brokers = json.loads(process.stdout.readline() if process.stdout else "")["brokers"]
        ready = time.perf_counter() - started
        with Client(brokers["ne"]) as client:
            client.nearest(lon=-73.99, lat=40.73, limit=5)
        return ready, time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def _mongods() -> float:
    with tempfile.TemporaryDirectory(prefix="mesh-b-") as folder:
        started = time.perf_counter()
        running = [Mongod(Path(folder) / region) for region in REGIONS]
        try:
            for mongod in running:
                mongod.wait()
            return time.perf_counter() - started
        finally:
            for mongod in running:
                mongod.kill()


def _five_free_ports() -> int:
    for base in range(20_000, 30_000, len(REGIONS)):
        try:
            check_ports(Layout(Path(), base))
        except ConfigError:
            continue
        return base
    raise RuntimeError("there are no five free ports in a row")
