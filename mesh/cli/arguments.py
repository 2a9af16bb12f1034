"""Reading what stands on mesh-client's command line beyond single values."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.errors import InvalidRequest

# -- options of several commands --------------------------------------------------------------------------------------

Lon = Annotated[float, typer.Option("--lon", help="Longitude in degrees.", show_default=False)]
Lat = Annotated[float, typer.Option("--lat", help="Latitude in degrees.", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", "-n", help="Places in a page, 1 to 1,000.")]
WhereText = Annotated[
    str | None, typer.Option("--where", "-w", help="Filter: 'population>=10000 and state=NY', or JSON.")
]
After = Annotated[str | None, typer.Option("--after", help="`next` of the page before.")]
All = Annotated[bool, typer.Option("--all", help="Follow all pages.")]
RequireAll = Annotated[bool, typer.Option("--require-all", help="Fail if a region does not answer.")]
Id = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
GeometryText = Annotated[
    str, typer.Argument(metavar="GEOJSON", help="A file, - for standard input, or the JSON itself.", show_default=False)
]

# The options that all commands share, as people expect to find them on either side of the command.
_SHARED = {"--broker": 1, "-b": 1, "--format": 1, "-f": 1, "--timeout": 1, "-t": 1}


def hoist(arguments: list[str]) -> list[str]:
    """Return the arguments with the shared options in front, so that they may also stand after the command."""
    front, rest = [], []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in _SHARED:
            front += [word, *[value for value in (next(words, None),) if value is not None]]
        elif word.partition("=")[0] in _SHARED:
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def read_json(text: str, field: str) -> Any:
    """Return the JSON that an argument is, or names as a file, or that stands on standard input (-)."""
    try:
        if text.lstrip().startswith(("{", "[")):
            return json.loads(text)
        return json.loads(sys.stdin.read() if text == "-" else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        hint = "give a file, - for standard input, or the JSON itself"
        raise InvalidRequest(f"cannot read {text!r}: {error.strerror}", field=field, hint=hint) from None
    except ValueError as error:
        raise InvalidRequest(f"not JSON: {error}", field=field) from None


def geometry(text: str) -> Any:
    """Return the geometry an argument gives; a FeatureCollection of one Feature means that Feature."""
    document = read_json(text, "GEOJSON")
    features = document.get("features") if isinstance(document, dict) else None
    if isinstance(features, list) and len(features) == 1:
        return features[0]
    return document
