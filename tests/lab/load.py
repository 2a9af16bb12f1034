"""Ask brokers for places at a steady rate, whatever they answer, and say in JSON what happened.

Runs as a program of its own in the lab's control namespace. An open loop: request number i is due at start + i/rate and
is sent then, answered earlier ones or not, and its latency counts from when it was due. A mesh that stalls for a second
so shows up as 200 slow requests at 200/s, not as one.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.client.aio import AsyncClient
from mesh.errors import MeshError

#: One place well inside each region, so every broker also forwards.
POINTS = ((-73.99, 40.73), (-84.39, 33.75), (-87.63, 41.88), (-96.8, 32.78), (-118.24, 34.05))
ERRORS_KEPT = 20


@dataclass
class Tally:
    """What became of the requests so far."""

    started: float
    asked: int = 0
    answered: int = 0
    partial: int = 0
    empty: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    first_errors: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, page: Any, seconds: float) -> None:
        """Count an answer."""
        self.answered += 1
        self.partial += bool(page.partial)
        self.empty += not page.places
        self.latencies.append(seconds)

    def fail(self, broker: str, error: Exception, seconds: float) -> None:
        """Count a failure, and keep the first ones whole."""
        self.errors[f"{type(error).__name__}: {error}"] += 1
        if len(self.first_errors) < ERRORS_KEPT:
            at = round(time.monotonic() - self.started, 3)
            told = {"at": at, "broker": broker, "waited": round(seconds, 3), "error": repr(error)}
            self.first_errors.append(told)

    def report(self) -> dict[str, Any]:
        """Return everything as JSON values; latencies in milliseconds."""
        ordered = sorted(self.latencies)
        return {
            "asked": self.asked,
            "answered": self.answered,
            "failed": sum(self.errors.values()),
            "partial": self.partial,
            "empty": self.empty,
            "seconds": round(time.monotonic() - self.started, 3),
            "latency_ms": {name: percentile(ordered, p) for name, p in (("p50", 50), ("p99", 99), ("max", 100))},
            "errors": dict(self.errors.most_common(ERRORS_KEPT)),
            "first_errors": self.first_errors,
        }


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Return the value that *percent* of ordered seconds do not exceed, in milliseconds."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] * 1000, 2)


async def drive(clients: dict[str, AsyncClient], options: argparse.Namespace, stop: asyncio.Event) -> Tally:
    """Ask until the time is over or *stop* is set, then wait for the answers that are due."""
    tally = Tally(time.monotonic())
    names = list(clients)
    pending: set[asyncio.Task[None]] = set()
    for number in range(int(options.rate * options.seconds)):
        due = tally.started + number / options.rate
        if await _stopped(stop, due - time.monotonic()):
            break
        broker = names[number % len(names)]
        point = POINTS[number // len(names) % len(POINTS)]
        task = asyncio.create_task(_ask(clients[broker], broker, point, due, tally, options))
        tally.asked += 1
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    return tally


async def _ask(
    client: AsyncClient,
    broker: str,
    point: tuple[float, float],
    due: float,
    tally: Tally,
    options: argparse.Namespace,
) -> None:
    try:
        page = await client.nearest(
            lon=point[0], lat=point[1], limit=3, timeout=options.timeout, require_all=options.require_all
        )
    except (MeshError, OSError) as error:
        tally.fail(broker, error, time.monotonic() - due)
    else:
        tally.answer(page, time.monotonic() - due)


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
    elif not stop.is_set():
        await asyncio.sleep(0)  # late: let answers in, then catch up
    return stop.is_set()


async def main(options: argparse.Namespace) -> dict[str, Any]:
    """Connect, say `ready` when every broker has answered once, ask, report."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(AsyncClient(name)) for name in options.broker}
        for client in clients.values():
            await client.regions(timeout=options.timeout)
        print("ready", flush=True)
        return (await drive(clients, options, stop)).report()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", action="append", required=True, help="HOST or HOST:PORT; again for another one")
    parser.add_argument("--rate", type=float, default=200, help="requests a second, all brokers together [200]")
    parser.add_argument("--seconds", type=float, default=60, help="ends by itself after this time; SIGTERM ends it too")
    parser.add_argument("--timeout", type=float, default=5, help="seconds for a request with its retries [5]")
    parser.add_argument("--require-all", action="store_true", help="count an answer without a region as a failure")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(parse(sys.argv[1:])))))
