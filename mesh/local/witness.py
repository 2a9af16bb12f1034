"""Who did what: the difference between what all brokers said before and after."""

from collections import Counter
from typing import Self

from mesh.local.running import LocalMesh, Status


class Witness:
    """Watches the brokers' counters while a block runs; a context manager."""

    def __init__(self, mesh: LocalMesh) -> None:
        self._mesh = mesh
        self._before: dict[str, Status | None] = {}
        self._after: dict[str, Status | None] = {}

    def __enter__(self) -> Self:
        self._before = self._mesh.statuses()
        return self

    def __exit__(self, *_: object) -> None:
        self._after = self._mesh.statuses()

    def counted(self, region: str, name: str) -> int:
        """Return by how much a broker's counter rose."""
        return max(0, _counter(self._after[region], name) - _counter(self._before[region], name))

    def missing(self, region: str) -> bool:
        """Return whether a broker said nothing, neither before nor after."""
        return self._before[region] is None and self._after[region] is None

    def served(self) -> Counter[str]:
        """Return how many jobs each worker answered, as `region/instance`."""
        done = _done(self._after)
        done.subtract(_done(self._before))
        return Counter({worker: number for worker, number in done.items() if number > 0})

    def served_by_region(self) -> Counter[str]:
        """Return how many jobs each region's workers answered."""
        regions: Counter[str] = Counter()
        for worker, number in self.served().items():
            regions[worker.partition("/")[0]] += number
        return regions

    def spilled(self, region: str) -> dict[str, int]:
        """Return how many jobs a broker spilled to each peer."""
        before, after = _spilled(self._before[region]), _spilled(self._after[region])
        return {peer: number - before.get(peer, 0) for peer, number in after.items() if number > before.get(peer, 0)}


def _counter(status: Status | None, name: str) -> int:
    return int(status["counters"].get(name, 0)) if status else 0


def _done(statuses: dict[str, Status | None]) -> Counter[str]:
    # A broker that restarted counts anew; its workers' numbers then fall, and count from there.
    found: Counter[str] = Counter()
    for region, status in statuses.items():
        for worker in status["workers"] if status else ():
            found[f"{region}/{worker['instance']}"] += worker["done"]
    return found


def _spilled(status: Status | None) -> dict[str, int]:
    return {peer["region"]: peer["spilled_out"] for peer in status["peers"]} if status else {}
