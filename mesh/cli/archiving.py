"""mesh-store dump, restore and verify: bars for people, JSON for programs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mesh.cli import choosing
from mesh.service import lifecycle
from mesh.store import archive
from mesh.store.archive import Header, Report

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", show_default=False)]


def dump(
    file: FileArgument,
    *,
    config: choosing.Config = None,
    uri: choosing.Uri = None,
    region: choosing.Region = None,
    database: choosing.Database = "mesh",
    username: choosing.Username = "",
    auth_database: choosing.AuthDatabase = "",
    ca_file: choosing.CaFile = "",
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    no_snapshot: Annotated[
        bool, typer.Option("--no-snapshot", help="Each place as it is when its turn comes, not all of one moment.")
    ] = False,
    as_json: choosing.Json = False,
) -> None:
    """Write all places of a shard to FILE, as of one moment; it appears when it is complete, for its owner's eyes only.

    The account has to be able to read: mesh_reader, or that of --config.
    """
    with lifecycle.complaints("mesh-store"):
        given = {"username": username, "auth_database": auth_database, "ca_file": ca_file}
        store = choosing.mongo(choosing.shard(config, uri, region, database, **given))
        try:
            with store.all_places() as places, _bar() as bar:
                report = _line(bar, "dump", places.estimated_document_count())
                header = archive.dump(places, store.region, file, report, force=force, snapshot=not no_snapshot)
        finally:
            store.close()
        _tell(file, header, as_json, "dumped")


def restore(
    file: FileArgument,
    *,
    config: choosing.Config = None,
    uri: choosing.Uri = None,
    region: choosing.Region = None,
    database: choosing.Database = "mesh",
    username: choosing.Username = "",
    auth_database: choosing.AuthDatabase = "",
    ca_file: choosing.CaFile = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="If there are places already, remove them for those of FILE.")
    ] = False,
    as_json: choosing.Json = False,
) -> None:
    """Put the places of FILE in the place of those of a shard: all of them, or none.

    Digest and region are checked first. The account has to be able to make and remove collections: mesh_admin, with
    --auth-database admin.
    """
    with lifecycle.complaints("mesh-store"):
        given = {"username": username, "auth_database": auth_database, "ca_file": ca_file}
        store = choosing.mongo(choosing.shard(config, uri, region, database, **given))
        try:
            with store.all_places() as places, _bar() as bar:
                count = archive.read_header(file).count
                reports = _line(bar, "verify", count), _line(bar, "restore", count)
                header = archive.restore(places, store.region, file, *reports, replace=replace)
        finally:
            store.close()
        _tell(file, header, as_json, "restored")


def verify(file: FileArgument, as_json: choosing.Json = False) -> None:
    """Read a dump to its end, and say whether it is what was written."""
    with lifecycle.complaints("mesh-store"):
        with _bar() as bar:
            header = archive.verify(file, _line(bar, "verify", archive.read_header(file).count))
        _tell(file, header, as_json, "verified")


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} places, {task.fields[megabytes]:,.1f} MB"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        yield bar


def _line(bar: Progress, name: str, total: int) -> Report:
    task = bar.add_task(name, total=total, megabytes=0.0)

    def report(count: int, size: int) -> None:
        bar.update(task, completed=count, megabytes=size / 1e6)

    return report


def _tell(file: Path, header: Header, as_json: bool, what: str) -> None:
    if as_json:
        print(msgspec.json.encode(header).decode())
        return
    moment = "of one moment" if header.snapshot else "each as it was when its turn came"
    size = f"{header.bytes / 1e6:,.1f} MB, {file.stat().st_size / 1e6:,.1f} MB in the file"
    print(f"{file}: {what} {header.count:,} places of {header.region} ({moment}, {header.created}; {size})")
