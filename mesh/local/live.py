"""A table of the brokers that follows what they do."""

import time
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from mesh.local.running import LocalMesh, Status

#: Seconds between two looks.
LOOK_SECONDS = 0.5
_COLUMNS = ("region", "up", "workers", "busy", "queue", "clients", "asked", "per s", "served", "forward",
            "spill out", "in", "peers", "rtt ms")  # fmt: skip


def watch(mesh: LocalMesh, console: Console) -> None:
    """Show the table until something ends us."""
    console.print("Ctrl-C ends the mesh.")
    earlier: dict[str, int] = {}
    with Live(table(mesh, earlier), console=console, auto_refresh=False) as screen:
        while True:
            time.sleep(LOOK_SECONDS)
            screen.update(table(mesh, earlier), refresh=True)


def table(mesh: LocalMesh, earlier: dict[str, int]) -> Table:
    """Return the table; *earlier* keeps each broker's requests from one look to the next."""
    found = Table(*_COLUMNS, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for region, status in mesh.statuses(timeout=LOOK_SECONDS).items():
        if status is None:
            found.add_row(region, "[red]down[/]")
            earlier.pop(region, None)
        else:
            found.add_row(*_cells(region, status, earlier))
    return found


def _cells(region: str, status: Status, earlier: dict[str, int]) -> list[str]:
    count: dict[str, int] = status["counters"]
    requests = count.get("requests", 0)
    rate = max(0, requests - earlier.get(region, requests)) / LOOK_SECONDS
    earlier[region] = requests
    workers: list[dict[str, Any]] = status["workers"]
    waiting = sum(status["queue"][name] for name in ("own", "again", "spilled"))
    alive = [peer for peer in status["peers"] if peer["serving"] == "open"]
    rtt = max((peer["rtt"] or 0.0 for peer in alive), default=0.0)
    numbers = [
        len(workers), sum(worker["inflight"] for worker in workers), waiting, status["clients"], requests,
        round(rate), *[count.get(name, 0) for name in ("served", "forwarded", "spilled_out", "spilled_in")],
    ]  # fmt: skip
    up = f"{status['uptime']:,.0f} s"
    return [region, up, *[f"{number:,}" for number in numbers], f"{len(alive)}", f"{rtt * 1000:.2f}"]
