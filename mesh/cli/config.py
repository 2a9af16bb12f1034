"""mesh-config: look at a configuration before anything runs with it."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mesh.config.load import load
from mesh.config.region_map import region_map
from mesh.service import lifecycle

app = typer.Typer(add_completion=False, help="Look at a configuration before anything runs with it.")


@app.callback()
def _config() -> None:
    """Look at a configuration before anything runs with it."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A mesh.toml.", show_default=False)],
    place: Annotated[
        Path | None, typer.Option("--in", help="The directory it is meant for: relative paths in it start there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checked configuration as JSON.")] = False,
) -> None:
    """Check FILE and the region map it names: say OK, or what is wrong, where, and what to write instead.

    It looks at no socket, no certificate and no secret: what a file needs may come to a host after it.

    Exit codes: 0 OK, 78 wrong.
    """
    with lifecycle.complaints("mesh-config"):
        config = load(file)
        region_map(config, place / file.name if place else file)
        if as_json:
            print(json.dumps(msgspec.to_builtins(config), indent=2))
        else:
            peers = ", ".join(config.peers) or "none"
            print(f"{file}: OK (region {config.region}, peers {peers}, {len(config.shards)} shards)")


def main() -> None:
    """Run the program."""
    app(prog_name="mesh-config")
