"""The tour: six steps that show what a mesh can do, each of which checks its own claims."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from mesh import AsyncClient, Client
from mesh.errors import MeshError
from mesh.local.running import LocalMesh, Status
from mesh.local.scan import Scan
from mesh.local.witness import Witness
from mesh.model import Page, Place

NEW_YORK = (-73.99, 40.73)
#: Where Delaware (south) meets Pennsylvania and New Jersey (ne).
BORDER, BORDER_RADIUS = (-75.45, 39.80), 8_000
#: Around Cincinnati, where Ohio and Indiana (mw) meet Kentucky (south).
CORNERS = ((-84.95, 38.95), (-84.25, 38.95), (-84.15, 39.30), (-84.90, 39.35), (-84.95, 38.95))
AUSTIN = (-97.74, 30.27)
BURST = 240
STEADY = 24
#: How long the mesh may take to notice that something is back.
BACK_SECONDS = 20.0
_SHOWN = 5
_SHOWN_ROWS = 8


class Claim(NamedTuple):
    """What a step says it has shown, and whether it has."""

    text: str
    holds: bool


Step = Callable[[], Iterable[Claim]]


class Tour:
    """Takes the steps and shows them.

    Args:
        mesh: a mesh that is up and loaded.
        console: where to show them.
        began: when the program started, for the time to the first answer.

    """

    def __init__(self, mesh: LocalMesh, console: Console, began: float) -> None:
        self._mesh, self._console, self._began = mesh, console, began
        self._scan = Scan(mesh.places)
        self._client = Client(mesh.brokers["ne"], timeout=10.0, cache_dir=mesh.cache)
        self._first_answer: float | None = None

    def run(self) -> list[str]:
        """Take all steps; return the titles of those that did not give what they should."""
        steps: dict[str, Step] = {
            "the nearest places in New York": self.nearest,
            "a circle across the border of two regions": self.border,
            "an area": self.polygon,
            "a burst that spills": self.burst,
            "a worker killed in the middle of a request": self.kill_worker,
            "a broker stopped, its places still there": self.stop_broker,
        }
        with self._client:
            failed = [title for number, title in enumerate(steps, 1) if not self._take(number, title, steps[title])]
        total = len(steps)
        self._say(f"\n{total - len(failed)} of {total} steps gave what they should.")
        return failed

    # -- the steps -------------------------------------------------------------------------------------------------

    def nearest(self) -> Iterable[Claim]:
        """Ask for the nearest places in New York."""
        lon, lat = NEW_YORK
        self._call(f"client.nearest(lon={lon}, lat={lat}, limit={_SHOWN})")
        with Witness(self._mesh) as seen:
            page = self._timed(lambda: self._client.nearest(lon=lon, lat=lat, limit=_SHOWN))
        self._show(page, seen)
        self._say(f"  first answer {self._first_answer:.1f} s after the start")
        yield self._same(page, self._scan.nearest(lon, lat, _SHOWN))
        yield Claim("ne answered it alone", set(seen.served_by_region()) == {"ne"})

    def border(self) -> Iterable[Claim]:
        """Ask for a circle that two regions share."""
        lon, lat = BORDER
        self._call(f"client.within_radius(lon={lon}, lat={lat}, radius={BORDER_RADIUS:_}, limit=1000)")
        with Witness(self._mesh) as seen:
            page = self._timed(lambda: self._client.within_radius(lon=lon, lat=lat, radius=BORDER_RADIUS, limit=1000))
        self._show(page, seen)
        held = Counter(place.region for place in page)
        yield self._same(page, self._scan.within_radius(lon, lat, BORDER_RADIUS))
        yield Claim(f"asked {' and '.join(page.asked_regions)}", set(page.asked_regions) == {"ne", "south"})
        yield Claim(f"merged {_list(held)}", set(held) == {"ne", "south"})

    def polygon(self) -> Iterable[Claim]:
        """Ask for the places in an area."""
        area = {"type": "Polygon", "coordinates": [[list(corner) for corner in CORNERS]]}
        self._call(f"client.within_polygon({area}, limit=1000)")
        with Witness(self._mesh) as seen:
            page = self._timed(lambda: self._client.within_polygon(area, limit=1000))
        self._show(page, seen)
        yield self._same(page, self._scan.within_polygon(CORNERS))
        yield Claim(f"merged {_list(Counter(place.region for place in page))}", not page.partial)

    def burst(self) -> Iterable[Claim]:
        """Ask one broker for more than its workers can do at once."""
        self._call(f"asyncio.gather(*[client.nearest(lon=..., lat=..., limit=3) for _ in range({BURST})])  # all at ne")
        with Witness(self._mesh) as seen:
            start = time.monotonic()
            pages = asyncio.run(self._ask_at_once(BURST, self._nothing))
            seconds = time.monotonic() - start
        spilled = seen.spilled("ne")
        self._say(f"  {BURST} answers in {seconds:.2f} s")
        self._table(
            ("region", "answers", "spilled to it by ne"),
            [(name, str(number), str(spilled.get(name, ""))) for name, number in seen.served_by_region().most_common()],
        )
        yield from self._all_right(pages)
        yield Claim(f"ne spilled {sum(spilled.values())} to {', '.join(spilled) or 'nobody'}", bool(spilled))
        yield Claim("ne served the rest itself", seen.served_by_region()["ne"] > 0)

    def kill_worker(self) -> Iterable[Claim]:
        """Kill a worker that has a job."""
        victim = int(self._mesh.pids("ne")["workers"][0])
        self._call(f"os.kill({victim}, SIGKILL)  # worker 1 of ne, while it has one of {STEADY} requests")
        with Witness(self._mesh) as seen:
            # Stopped first, it cannot finish the job before the kill.
            os.kill(victim, signal.SIGSTOP)
            held: list[int] = []
            pages = asyncio.run(self._ask_at_once(STEADY, lambda client: self._kill(client, victim, held)))
        lost, again = seen.counted("ne", "workers_lost"), seen.counted("ne", "requeued")
        self._served(seen)
        yield Claim(f"it was killed with {held[0]} request in hand", held[0] > 0)
        yield from self._all_right(pages)
        yield Claim(f"ne lost {lost} worker and gave {again} request to another", bool(lost and again))
        self._mesh.wait_ready(BACK_SECONDS)
        fresh = self._mesh.pids("ne")["workers"][0]
        yield Claim(f"a new worker 1 runs (pid {fresh})", fresh != victim)

    def stop_broker(self) -> Iterable[Claim]:
        """Stop a broker and ask for its places."""
        lon, lat = AUSTIN
        self._call(f"SIGTERM to the broker of sw; then, at ne: client.nearest(lon={lon}, lat={lat})")
        self._mesh.stop("broker-sw")
        try:
            with Witness(self._mesh) as seen:
                page = self._timed(lambda: self._client.nearest(lon=lon, lat=lat, limit=_SHOWN))
        finally:
            self._mesh.resume("broker-sw")
        self._show(page, seen)
        yield Claim("the broker of sw was down", seen.missing("sw"))
        yield self._same(page, self._scan.nearest(lon, lat, _SHOWN))
        yield Claim("places in Texas, read from sw's shard by ne", _all_in(page, self._scan.of_state("TX"))
                    and set(seen.served_by_region()) == {"ne"})  # fmt: skip
        self._mesh.wait_ready(BACK_SECONDS)
        with Witness(self._mesh) as seen:
            page = self._client.nearest(lon=lon, lat=lat, limit=_SHOWN)
        yield Claim("the broker of sw is back and serves them itself", set(seen.served_by_region()) == {"sw"})

    # -- asking ----------------------------------------------------------------------------------------------------

    def _timed(self, ask: Callable[[], Page]) -> Page:
        start = time.monotonic()
        page = ask()
        now = time.monotonic()
        if self._first_answer is None:
            self._first_answer = now - self._began
        self._say(f"  {len(page)} places in {(now - start) * 1000:.1f} ms")
        return page

    async def _ask_at_once(
        self, number: int, meanwhile: Callable[[AsyncClient], "asyncio.Future[None] | asyncio.Task[None]"]
    ) -> list[tuple[float, float, Page | BaseException]]:
        """Ask *number* questions around New York at the same time, and do something *meanwhile*."""
        spots = [(NEW_YORK[0] - n % 20 / 50, NEW_YORK[1] + n // 20 / 50) for n in range(number)]
        async with AsyncClient(self._mesh.brokers["ne"], timeout=15.0, cache_dir=self._mesh.cache) as client:
            await client.regions()  # fetched before, so that nothing but questions counts
            other = meanwhile(client)
            asks = [client.nearest(lon=lon, lat=lat, limit=3) for lon, lat in spots]
            answers = await asyncio.gather(*asks, return_exceptions=True)
            await other
        return [(lon, lat, answer) for (lon, lat), answer in zip(spots, answers, strict=True)]

    @staticmethod
    def _nothing(_client: AsyncClient) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    @staticmethod
    def _kill(client: AsyncClient, victim: int, held: list[int]) -> "asyncio.Task[None]":
        """Kill the worker as soon as the broker says that it has a job; note how many it had."""

        async def watch() -> None:
            until = time.monotonic() + 0.8  # after a second of silence the broker gives it up unasked
            number = 0
            while not number and time.monotonic() < until:
                number = _inflight(await client.status())
            os.kill(victim, signal.SIGKILL)
            held.append(number)

        return asyncio.get_running_loop().create_task(watch())

    # -- claims ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _same(page: Page, expected: Sequence[str]) -> Claim:
        return Claim(f"the same {len(expected)} as a scan over all places", [place.id for place in page] == [*expected])

    def _all_right(self, answers: Sequence[tuple[float, float, Page | BaseException]]) -> Iterable[Claim]:
        errors = [answer for _, _, answer in answers if isinstance(answer, BaseException)]
        why = f" ({errors[0]})" if errors else ""
        yield Claim(f"{len(answers) - len(errors)} of {len(answers)} were answered{why}", not errors)
        right = [
            isinstance(page, Page) and [place.id for place in page] == self._scan.nearest(lon, lat, 3)
            for lon, lat, page in answers
        ]
        yield Claim("each as a scan over all places has it", all(right))

    # -- showing ---------------------------------------------------------------------------------------------------

    def _take(self, number: int, title: str, step: Step) -> bool:
        """Take a step, show what it claims, and return whether all of that holds."""
        self._say(f"\n[bold]{number}. {title}[/]")
        good = True
        try:
            for claim in step():
                self._say(f"  [green]✔[/] {claim.text}" if claim.holds else f"  [red]✘ {claim.text}[/]")
                good = good and claim.holds
        except MeshError as error:
            self._say(f"  [red]✘ {error}[/]")
            return False
        return good

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _call(self, text: str) -> None:
        self._console.print(f"  > {text}", style="cyan", markup=False, soft_wrap=True)

    def _show(self, page: Page, seen: Witness) -> None:
        rows = [_row(place) for place in page.places[:_SHOWN_ROWS]]
        more = len(page) - len(rows)
        self._table(("name", "state", "region", "distance"), rows + ([(f"... {more} more", "", "", "")] * (more > 0)))
        self._served(seen)

    def _served(self, seen: Witness) -> None:
        self._say(f"  served by {_list(seen.served()) or 'nobody'}")

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(*columns, box=None, pad_edge=True, header_style="dim")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)


def _row(place: Place) -> tuple[str, str, str, str]:
    far = "" if place.distance is None else f"{place.distance / 1000:.2f} km"
    return str(place.properties.get("name")), str(place.properties.get("state")), place.region, far


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{name} x{number}" for name, number in sorted(counts.items()))


def _inflight(status: Status) -> int:
    return sum(int(worker["inflight"]) for worker in status["workers"] if worker["instance"] == "1")


def _all_in(page: Page, ids: set[str]) -> bool:
    return bool(page.places) and not page.partial and {place.id for place in page} <= ids
