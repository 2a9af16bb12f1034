"""mesh-local: a whole mesh on this machine."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from mesh.errors import ConfigError
from mesh.local import interrupts, live
from mesh.local.layout import REGIONS, Options
from mesh.local.places import CREDIT
from mesh.local.running import LocalMesh
from mesh.local.tour import Tour
from mesh.service import lifecycle

app = typer.Typer(add_completion=False, help="A whole mesh on this machine: five brokers, their workers, their data.")
_STARTED = time.monotonic()


class Kind(StrEnum):
    """What `--store` takes."""

    MONGO = "mongo"
    MEMORY = "memory"


class Data(StrEnum):
    """What `--load` takes."""

    US = "us"
    NONE = "none"


Workers = Annotated[int, typer.Option(help="Workers of each region.")]
BasePort = Annotated[int, typer.Option(help="Port of ne; south, mw, sw and ca get the four that follow.")]
StoreOption = Annotated[
    Kind | None, typer.Option(help="Where places are kept. [default: mongo, or memory where no mongod can run]")
]
LoadOption = Annotated[Data, typer.Option(help="us: 21,783 places of the United States; none: start empty.")]
DataDir = Annotated[Path | None, typer.Option("--data", help="Keep the places here when the mesh goes.")]
Service = Annotated[str, typer.Option(help="What workers do: places, echo, or sleep:MILLISECONDS.")]
MongodOption = Annotated[Path | None, typer.Option(help="The mongod to run, instead of $MESH_MONGOD or one on PATH.")]


@app.command()
def up(  # noqa: PLR0917 - typer makes options of parameters
    workers: Workers = 2,
    base_port: BasePort = 5570,
    store: StoreOption = None,
    load: LoadOption = Data.US,
    data: DataDir = None,
    service: Service = "places",
    mongod: MongodOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON when the mesh is ready.")] = False,
) -> None:
    """Run a whole mesh until SIGINT or SIGTERM; it leaves no process, socket or directory behind.

    Exit codes: 0 stopped, 1 failure, 2 usage, 78 wrong configuration, such as a port in use.
    """
    options = Options(
        workers=workers, base_port=base_port, store=store, load=load, data=data, service=service, mongod=mongod
    )
    with _running(options, _note) as mesh:
        mesh.start()
        mesh.load(lambda _: None)
        _show_json(mesh) if as_json else _show(mesh, Console())
        while True:
            signal.pause()


@app.command()
def demo(  # noqa: PLR0917
    workers: Workers = 2,
    base_port: BasePort = 5570,
    store: StoreOption = None,
    load: LoadOption = Data.US,
    data: DataDir = None,
    service: Service = "places",
    mongod: MongodOption = None,
    once: Annotated[bool, typer.Option("--once", help="End after the tour.")] = False,
) -> None:
    """Run a whole mesh, load it, take a tour of what it can do, and watch it until SIGINT or SIGTERM.

    Exit codes: 0 every step gave what it should, 1 one did not (it is named), 2 usage, 78 wrong configuration.
    """
    console = Console(highlight=False)
    options = Options(
        workers=workers, base_port=base_port, store=store, load=load, data=data, service=service, mongod=mongod
    )
    with _running(options, lambda line: console.print(f"[yellow]  {line}[/]")) as mesh:
        _check_tour(options)
        console.print(f"Starting five regions: {', '.join(REGIONS)} ...")
        mesh.start()
        _load_with_bar(mesh, console)
        _show(mesh, console)
        failed = Tour(mesh, console, _STARTED).run()
        if failed:
            _note(f"the tour failed at: {', '.join(failed)}")
        if not once:
            live.watch(mesh, console)
    sys.exit(lifecycle.EXIT_FAILURE if failed else 0)


@contextmanager
def _running(options: Options, tell: Callable[[str], None]) -> Iterator[LocalMesh]:
    """Yield a mesh; end the block, and it, at the first SIGINT or SIGTERM. A second one ends this process at once."""
    interrupts.install()
    with lifecycle.complaints("mesh-local"):
        try:
            with LocalMesh(options, tell) as mesh:
                yield mesh
        except KeyboardInterrupt:
            sys.exit(0)


def _note(line: str) -> None:
    sys.stderr.write(f"mesh-local: {line}\n")


def _check_tour(options: Options) -> None:
    if options.service != "places" or options.load == "none":
        raise ConfigError("the tour needs places", field="demo", hint="leave out --service and --load")


def _load_with_bar(mesh: LocalMesh, console: Console) -> None:
    columns = (TextColumn("  loading places"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=len(mesh.places))
        if not mesh.load(lambda rows: bar.advance(task, rows)):
            bar.update(task, completed=len(mesh.places))


def _show_json(mesh: LocalMesh) -> None:
    data = {"places": sum(mesh.counts().values()), "directory": str(mesh.options.data) if mesh.options.data else None}
    document = {
        "brokers": mesh.brokers,
        "data": data,
        "store": mesh.store,
        "pids": {region: mesh.pids(region) for region in REGIONS},
        "directory": str(mesh.layout.directory),
        "seconds": round(time.monotonic() - _STARTED, 2),
    }
    print(json.dumps(document), flush=True)


def _show(mesh: LocalMesh, console: Console) -> None:
    counts = mesh.counts()
    names = ("region", "broker", "store", "places", "broker pid", "worker pids", "store pid")
    table = Table(*names, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for region, endpoint in mesh.brokers.items():
        pids = mesh.pids(region)
        count = f"{counts[region]:,}" if region in counts else "-"
        workers = " ".join(map(str, pids["workers"]))
        table.add_row(region, endpoint.removeprefix("tcp://"), mesh.store or "-", count, str(pids["broker"]), workers,
                      str(pids["store"] or "-"))  # fmt: skip
    console.print(table)
    seconds = time.monotonic() - _STARTED
    console.print(f"Ready after {seconds:.1f} s with {sum(counts.values()):,} places. {CREDIT if counts else ''}")
    console.print("Ask it, from another terminal:\n")
    address = mesh.brokers["ne"].removeprefix("tcp://")
    console.print(f"  mesh-client --broker {address} nearest --lon -73.99 --lat 40.73\n", soft_wrap=True)


def main() -> None:
    """Run the program."""
    app(prog_name="mesh-local")
