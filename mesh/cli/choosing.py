"""mesh-store's options for which shard is meant, and as whom it is asked."""

import dataclasses
import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.shards import access
from mesh.config.load import load
from mesh.errors import ConfigError
from mesh.store.access import ANYBODY, Access
from mesh.store.mongo import MongoStore
from mesh.store.open import open_store

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="The host's mesh.toml; the shard is that of its region.")
]
Uri = Annotated[str | None, typer.Option(help="A shard's URI, instead of --config.")]
Region = Annotated[str | None, typer.Option(help="The region; with --config, another one than the host's.")]
Database = Annotated[str, typer.Option(help="The database, with --uri.")]
Username = Annotated[
    str, typer.Option(help="Another account than that of --config; its password is the first line of standard input.")
]
AuthDatabase = Annotated[str, typer.Option(help="The database of that account, if it is another one (admin).")]
CaFile = Annotated[
    str, typer.Option(help="CA certificates of the servers; the connection is then encrypted. Overrides --config.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Shard = tuple[str, str, str, Access]


def shard(
    config: Path | None, uri: str | None, region: str | None, database: str, *, username: str = "",
    auth_database: str = "", ca_file: str = "",
) -> Shard:  # fmt: skip
    """Return the URI, region, database and account that the options mean."""
    if (config is None) == (uri is None):
        raise typer.BadParameter("give either --config or --uri", param_hint="--config")
    if uri is not None:
        if region is None:
            raise typer.BadParameter("--uri needs it", param_hint="--region")
        chosen: Shard = (uri, region, database, ANYBODY)
    else:
        chosen = _configured(config, region, own=not username)
    account = chosen[3]
    if username:
        account = Access(username, _password(username), account.ca_file, auth_database)
    return (*chosen[:3], dataclasses.replace(account, ca_file=ca_file) if ca_file else account)


def mongo(shard: Shard) -> MongoStore:
    """Return the store of a shard, which has to be a MongoDB."""
    store = open_store(*shard)
    if not isinstance(store, MongoStore):
        raise ConfigError("this works on a MongoDB only", field="uri", hint="a memory store needs no such thing")
    return store


def _configured(config: Path | None, region: str | None, *, own: bool) -> Shard:
    settings = load(str(config))
    name = region or settings.region
    if name not in settings.shards:
        known = ", ".join(settings.shards) or "none"
        raise ConfigError(f"no shard for region {name}", file=str(config), field="shards", hint=f"there are: {known}")
    shard = settings.shards[name]
    return shard.uri, name, shard.database, access(settings, str(config), name, secrets=own)


def _password(username: str) -> str:
    # Never an argument, and never from the environment: both are there for all to see.
    if sys.stdin.isatty():
        return getpass.getpass(f"Password of {username}: ", stream=sys.stderr)
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise ConfigError(f"no password for {username}", field="--username", hint="write it to standard input")
    return password
