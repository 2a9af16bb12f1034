"""Break a whole mesh of real processes while clients write and read, and check every promise: `make chaos`."""

import argparse
import json
import sys
from typing import NoReturn

from rich.console import Console
from rich.live import Live

from tests.chaos import hosts
from tests.chaos.clients import Log
from tests.chaos.report import live, show, to_dict
from tests.chaos.run import Done, Options, Result, run
from tests.chaos.schedule import KINDS, plan


def main() -> NoReturn:
    """Run; exit 0 if every promise was kept, 1 if not, 2 for a wrong command line."""
    arguments = parsed()
    options = Options(
        seconds=arguments.minutes * 60, seed=arguments.seed, rate=arguments.rate, load=arguments.load,
        kinds=arguments.faults, workers=arguments.workers, overlap=arguments.overlap, base_port=arguments.base_port,
    )  # fmt: skip
    if arguments.plan:
        print(*plan(options.seed, options.seconds, options.kinds, workers=options.workers, overlap=options.overlap),
              sep="\n")  # fmt: skip
        sys.exit(0)
    if not arguments.here:
        hosts.enter()
    console = Console(stderr=arguments.json, width=None if sys.stdout.isatty() else 130)
    try:
        result = _run(options, console)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports it; what was made goes with us
    show(result, console)
    if arguments.json:
        print(json.dumps(to_dict(result)))
    sys.exit(0 if result.good else 1)


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long clients ask [3]")
    parser.add_argument(
        "--seed", type=int, default=1, help="which faults, and when; the same seed, the same faults [1]"
    )
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second, a third of them writes [300]")
    parser.add_argument(
        "--load", type=float, help="instead of --rate: a part of what the mesh can do here, such as 0.8"
    )
    parser.add_argument("--faults", type=kinds, default=tuple(KINDS), help="kinds by comma, `all` or `none` [all]")
    parser.add_argument("--workers", type=int, default=2, help="of each region [2]")
    parser.add_argument("--overlap", action="store_true", help="the next fault may begin before the last one ended")
    parser.add_argument("--here", action="store_true", help="all on the loopback: no faults of network and disk")
    parser.add_argument("--base-port", type=int, default=25_570, help="first of 15, where there are no namespaces")
    parser.add_argument("--plan", action="store_true", help="print the faults and do nothing")
    parser.add_argument("--json", action="store_true", help="the report as JSON on standard output, the rest on error")
    return parser.parse_args()


def kinds(text: str) -> tuple[str, ...]:
    """Return the kinds of faults that a text names."""
    if text in {"all", "none"}:
        return tuple(KINDS) if text == "all" else ()
    chosen = tuple(word.strip() for word in text.split(","))
    unknown = [word for word in chosen if word not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no faults {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return chosen


def _run(options: Options, console: Console) -> Result:
    with Live(console=console, refresh_per_second=2, transient=True) as screen:

        def progress(log: Log, faults: list[Done]) -> None:
            screen.update(live(log, faults, options.seconds))

        return run(options, lambda line: console.print(line, highlight=False, style="dim"), progress)


if __name__ == "__main__":
    main()
