"""mesh-client: ask a mesh from the command line."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli import show
from mesh.cli.arguments import After, All, GeometryText, Id, Lat, Limit, Lon, RequireAll, WhereText, hoist, read_json
from mesh.cli.arguments import geometry as geometry_from
from mesh.cli.show import Format
from mesh.client.sync import Client
from mesh.errors import InvalidRequest, MeshError, NotFound
from mesh.model import Page
from mesh.validate import swapped

NOT_FOUND, TEMPORARY = 3, 75

_HELP = """Ask a mesh of regional brokers where places are.

Any broker answers for the whole country. Longitude comes before latitude, both in degrees; distances are metres.

[bold]Examples[/bold]

  export MESH_BROKER=ne.example.net

  mesh-client nearest --lon -73.99 --lat 40.73

  mesh-client within-radius --lon -77.04 --lat 38.9 --radius 25000 --where 'population>=10000 and kind=city'

  mesh-client within-polygon county.geojson --all --format ndjson > places.ndjson

  mesh-client insert '{"lon": -73.99, "lat": 40.73, "properties": {"name": "here"}}'

  mesh-client load places.csv --upsert
"""
_EPILOG = (
    "Exit codes: 0 done; 1 failed (or rows of a load failed); 2 wrong usage or argument; 3 not found; 75 busy, "
    "unavailable or too late, so that trying again later may help; 130 interrupted. "
    "--broker, --format and --timeout may also stand after the command."
)

app = typer.Typer(
    help=_HELP,
    epilog=_EPILOG,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True)
class Settings:
    """What all commands share."""

    brokers: list[str]
    form: Format
    timeout: float

    def client(self) -> Client:
        """Return a client of the brokers named."""
        if not self.brokers:
            raise InvalidRequest("name a broker", field="--broker", hint="HOST or HOST:PORT, or set $MESH_BROKER")
        return Client(self.brokers, timeout=self.timeout)


_settings = Settings([], Format.TABLE, 5.0)


@app.callback()
def shared(
    broker: Annotated[
        list[str] | None,
        typer.Option(
            "--broker",
            "-b",
            envvar="MESH_BROKER",
            metavar="HOST[:PORT]",
            help="A broker, port 5570 if none is given; repeat it for brokers to try when one is down.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="Default: table on a terminal, geojson in a pipe.", show_default=False),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", "-t", help="Seconds for an answer.")] = 5.0,
) -> None:
    """Take the options of all commands."""
    global _settings  # noqa: PLW0603 - one process, one command
    _settings = Settings(broker or [], form or show.default_format(), timeout)


# -- queries ----------------------------------------------------------------------------------------------------------


@app.command()
def nearest(
    *,
    lon: Lon,
    lat: Lat,
    limit: Limit = 10,
    max_distance: Annotated[float | None, typer.Option("--max-distance", help="Metres; no bound if absent.")] = None,
    where: WhereText = None,
    after: After = None,
    follow: All = False,
    require_all: RequireAll = False,
) -> None:
    """Show the places nearest to a position.

    mesh-client nearest --lon -73.99 --lat 40.73 --limit 5 --where 'population>=10000'
    """
    paging = {"limit": limit, "where": where, "after": after, "require_all": require_all}
    _pages("nearest", follow, lon=lon, lat=lat, max_distance=max_distance, **paging)


@app.command()
def within_radius(
    *,
    lon: Lon,
    lat: Lat,
    radius: Annotated[float, typer.Option("--radius", "-r", help="Metres.", show_default=False)],
    limit: Limit = 100,
    where: WhereText = None,
    after: After = None,
    follow: All = False,
    require_all: RequireAll = False,
) -> None:
    """Show the places at most RADIUS metres away, nearest first.

    mesh-client within-radius --lon -77.04 --lat 38.9 --radius 25000
    """
    paging = {"limit": limit, "where": where, "after": after, "require_all": require_all}
    _pages("within_radius", follow, lon=lon, lat=lat, radius=radius, **paging)


@app.command()
def within_box(
    *,
    west: Annotated[float, typer.Option("--west", help="Degrees.", show_default=False)],
    south: Annotated[float, typer.Option("--south", help="Degrees.", show_default=False)],
    east: Annotated[float, typer.Option("--east", help="Degrees.", show_default=False)],
    north: Annotated[float, typer.Option("--north", help="Degrees.", show_default=False)],
    limit: Limit = 100,
    where: WhereText = None,
    after: After = None,
    follow: All = False,
    require_all: RequireAll = False,
) -> None:
    """Show the places in a box; west > east crosses 180 degrees.

    mesh-client within-box --west -74.3 --south 40.5 --east -73.7 --north 40.9
    """
    paging = {"limit": limit, "where": where, "after": after, "require_all": require_all}
    _pages("within_box", follow, west=west, south=south, east=east, north=north, **paging)


@app.command()
def within_polygon(
    geometry: GeometryText,
    *,
    limit: Limit = 100,
    where: WhereText = None,
    after: After = None,
    follow: All = False,
    require_all: RequireAll = False,
) -> None:
    """Show the places whose position lies in a Polygon or MultiPolygon.

    mesh-client within-polygon county.geojson
    """
    paging = {"limit": limit, "where": where, "after": after, "require_all": require_all}
    _pages("within_polygon", follow, geometry=geometry_from(geometry), **paging)


@app.command()
def intersects(
    geometry: GeometryText,
    *,
    limit: Limit = 100,
    where: WhereText = None,
    after: After = None,
    follow: All = False,
    require_all: RequireAll = False,
) -> None:
    """Show the places whose geometry has a point in common with the given one.

    mesh-client intersects '{"type": "LineString", "coordinates": [[-74.1, 40.6], [-73.9, 40.8]]}'
    """
    paging = {"limit": limit, "where": where, "after": after, "require_all": require_all}
    _pages("intersects", follow, geometry=geometry_from(geometry), **paging)


@app.command()
def find(
    *,
    where: WhereText = None,
    limit: Limit = 100,
    after: After = None,
    follow: All = False,
    require_all: RequireAll = False,
) -> None:
    """Show the places whose properties match, wherever they are.

    mesh-client find --where 'state=NY and population>=100000'
    """
    _pages("find", follow, limit=limit, where=where, after=after, require_all=require_all)


@app.command()
def count(where: WhereText = None) -> None:
    """Show how many places match.

    mesh-client count --where 'state=NY'
    """
    with _settings.client() as client:
        show.value("count", client.count(where), _settings.form)


@app.command()
def get(ids: Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)]) -> None:
    """Show one place, or several, by id."""
    with _settings.client() as client:
        if len(ids) == 1:
            show.place(client.get(ids[0]), _settings.form)
            return
        found = client.get_many(ids)
    show.page(found, _settings.form)
    show.follow(found, _settings.form)
    missing = set(ids) - {place.id for place in found}
    if missing and not found.partial:
        raise NotFound(f"no region holds {', '.join(sorted(missing))}")


# -- writes -----------------------------------------------------------------------------------------------------------


@app.command()
def insert(
    place: GeometryText,
    upsert: Annotated[bool, typer.Option("--upsert", help="Replace a place with the same id.")] = False,
) -> None:
    """Store a place: a GeoJSON Feature, or {"lon": ..., "lat": ..., "id": ..., "properties": {...}}.

    mesh-client insert '{"lon": -73.99, "lat": 40.73, "properties": {"name": "here"}}'
    """
    document = read_json(place, "GEOJSON")
    with _settings.client() as client:
        stored = client.upsert(document) if upsert else client.insert(document)
    show.place(stored, _settings.form)


@app.command()
def update(
    id: Id,  # noqa: A002
    patch: Annotated[str, typer.Argument(metavar="JSON", help="Properties to set; null removes.", show_default=False)],
) -> None:
    """Change some properties of a place and keep the others.

    mesh-client update ne:4f1c '{"population": 5, "old_name": null}'
    """
    with _settings.client() as client:
        show.place(client.update(id, read_json(patch, "JSON")), _settings.form)


@app.command()
def move(
    id: Id,  # noqa: A002
    lon: Lon,
    lat: Lat,
    timestamp: Annotated[
        float | None, typer.Option("--timestamp", help="When it was measured, seconds since 1970; default now.")
    ] = None,
) -> None:
    """Set a place's position; an older measurement than the stored one changes nothing.

    mesh-client move truck-7 --lon -73.99 --lat 40.73
    """
    with _settings.client() as client:
        show.place(client.move(id, lon=lon, lat=lat, timestamp=timestamp), _settings.form)


@app.command()
def delete(id: Id) -> None:  # noqa: A002
    """Remove a place."""
    with _settings.client() as client:
        client.delete(id)
    show.value("deleted", id, _settings.form)


@app.command()
def load(
    file: Annotated[
        Path, typer.Argument(help=".geojson, .ndjson or .csv.", exists=True, dir_okay=False, show_default=False)
    ],
    upsert: Annotated[bool, typer.Option("--upsert", help="Replace places with the same id.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted load stopped.")] = False,
) -> None:
    """Store a file of places, however large.

    GeoJSON FeatureCollections, one Feature or place in a line (.ndjson), or CSV with columns lon and lat (or longitude
    and latitude), id if there is one, and properties: whole numbers, decimals and true/false are taken as such, 007 and
    the rest as text. Rows that fail are written to FILE.errors.ndjson with their number and the reason. Without ids,
    a resumed load may store the rows of one batch twice.
    """
    from mesh.cli.loading import run  # noqa: PLC0415 - progress bars and readers only when needed

    with _settings.client() as client:
        failed = run(client, file, upsert=upsert, resume=resume, timeout=max(60.0, _settings.timeout))
    raise typer.Exit(1 if failed else 0)


# -- the mesh itself --------------------------------------------------------------------------------------------------


@app.command()
def regions() -> None:
    """Show the region map: names as a table, borders as GeoJSON."""
    with _settings.client() as client:
        show.regions(client.regions(), _settings.form)


@app.command()
def status() -> None:
    """Show what the broker says of itself: workers, peers, queue, counters."""
    with _settings.client() as client:
        show.status(client.status(), _settings.form)


@app.command()
def ping(
    count: Annotated[int, typer.Option("--count", "-c", min=1, help="How often, one second apart.")] = 1,
) -> None:
    """Show how long a message takes to the broker and back."""
    with _settings.client() as client:
        for turn in range(count):
            if turn:
                time.sleep(1.0)
            milliseconds = round(client.ping() * 1000, 3)
            table = _settings.form is Format.TABLE
            show.value("milliseconds", f"{milliseconds} ms" if table else milliseconds, _settings.form)


# -- inside -----------------------------------------------------------------------------------------------------------


def _pages(query: str, follow: bool, **arguments: Any) -> None:
    form = _settings.form
    arguments["require_all"] = arguments["require_all"] or None
    with _settings.client() as client:
        ask: Callable[..., Page] = getattr(client, query)
        page = ask(**arguments)
        if follow and form is not Format.NDJSON:
            page = _rest(ask, arguments, page)
        show.page(page, form)
        while follow and page.next:  # one at a time, so that a pipe of any length needs no memory
            page = ask(**arguments | {"after": page.next})
            show.page(page, form)
        if "lon" in arguments and (hint := swapped(arguments["lon"], arguments["lat"], client.regions())):
            show.note(hint)
    show.follow(page, form)


def _rest(ask: Callable[..., Page], arguments: dict[str, Any], page: Page) -> Page:
    pages = [page]
    while pages[-1].next:
        pages.append(ask(**arguments | {"after": pages[-1].next}))
    return show.joined(pages)


def _exit_code(error: MeshError) -> int:
    if isinstance(error, NotFound):
        return NOT_FOUND
    if isinstance(error, InvalidRequest):
        return 2
    return TEMPORARY if error.retryable else 1


def main() -> None:
    """Run mesh-client."""
    try:
        app(args=hoist(sys.argv[1:]), prog_name="mesh-client")
    except MeshError as error:
        show.note(" ".join(str(error).split()))
        sys.exit(_exit_code(error))
    except BrokenPipeError:
        # Whoever read us has gone (`| head`): no more output, and no complaint at exit either.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
