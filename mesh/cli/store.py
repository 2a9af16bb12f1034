"""mesh-store: prepare, inspect, dump, restore and serve the places of a region."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mesh.cli import archiving, choosing, provisioning
from mesh.errors import StoreError
from mesh.model import Count
from mesh.service import lifecycle
from mesh.store.memory import MemoryStore
from mesh.store.mongo import MongoStore
from mesh.store.open import open_store
from mesh.store.served import serve as serve_store

app = typer.Typer(add_completion=False, help="Prepare, inspect, dump, restore and serve the places of a region.")


@app.command("ensure-indexes")
def ensure_indexes(
    *,
    config: choosing.Config = None,
    uri: choosing.Uri = None,
    region: choosing.Region = None,
    database: choosing.Database = "mesh",
    username: choosing.Username = "",
    auth_database: choosing.AuthDatabase = "",
    ca_file: choosing.CaFile = "",
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 if something is missing.")
    ] = False,
    as_json: choosing.Json = False,
) -> None:
    """Create the indexes and validation rules that are missing; name those that differ or are extra, and keep them.

    Exit codes: 0 all is as it should be, 1 failure or an index that differs, 2 usage, 78 wrong configuration.
    """
    with lifecycle.complaints("mesh-store"):
        given = {"username": username, "auth_database": auth_database, "ca_file": ca_file}
        store = choosing.mongo(choosing.shard(config, uri, region, database, **given))
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
    *,
    config: choosing.Config = None,
    uri: choosing.Uri = None,
    region: choosing.Region = None,
    database: choosing.Database = "mesh",
    username: choosing.Username = "",
    auth_database: choosing.AuthDatabase = "",
    ca_file: choosing.CaFile = "",
    as_json: choosing.Json = False,
) -> None:
    """Print how many places there are, and in MongoDB how many bytes they and their indexes take."""
    with lifecycle.complaints("mesh-store"):
        given = {"username": username, "auth_database": auth_database, "ca_file": ca_file}
        store = open_store(*choosing.shard(config, uri, region, database, **given))
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


app.command()(archiving.dump)
app.command()(archiving.restore)
app.command()(archiving.verify)
app.command()(provisioning.provision)


def main() -> None:
    """Run the program."""
    app(prog_name="mesh-store")


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
