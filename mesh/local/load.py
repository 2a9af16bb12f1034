"""Fills a local mesh with places, all regions at the same time, each through its own broker."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from mesh import Client
from mesh.config.load import shipped
from mesh.errors import StoreError
from mesh.model import Draft, RowError
from mesh.regions import RegionMap

#: Places in one call: two bulk writes, so that both workers of a region have one.
CALL_ROWS = 2_000
TIMEOUT_SECONDS = 60.0

Report = Callable[[int], None]


def load(places: Sequence[Draft], brokers: dict[str, str], cache: Path, report: Report) -> None:
    """Store the places; *report* gets the number of those done, as they are. Those already there stay as they are."""
    shares = by_region(places)

    def fill(region: str) -> None:
        with Client(brokers[region], timeout=TIMEOUT_SECONDS, cache_dir=cache) as client:
            for start in range(0, len(shares[region]), CALL_ROWS):
                rows = shares[region][start : start + CALL_ROWS]
                _check(region, client.insert_many(rows).errors)
                report(len(rows))

    together([partial(fill, region) for region in shares])


def by_region(places: Sequence[Draft]) -> dict[str, list[Draft]]:
    """Return the places of each region."""
    regions = RegionMap.load(shipped("regions.geojson"))
    owners = regions.regions_of([place.lon for place in places], [place.lat for place in places])
    shares: dict[str, list[Draft]] = {name: [] for name in regions.names}
    for place, owner in zip(places, owners, strict=True):
        if owner >= 0:
            shares[regions.names[owner]].append(place)
    return shares


def together(tasks: Sequence[Callable[[], None]]) -> None:
    """Run tasks at the same time, each on a thread that holds up nobody's exit; raise the first error there was."""
    ends: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(task: Callable[[], None]) -> None:
        try:
            task()
            ends.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that waits
            ends.put(error)

    for task in tasks:
        threading.Thread(target=run, args=[task], daemon=True).start()
    for _ in tasks:
        error = ends.get()
        if error is not None:
            raise error


def _check(region: str, errors: Sequence[RowError]) -> None:
    refused = [row.error for row in errors if row.error.get("code") != "conflict"]
    if refused:
        raise StoreError(f"{region} refused {len(refused)} places: {refused[0].get('message')}")
