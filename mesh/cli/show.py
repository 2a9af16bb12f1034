"""How mesh-client shows things: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mesh.model import Page, Place
from mesh.regions import RegionMap

_NAMES = ("name", "title", "label")


class Format(StrEnum):
    """What `--format` takes."""

    TABLE = "table"
    JSON = "json"
    GEOJSON = "geojson"
    NDJSON = "ndjson"


def default_format() -> Format:
    """Return table on a terminal, geojson in a pipe."""
    return Format.TABLE if sys.stdout.isatty() else Format.GEOJSON


def page(found: Page, form: Format) -> None:
    """Show the places of a page, and on stderr what the page lacks."""
    if form is Format.TABLE:
        _places(found.places)
    elif form is Format.NDJSON:
        for each in found.places:
            dump(each.to_geojson())
    else:
        dump(found.to_geojson() if form is Format.GEOJSON else _plain_page(found), indent=2)


def follow(found: Page, form: Format) -> None:
    """Say on stderr what a page lacks: regions that failed, and the places that follow."""
    if found.partial:
        note(f"partial answer: no answer from {', '.join(found.failed_regions)}")
    if found.next and form in {Format.TABLE, Format.NDJSON}:
        note(f"there is more: --after {found.next} or --all")


def place(found: Place, form: Format) -> None:
    """Show one place."""
    if form is Format.TABLE:
        table = Table(show_header=False, box=None, pad_edge=False)
        facts = {"id": found.id, "region": found.region, "lon": found.lon, "lat": found.lat, "version": found.version}
        _rows(table, facts | {"timestamp": found.timestamp} | found.properties)
        Console().print(table)
    elif form is Format.JSON:
        dump(_plain(found), indent=2)
    else:
        dump(found.to_geojson(), indent=2 if form is Format.GEOJSON else None)


def joined(pages: list[Page]) -> Page:
    """Return several pages as one."""
    failed = dict.fromkeys(name for each in pages for name in each.failed_regions)
    asked = dict.fromkeys(name for each in pages for name in each.asked_regions)
    return Page([place for each in pages for place in each], None, bool(failed), tuple(failed), tuple(asked))


def value(name: str, found: Any, form: Format) -> None:
    """Show a single value: bare for people, as `{name: value}` for programs."""
    if form is Format.TABLE:
        print(f"{found:,}" if isinstance(found, int) else found)
    else:
        dump({name: found})


def regions(found: RegionMap, form: Format) -> None:
    """Show the region map: its GeoJSON, or the names."""
    if form is Format.TABLE:
        table = Table("region", "map digest")
        for name in found.names:
            table.add_row(name, found.digest.hex())
        Console().print(table)
    elif form is Format.GEOJSON:
        sys.stdout.write(found.data.decode())
    else:
        dump({"regions": list(found.names), "map_digest": found.digest.hex()})


def status(found: Mapping[str, Any], form: Format) -> None:
    """Show a broker's status; whatever it says is shown, known to this version or not."""
    if form is not Format.TABLE:
        dump(found, indent=2 if form is not Format.NDJSON else None)
        return
    console = Console()
    facts = Table(title=f"broker {found.get('region', '')}", show_header=False)
    _rows(facts, {key: found[key] for key in found if not isinstance(found[key], list | Mapping)})
    console.print(facts)
    for key, part in found.items():
        if isinstance(part, Mapping) and part:
            table = Table(title=key, show_header=False)
            _rows(table, part)
            console.print(table)
        elif isinstance(part, list) and part and isinstance(part[0], Mapping):
            console.print(_matrix(key, part))


def note(text: str) -> None:
    """Say something on stderr, in one line."""
    print(f"mesh-client: {text}", file=sys.stderr)


def dump(document: Any, indent: int | None = None) -> None:
    """Print JSON."""
    print(json.dumps(document, ensure_ascii=False, indent=indent, default=str))


def metres(distance: float | None) -> str:
    """Return a distance as people read it: `812 m`, `12.4 km`."""
    if distance is None:
        return ""
    return f"{distance:,.0f} m" if distance < 10_000 else f"{distance / 1000:,.1f} km"


def _places(places: Iterable[Place]) -> None:
    places = list(places)
    with_distance = any(each.distance is not None for each in places)
    table = Table("name", "id", *(["distance"] if with_distance else []), "region", "lon", "lat")
    for each in places:
        name = next((str(each.properties[key]) for key in _NAMES if key in each.properties), "")
        far = [metres(each.distance)] if with_distance else []
        table.add_row(name, each.id, *far, each.region, f"{each.lon:.5f}", f"{each.lat:.5f}")
    Console().print(table)


def _matrix(title: str, rows: list[Mapping[str, Any]]) -> Table:
    """Return one row for each of *rows*, in columns narrow enough for a terminal: words of a heading stand apart."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for column in columns:
        table.add_column(column.replace("_", "\n"), no_wrap=True)
    for row in rows:
        table.add_row(*[_short(row.get(column, "")) for column in columns])
    return table


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _rows(table: Table, facts: Mapping[str, Any]) -> None:
    for key, fact in facts.items():
        if fact is not None:
            table.add_row(
                str(key), fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False, default=str)
            )


def _plain(each: Place) -> dict[str, Any]:
    names = ("id", "lon", "lat", "properties", "shape", "version", "timestamp", "region", "distance")
    return {name: getattr(each, name) for name in names if getattr(each, name) is not None}


def _plain_page(found: Page) -> dict[str, Any]:
    return {
        "places": [_plain(each) for each in found.places],
        "next": found.next,
        "partial": found.partial,
        "failed_regions": list(found.failed_regions),
        "asked_regions": list(found.asked_regions),
    }
