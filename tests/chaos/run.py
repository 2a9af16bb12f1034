"""One run: bring the mesh up, load it, break it by the schedule, let it calm down, read everything back, judge."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh import Client
from mesh.errors import MeshError
from mesh.local import directory
from mesh.local.stores import opened
from mesh.model import Find, Mark, Place
from tests.chaos import checker, faults, hosts, watch
from tests.chaos.beside import beside
from tests.chaos.clients import STILL_EACH, Load, Log
from tests.chaos.history import Seen, seen_of
from tests.chaos.running import ChaosMesh
from tests.chaos.schedule import REGIONS, Fault, plan

#: How long the mesh may take to be whole again after a fault.
RECOVER_SECONDS = 60.0
#: Requests that timed out may still be under way in a store for as long as a worker gives them.
SETTLE_SECONDS = 3.0
_STILL = "still-"
_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    seconds: float = 180.0
    seed: int = 1
    rate: float = 300.0
    #: Instead of *rate*: this part of what the mesh can do.
    load: float | None = None
    kinds: tuple[str, ...] = ()
    workers: int = 2
    overlap: bool = False
    base_port: int = 25_570
    rules: checker.Rules = field(default_factory=checker.Rules)


@dataclass
class Done:
    """A fault that was done: when it really began and ended, and how long the mesh took to be whole again."""

    fault: Fault
    began: float
    healed: float = 0.0
    whole_after: float | None = None
    error: str = ""


@dataclass
class Result:
    """Everything a report needs."""

    options: Options
    rate: float
    log: Log
    verdict: checker.Verdict
    faults: list[Done]
    lacking: dict[str, str]
    resources: list[dict[str, Any]]
    leaks: list[str]
    #: Where the processes' logs were; kept when asked for.
    directory: str = ""
    trouble: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        stuck, wrong = self.log.counts["stuck"], self.log.counts["wrong"]
        return not (self.verdict.violations or self.leaks or self.trouble or self.log.wrong or stuck or wrong)


class Breaker:
    """Does faults by a schedule, on a thread of its own."""

    def __init__(self, mesh: ChaosMesh, log: Log, tell: Callable[[str], None]) -> None:
        self._mesh, self._log, self._tell = mesh, log, tell
        self.done: list[Done] = []
        self._over = threading.Event()
        self._aborted = False

    def run(self, schedule: list[Fault], *, overlap: bool) -> None:
        """Do all faults; one that comes late because the mesh had not recovered shifts those after it."""
        begun = self._log.now()
        threads = []
        for fault in schedule:
            if self._over.wait(max(0.0, begun + fault.at - self._log.now())):
                break
            if overlap:
                threads.append(threading.Thread(target=self._do, args=[fault]))
                threads[-1].start()
            else:
                self._do(fault)
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        """Heal what is broken now, and break nothing more."""
        self._over.set()

    def abort(self) -> None:
        """Stop, and wait for nothing."""
        self._aborted = True
        self.stop()

    def _do(self, fault: Fault) -> None:
        done = Done(fault, self._log.now())
        self.done.append(done)
        self._tell(str(fault))
        try:
            with faults.doing(self._mesh, fault):
                self._over.wait(fault.seconds)
        except Exception as error:  # noqa: BLE001 - told in the report, and the run goes on
            done.error = repr(error)
        done.healed = self._log.now()
        done.whole_after = self._recovered(done.healed)

    def _recovered(self, since: float) -> float | None:
        while self._log.now() - since < RECOVER_SECONDS and not self._aborted:
            if not self._mesh.lacks(timeout=0.5):
                return round(self._log.now() - since, 3)
            time.sleep(0.05)
        return None


def run(options: Options, tell: Callable[[str], None], progress: Callable[[Log, list[Done]], None]) -> Result:
    """Do a whole run."""
    with directory.temporary() as place, hosts.made(place, options.seed, options.base_port) as made:
        tell("starting five mongods, five brokers and their workers ...")
        with ChaosMesh(made, options.workers, tell) as mesh:
            return asyncio.run(_on(mesh, options, tell, progress))


async def _on(
    mesh: ChaosMesh, options: Options, tell: Callable[[str], None], progress: Callable[[Log, list[Done]], None]
) -> Result:
    log = Log()
    load = Load(mesh.brokers, mesh.cache, options.seed, log)
    await load.prepare()
    rate = options.rate
    if options.load:
        capacity = await load.capacity(10.0)
        rate = options.load * capacity
        tell(f"{capacity:.0f} requests a second are all that it can do; {rate:.0f} of them from here on")
        log.samples.clear()
    kinds = [kind for kind in options.kinds if kind not in mesh.hosts.lacking]
    schedule = plan(options.seed, options.seconds, kinds, workers=options.workers, overlap=options.overlap)
    breaker, seen = Breaker(mesh, log, tell), watch.Watch(mesh)
    breaking = asyncio.create_task(asyncio.to_thread(breaker.run, schedule, overlap=options.overlap))

    def look() -> None:
        seen.look(log.now())
        progress(log, breaker.done)

    try:
        with beside(look, watch.LOOK_SECONDS):
            await load.run(rate, options.seconds)
            breaker.stop()
            await breaking
    finally:
        breaker.abort()
        await load.close()
    return await asyncio.to_thread(_judge, mesh, options, rate, log, breaker, seen, tell)


def _judge(
    mesh: ChaosMesh, options: Options, rate: float, log: Log, breaker: Breaker, seen: watch.Watch,
    tell: Callable[[str], None],
) -> Result:  # fmt: skip
    tell("reading everything back ...")
    trouble = [f"after {done.fault}: {done.error or 'the mesh did not recover'}" for done in breaker.done
               if done.error or done.whole_after is None]  # fmt: skip
    try:
        mesh.wait_ready(RECOVER_SECONDS)
    except MeshError as error:
        trouble.append(str(error))
    time.sleep(SETTLE_SECONDS)
    leaks = watch.leftovers(mesh)
    try:
        found, still = stored(mesh)
        less = [f"{region} has {number} of its {STILL_EACH} places" for region, number in still.items()
                if number != STILL_EACH]  # fmt: skip
        verdict = checker.check(log.ops, log.reads, found, said(mesh, log), options.rules)
    except (MeshError, ValueError) as error:
        less, verdict = [f"cannot be read back: {error!r}"], checker.Verdict()
    return Result(
        options=options, rate=rate, log=log, verdict=verdict, faults=breaker.done, lacking=mesh.hosts.lacking,
        resources=seen.report(), leaks=leaks, directory=str(mesh.hosts.directory), trouble=[*trouble, *less],
    )  # fmt: skip


def stored(mesh: ChaosMesh) -> tuple[dict[str, list[Seen]], dict[str, int]]:
    """Return the copies in all shards by key, read past the brokers; and how many places that never change each has."""
    found: dict[str, list[Seen]] = {}
    still = dict.fromkeys(REGIONS, 0)
    for region, mongod in mesh.mongods.items():
        with opened(region, mongod.uri) as store:
            for place in _everything(store.find):
                if place.id.startswith(_STILL):
                    still[region] += 1
                else:
                    found.setdefault(place.id, []).append(seen_of(place))
    return found, still


def _everything(find: Callable[[Find], Any]) -> Iterator[Place]:
    mark = None
    while True:
        page = find(Find(limit=_PAGE, after=mark))
        yield from page.places
        if not page.more:
            return
        mark = Mark(0.0, page.places[-1].id)


def said(mesh: ChaosMesh, log: Log) -> dict[str, Seen]:
    """Return what the mesh says of each key, asked through all brokers in turn."""
    keys = sorted({op.key for op in log.ops})
    found: dict[str, Seen] = {}
    for number, start in enumerate(range(0, len(keys), _PAGE)):
        broker = mesh.brokers[REGIONS[number % len(REGIONS)]]
        with Client(broker, timeout=20.0, cache_dir=mesh.cache, require_all=True) as client:
            found |= {place.id: seen_of(place) for place in client.get_many(keys[start : start + _PAGE])}
    return found
