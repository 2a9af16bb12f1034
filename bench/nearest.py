"""Nearest-10 through the mesh, beside pymongo asking the same mongod the same questions.

Run as `python -m bench.nearest direct|mesh TARGET SECONDS SEED` it is one load process: it prints the number of
answers and the median latency in seconds.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection

from bench.report import Figure
from mesh import Client
from mesh.config.load import shipped
from mesh.errors import ConfigError
from mesh.local.layout import Layout, Options, check_ports
from mesh.local.places import us_places
from mesh.local.running import LocalMesh
from mesh.regions import RegionMap
from mesh.store.mongod import free_port

PROCESSES, SECONDS, ROUNDS, LIMIT = 2, 4.0, 3, 10


def measure() -> list[Figure]:
    """Return throughput and lone latency of nearest-10, and pymongo's."""
    with LocalMesh(Options(workers=PROCESSES, base_port=_free_base()), lambda _line: None) as mesh:
        mesh.start()
        mesh.load(lambda _count: None)
        targets = {"mesh": mesh.brokers["ne"], "direct": mesh.shards["ne"].uri}
        many = [{kind: _load(kind, targets[kind], PROCESSES, n) for kind in targets} for n in range(ROUNDS)]
        lone = [{kind: _load(kind, targets[kind], 1, 100 + n) for kind in targets} for n in range(ROUNDS)]
    rate = {kind: median(row[kind][0] for row in many) for kind in targets}
    p50 = {kind: median(row[kind][1] for row in lone) for kind in targets}
    setting = f"{LIMIT} nearest, NE's real places, {PROCESSES} load processes, {ROUNDS} rounds of {SECONDS:g} s"
    added = (p50["mesh"] - p50["direct"]) * 1000
    return [
        Figure("nearest-10 over direct pymongo", rate["mesh"] / rate["direct"], "x", "direct pymongo", 1.0,
               at_least=0.85, setting=f"{setting}; mesh {rate['mesh']:.0f}/s, direct {rate['direct']:.0f}/s"),
        Figure("added to a lone nearest-10 (p50)", added, "ms", "direct pymongo", p50["direct"] * 1000, at_most=0.6,
               setting=f"one at a time; mesh {p50['mesh'] * 1000:.2f} ms, direct {p50['direct'] * 1000:.2f} ms"),
    ]  # fmt: skip


def _free_base() -> int:
    """Return the first of five neighbouring free ports."""
    while True:
        base = free_port()
        try:
            check_ports(Layout(Path(), base))
        except ConfigError:
            continue
        return base


def _load(kind: str, target: str, processes: int, seed: int) -> tuple[float, float]:
    """Run load processes side by side; return answers a second together, and the median latency."""
    command = [sys.executable, "-m", "bench.nearest", kind, target, str(SECONDS)]
    running = [
        subprocess.Popen([*command, str(seed * 10 + n)], stdout=subprocess.PIPE, text=True) for n in range(processes)
    ]
    results = [process.communicate()[0].split() for process in running]
    return sum(int(count) for count, _ in results) / SECONDS, median(float(latency) for _, latency in results)


def _points(seed: int) -> list[tuple[float, float]]:
    """Return positions in NE, weighted by population, more than 50 km from any other region."""
    regions = RegionMap.load(shipped("regions.geojson"))
    inland = [
        place
        for place in us_places()
        if regions.region_of(place.lon, place.lat) == "ne"
        and min(bound for name, bound in regions.lower_bounds(place.lon, place.lat).items() if name != "ne") > 50_000
    ]
    weights = [place.properties["population"] + 1 for place in inland]
    chosen = random.Random(seed).choices(inland, weights, k=2000)
    return [(place.lon, place.lat) for place in chosen]


def _asker(kind: str, target: str) -> Callable[[float, float], object]:
    if kind == "mesh":
        client = Client(target, timeout=10)
        return lambda lon, lat: client.nearest(lon=lon, lat=lat, limit=LIMIT)
    places: Collection[dict[str, Any]] = MongoClient(target)["mesh"]["places"]
    return lambda lon, lat: list(places.find(
        {"loc": {"$nearSphere": {"$geometry": {"type": "Point", "coordinates": [lon, lat]}}}},
        {"distance": {"$meta": "geoNearDistance"}}, limit=LIMIT,
    ))  # fmt: skip


def _run(kind: str, target: str, seconds: float, seed: int) -> tuple[int, float]:
    ask, points, latencies = _asker(kind, target), _points(seed), []
    for lon, lat in points[:200]:  # warm up
        ask(lon, lat)
    end, n = time.perf_counter() + seconds, 0
    while (started := time.perf_counter()) < end:
        ask(*points[n % len(points)])
        latencies.append(time.perf_counter() - started)
        n += 1
    return n, median(latencies)


if __name__ == "__main__":
    answers, middle = _run(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    print(answers, middle)
