"""Read a configuration file, or say in one line what is wrong with it."""

import hashlib
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from mesh.config import schema
from mesh.config.check import check
from mesh.config.schema import Config
from mesh.errors import ConfigError

if sys.version_info >= (3, 12):  # tomllib of 3.11 is as good, but tomli reports more
    import tomllib
else:
    import tomli as tomllib

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]+)`(?: - at `\$\.?(?P<path>[^`]*)`)?")
_FAULT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_TABLES: dict[str, type[msgspec.Struct]] = {
    "": Config,
    "mesh": schema.Mesh,
    "broker": schema.Broker,
    "worker": schema.Worker,
    "peers[...]": schema.Peer,
    "shards[...]": schema.Shard,
}


def load(path: str | Path) -> Config:
    """Return the checked configuration; raises `ConfigError` with file, field and hint."""
    file = str(path)
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        hint = "give the path of a mesh.toml with --config"
        raise ConfigError(f"cannot be read: {_lower(error.strerror or str(error))}", file=file, hint=hint) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 (byte {error.start})", file=file) from None
    return parse(text, file)


def parse(text: str, file: str = "mesh.toml") -> Config:
    """Return the checked configuration in *text*; *file* is named in errors, and paths in it are relative to it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {_lower(str(error))}", file=file) from None
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise _explain(str(error), document, file) from None
    check(config, file)
    return config


def digest(path: str | Path) -> str:
    """Return twelve hexadecimal digits that name the content of a configuration file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def region_map_path(config: Config, file: str | Path) -> Path:
    """Return where the region map is: as configured, or the one shipped with the package."""
    if config.mesh.map:
        return Path(file).resolve().parent / config.mesh.map
    return shipped("regions.geojson")


def shipped(name: str) -> Path:
    """Return a file that comes with the package, or that stands in the source tree when run from there."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "data" / name
    if inside.exists():
        return inside
    return package.parent / ("inventory" if name.endswith(".geojson") else "") / name


def _explain(text: str, document: dict[str, Any], file: str) -> ConfigError:
    """Turn msgspec's words into a line with the key, and for an unknown key the nearest one that exists."""
    unknown = _UNKNOWN.match(text)
    if unknown:
        key, path = unknown["key"], unknown["path"] or ""
        valid = _TABLES[path].__struct_fields__
        near = get_close_matches(key, valid, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"valid keys: {', '.join(valid)}"
        return ConfigError(
            "there is no such key", file=file, field=_dotted(_owner(path, key, document), key), hint=hint
        )
    fault = _FAULT.match(text)
    what, path = (fault["what"], fault["path"] or "") if fault else (text, "")
    return ConfigError(_lower(what), file=file, field=path or None)


def _owner(path: str, key: str, document: dict[str, Any]) -> str:
    """Find which table `[...]` stands for: the one that has the key."""
    if not path.endswith("[...]"):
        return path
    family = path.removesuffix("[...]")
    for name, table in document.get(family, {}).items():
        if key in table:
            return f"{family}.{name}"
    return family


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
