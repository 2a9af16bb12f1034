"""The region map as a configuration sees it: bytes, and the names in it; no geometry, so no geometry library."""

from pathlib import Path

import msgspec

from mesh.config.load import region_map_path
from mesh.config.schema import Config
from mesh.errors import ConfigError


def region_map(config: Config, file: str | Path) -> tuple[bytes, tuple[str, ...]]:
    """Return the map and its regions; `ConfigError` if it cannot be read or lacks a region of the configuration."""
    path = region_map_path(config, file)
    data, names = _read(path)
    for name in (config.region, *config.peers):
        if name not in names:
            hint = f"the map has {', '.join(names)}"
            raise ConfigError(f"the region map has no region {name!r}", file=str(file), field="mesh.map", hint=hint)
    return data, names


def _read(path: Path) -> tuple[bytes, tuple[str, ...]]:
    try:
        data = path.read_bytes()
        return data, tuple(feature["id"] for feature in msgspec.json.decode(data)["features"])
    except OSError as error:
        message = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise ConfigError(message, file=str(path), hint="set mesh.map") from None
    except (msgspec.DecodeError, KeyError, TypeError):
        raise ConfigError("is no region map", file=str(path), hint="a GeoJSON FeatureCollection with ids") from None
