"""Nearest-10 through the mesh, beside pymongo asking the same mongod the same questions.

Throughput: a region with two workers, kept busy by two load processes with a few requests in flight each, against two
processes that each ask pymongo in a loop. Latency: one process, one request at a time, on both sides.

Run as `python -m bench.nearest direct|mesh TARGET SECONDS SEED IN_FLIGHT` it is one load process: it prints the number
of answers and the median latency in seconds.
"""

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection

from bench.processes import one_region
from bench.report import Figure
from mesh import AsyncClient, Client
from mesh.config.load import shipped
from mesh.local.places import us_places
from mesh.regions import RegionMap
from mesh.store.mongo import MongoStore
from mesh.store.mongod import Mongod

PROCESSES, SECONDS, ROUNDS, LIMIT = 2, 4.0, 3, 10
#: Requests that one load process keeps in flight, so that the workers never wait for a client.
IN_FLIGHT = 4
WARM_UP = 200
Points = list[tuple[float, float]]


def measure() -> list[Figure]:
    """Return throughput and lone latency of nearest-10, and pymongo's."""
    with tempfile.TemporaryDirectory(prefix="mesh-b-") as folder, Mongod(Path(folder)) as mongod:
        _fill(mongod.wait().uri)
        with one_region("places", PROCESSES, shard=mongod.uri) as (endpoint, _broker, _workers):
            targets = {"mesh": endpoint, "direct": mongod.uri}
            many = [
                {kind: _load(kind, targets[kind], PROCESSES, n, IN_FLIGHT) for kind in targets} for n in range(ROUNDS)
            ]
            lone = [{kind: _load(kind, targets[kind], 1, 100 + n, 1) for kind in targets} for n in range(ROUNDS)]
    rate = {kind: median(row[kind][0] for row in many) for kind in targets}
    p50 = {kind: median(row[kind][1] for row in lone) for kind in targets}
    setting = (
        f"{LIMIT} nearest, NE's real places, one region, {PROCESSES} workers, {PROCESSES} load processes of "
        f"{IN_FLIGHT} in flight, {ROUNDS} rounds of {SECONDS:g} s"
    )
    added = (p50["mesh"] - p50["direct"]) * 1000
    return [
        Figure("nearest-10 rate", rate["mesh"] / rate["direct"], "x", "direct pymongo", 1.0,
               at_least=0.85, setting=f"{setting}; mesh {rate['mesh']:.0f}/s, direct {rate['direct']:.0f}/s"),
        Figure("added to a lone nearest-10", added, "ms", "direct pymongo", p50["direct"] * 1000, at_most=0.6,
               setting=f"one at a time; mesh {p50['mesh'] * 1000:.2f} ms, direct {p50['direct'] * 1000:.2f} ms"),
    ]  # fmt: skip


def _fill(uri: str) -> None:
    """Store the real places of NE."""
    regions, store = RegionMap.load(shipped("regions.geojson")), MongoStore(uri, "ne")
    store.ensure_indexes()
    places = [place for place in us_places() if regions.region_of(place.lon, place.lat) == "ne"]
    for start in range(0, len(places), 1000):
        store.insert_many(places[start : start + 1000])
    store.close()


def _load(kind: str, target: str, processes: int, seed: int, in_flight: int) -> tuple[float, float]:
    """Run load processes side by side; return answers a second together, and the median latency."""
    command = [sys.executable, "-m", "bench.nearest", kind, target, str(SECONDS)]
    running = [
        subprocess.Popen([*command, str(seed * 10 + n), str(in_flight)], stdout=subprocess.PIPE, text=True)
        for n in range(processes)
    ]
    results = [process.communicate()[0].split() for process in running]
    return sum(int(count) for count, _ in results) / SECONDS, median(float(latency) for _, latency in results)


def _points(seed: int) -> Points:
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


def _run(kind: str, target: str, seconds: float, seed: int, in_flight: int) -> tuple[int, float]:
    points = _points(seed)
    if kind == "direct":
        return _loop(_pymongo(target), points, seconds)
    if in_flight == 1:
        client = Client(target, timeout=10)
        return _loop(lambda lon, lat: client.nearest(lon=lon, lat=lat, limit=LIMIT), points, seconds)
    return asyncio.run(_many(target, points, seconds, in_flight))


def _pymongo(target: str) -> Callable[[float, float], object]:
    places: Collection[dict[str, Any]] = MongoClient(target)["mesh"]["places"]
    return lambda lon, lat: list(
        places.find(
            {"loc": {"$nearSphere": {"$geometry": {"type": "Point", "coordinates": [lon, lat]}}}},
            {"distance": {"$meta": "geoNearDistance"}},
            limit=LIMIT,
        )
    )


def _loop(ask: Callable[[float, float], object], points: Points, seconds: float) -> tuple[int, float]:
    latencies = []
    for lon, lat in points[:WARM_UP]:
        ask(lon, lat)
    end = time.perf_counter() + seconds
    for lon, lat in cycle(points):
        started = time.perf_counter()
        if started >= end:
            break
        ask(lon, lat)
        latencies.append(time.perf_counter() - started)
    return len(latencies), median(latencies)


async def _many(target: str, points: Points, seconds: float, in_flight: int) -> tuple[int, float]:
    latencies = []

    async def one(client: AsyncClient, numbers: Iterator[tuple[float, float]], end: float) -> None:
        while (started := time.perf_counter()) < end:
            lon, lat = next(numbers)
            await client.nearest(lon=lon, lat=lat, limit=LIMIT)
            latencies.append(time.perf_counter() - started)

    async with AsyncClient(target, timeout=10) as client:
        for lon, lat in points[:WARM_UP]:
            await client.nearest(lon=lon, lat=lat, limit=LIMIT)
        end = time.perf_counter() + seconds
        await asyncio.gather(*[one(client, cycle(points), end) for _ in range(in_flight)])
    return len(latencies), median(latencies)


if __name__ == "__main__":
    kind, target, seconds, seed, in_flight = sys.argv[1:]
    print(*_run(kind, target, float(seconds), int(seed), int(in_flight)))
