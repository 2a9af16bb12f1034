"""Memory and descriptors of every process over time, and what brokers still hold when all is quiet."""

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.chaos.running import ChaosMesh
from tests.chaos.schedule import REGIONS

#: Seconds between two looks.
LOOK_SECONDS = 1.0
#: Seconds of a process's life that do not count: libraries, caches and connections are filling.
WARM_SECONDS = 60.0
#: A slope over less than this is not worth printing, and one over less than that not worth judging.
LEAST_SECONDS, JUDGED_SECONDS = 120.0, 600.0
_MB = 1024 * 1024


@dataclass
class Life:
    """One process: when it was looked at, its resident bytes and its open descriptors."""

    name: str
    pid: int
    times: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def report(self, warm: float = WARM_SECONDS) -> dict[str, Any]:
        """Return its figures; slopes per hour, None where it did not live long enough for one."""
        first = next((n for n, at in enumerate(self.times) if at - self.times[0] >= warm), len(self.times))
        times, memory, descriptors = self.times[first:], self.memory[first:], self.descriptors[first:]
        long_enough = len(times) > 2 and times[-1] - times[0] >= LEAST_SECONDS
        return {
            "name": self.name,
            "seconds": round(self.times[-1] - self.times[0], 1),
            "memory_mb": round(self.memory[-1] / _MB, 1),
            "memory_mb_an_hour": round(slope(times, memory) / _MB, 2) if long_enough else None,
            "descriptors": self.descriptors[-1],
            "most_descriptors": max(self.descriptors),
            "descriptors_an_hour": round(slope(times, descriptors), 2) if long_enough else None,
        }


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Return by how much values grow in an hour, as the line through them has it."""
    return statistics.linear_regression(times, values).slope * 3600


class Watch:
    """Looks at all processes of a mesh; one that was started again is another life."""

    def __init__(self, mesh: ChaosMesh) -> None:
        self._mesh = mesh
        self._processes: dict[int, psutil.Process] = {}
        self.lives: dict[int, Life] = {}

    def look(self, now: float) -> None:
        """Note how things stand."""
        for name in self._mesh.keeper.names():
            pid = self._mesh.pid(name)
            with contextlib.suppress(psutil.Error):
                process = self._processes.get(pid) or self._processes.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    memory, descriptors = process.memory_info().rss, process.num_fds()
                life = self.lives.setdefault(pid, Life(name, pid))
                life.times.append(now)
                life.memory.append(memory)
                life.descriptors.append(descriptors)

    def report(self) -> list[dict[str, Any]]:
        """Return the figures of each process that lived longest under its name."""
        longest: dict[str, Life] = {}
        for life in self.lives.values():
            held = longest.get(life.name)
            if held is None or life.times[-1] - life.times[0] > held.times[-1] - held.times[0]:
                longest[life.name] = life
        return [longest[name].report() for name in sorted(longest)]


def leftovers(mesh: ChaosMesh, seconds: float = 10.0) -> list[str]:
    """Return what brokers still hold of jobs although nobody asks anything; wait for it to go."""
    found: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = [line for region in REGIONS for line in _held(region, mesh.status(region))]
        if not found:
            return []
        time.sleep(0.2)
    return found


def _held(region: str, status: dict[str, Any] | None) -> list[str]:
    if status is None:
        return [f"the broker of {region} does not answer"]
    numbers = {
        "outstanding": status["outstanding"],
        "queue": sum(status["queue"][name] for name in ("own", "again", "spilled")),
        "inflight": sum(worker["inflight"] for worker in status["workers"]),
    }
    return [f"{region}: {name} {number}" for name, number in numbers.items() if number]
