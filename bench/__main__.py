"""Run the benchmarks: `make bench`, or `python -m bench [--check] [--only NAME]`."""

import argparse
import platform
from collections.abc import Callable
from importlib.metadata import version

import zmq
from rich.console import Console

from bench import nearest, routing, start
from bench.report import Figure, check, show

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "routing": routing.measure,
    "nearest": nearest.measure,
    "start": start.measure,
}


def main() -> None:
    """Measure what was asked for and print it; exit 0 whatever the figures say, since machines differ."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the mesh beside its rivals.")
    parser.add_argument("--check", action="store_true", help="print one line a target instead of a table")
    parser.add_argument("--only", choices=BENCHMARKS, help="run one benchmark")
    arguments = parser.parse_args()
    console = Console(stderr=arguments.check)
    console.print(f"[dim]{_machine()}[/]")
    figures: list[Figure] = []
    for name, measure in BENCHMARKS.items():
        if arguments.only in {None, name}:
            console.print(f"[dim]measuring {name} ...[/]")
            figures += measure()
    if arguments.check:
        check(figures)
    else:
        show(figures, console)


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyzmq", "pymongo", "msgspec", "shapely"))
    return f"{platform.machine()}, CPython {platform.python_version()}, libzmq {zmq.zmq_version()}, {packages}"


if __name__ == "__main__":
    main()
