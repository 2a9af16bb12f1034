"""mesh-store: prepare, inspect and serve the places of a region."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mesh.cli.shards import access
from mesh.config.load import load
from mesh.errors import ConfigError, StoreError
from mesh.model import Count
from mesh.service import lifecycle
from mesh.store.access import ANYBODY, Access
from mesh.store.memory import MemoryStore
from mesh.store.mongo import MongoStore
from mesh.store.open import open_store
from mesh.store.served import serve as serve_store

app = typer.Typer(add_completion=False, help="Prepare, inspect and serve the places of a region.")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The host's mesh.toml; the shard is that of its region.")
]
UriOption = Annotated[str | None, typer.Option(help="A shard's URI, instead of --config.")]
RegionOption = Annotated[str | None, typer.Option(help="The region; with --config, another one than the host's.")]
DatabaseOption = Annotated[str, typer.Option(help="The database, with --uri.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("ensure-indexes")
def ensure_indexes(
    config: ConfigOption = None,
    uri: UriOption = None,
    region: RegionOption = None,
    database: DatabaseOption = "mesh",
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 if something is missing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create the indexes and validation rules that are missing; name those that differ or are extra, and keep them.

    Exit codes: 0 all is as it should be, 1 failure or an index that differs, 2 usage, 78 wrong configuration.
    """
    with lifecycle.complaints("mesh-store"):
        store = _mongo(*_shard(config, uri, region, database))
        try:
            before = store.compare_indexes() if check else store.ensure_indexes()
        finally:
            store.close()
        _print(msgspec.to_builtins(before), as_json)
        if before.different:
            names = ", ".join(before.different)
            raise StoreError(f"indexes with other options than they should have, left alone: {names}")
        if check and not before.fine:
            raise StoreError("indexes or validation rules are missing")


@app.command()
def stats(
    config: ConfigOption = None,
    uri: UriOption = None,
    region: RegionOption = None,
    database: DatabaseOption = "mesh",
    as_json: JsonOption = False,
) -> None:
    """Print how many places there are, and in MongoDB how many bytes they and their indexes take."""
    with lifecycle.complaints("mesh-store"):
        store = open_store(*_shard(config, uri, region, database))
        try:
            numbers = store.statistics() if isinstance(store, MongoStore) else {"places": store.count(Count())}
        finally:
            store.close()
        _print({"region": store.region, **numbers}, as_json)


@app.command()
def serve(
    listen: Annotated[Path, typer.Option(help="The unix socket to listen on; its URI is memory://PATH.")],
    region: Annotated[str, typer.Option(help="The region whose places these are.")],
) -> None:
    """Keep the places of a region in memory and serve them on a unix socket until SIGTERM or SIGINT.

    They are lost with the process: for trying things out, and for data that somebody else keeps.
    """
    with lifecycle.complaints("mesh-store"):
        serve_store(MemoryStore(region), listen.absolute(), lifecycle.on_stop_signals)


def main() -> None:
    """Run the program."""
    app(prog_name="mesh-store")


def _shard(config: Path | None, uri: str | None, region: str | None, database: str) -> tuple[str, str, str, Access]:
    if (config is None) == (uri is None):
        raise typer.BadParameter("give either --config or --uri", param_hint="--config")
    if uri is not None:
        if region is None:
            raise typer.BadParameter("--uri needs it", param_hint="--region")
        return uri, region, database, ANYBODY
    settings = load(str(config))
    name = region or settings.region
    if name not in settings.shards:
        known = ", ".join(settings.shards) or "none"
        raise ConfigError(f"no shard for region {name}", file=str(config), field="shards", hint=f"there are: {known}")
    shard = settings.shards[name]
    return shard.uri, name, shard.database, access(settings, str(config), name)


def _mongo(uri: str, region: str, database: str, account: Access) -> MongoStore:
    store = open_store(uri, region, database, account)
    if not isinstance(store, MongoStore):
        raise ConfigError("only MongoDB has indexes", field="uri", hint="a memory store needs no preparation")
    return store


def _print(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(document))
        return
    for name, value in document.items():
        print(f"{name}: {_words(value)}")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {held:,}" for name, held in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "as it should be" if value else "was missing or different"
    return f"{value:,}" if isinstance(value, int) else str(value)
