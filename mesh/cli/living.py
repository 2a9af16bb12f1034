"""What a broker's and a worker's program have in common: their version, a check, and their life under systemd."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from mesh.config.schema import Config
from mesh.service import credentials, lifecycle
from mesh.service.notify import Notifier, Reporter
from mesh.transport.loop import Loop

PACKAGE = "regional-mesh"


def _print_version(program: str) -> Callable[[bool], None]:
    def show(wanted: bool) -> None:
        if wanted:
            print(program, version(PACKAGE))
            raise typer.Exit

    return show


def version_option(program: str) -> typer.models.OptionInfo:
    """Return the option --version of a program."""
    option: typer.models.OptionInfo = typer.Option(
        "--version", callback=_print_version(program), is_eager=True, help="Print the version and end."
    )
    return option


CheckOption = Annotated[
    bool, typer.Option("--check", help="Check the configuration and the installation, listen nowhere, and end.")
]


def live(loop: Loop, config: Config, describe: Callable[[], str], ready: Callable[[], bool] = lambda: True) -> None:
    """Run the loop until it is told to stop and has drained, and let it tell systemd how it is.

    The status line starts with what was deployed: whoever deploys compares the fingerprint of the running process with
    that of the wanted state, and so finds those that still have to be restarted, whatever events were lost.
    """
    deployed = f"release={config.mesh.release or 'none'} fingerprint={credentials.fingerprint()}"
    report = Reporter(Notifier(), lambda: f"{deployed} {describe()}", ready)
    loop.each_turn, loop.longest_wait = report, report.longest_wait

    def stop() -> None:
        loop.request_drain()
        report.stopping(config.broker.grace)

    lifecycle.on_stop_signals(stop)
    try:
        loop.run()
    finally:
        report.stopped()
