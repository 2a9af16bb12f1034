"""The import law: who may know whom. `docs/architecture.md` draws it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mesh

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mesh"

#: Modules that stand directly in `mesh/`, lowest first; each may import those before it.
VALUES = ("errors", "model", "geo", "geojson", "where", "regions", "validate")

#: Layer -> the layers (or single modules) it may import; every layer may import the values and itself.
MAY_IMPORT = {
    "protocol": set(),
    "core": {"protocol"},
    "store": set(),
    "transport": {"protocol", "core"},
    "config": set(),
    "service": set(),
    "client": {"protocol", "core", "transport"},
    "jobs": {"protocol", "core", "store"},
    "cli": {"protocol", "core", "store", "transport", "config", "service", "client", "jobs", "local"},
    "local": {"protocol", "core", "store", "transport", "config", "service", "client", "jobs"},
    "testing": {"protocol", "core", "store", "transport", "config", "service", "client", "jobs"},
}

#: What decisions must not know.
WORLD = {"time", "datetime", "random", "secrets", "uuid", "socket", "threading", "asyncio", "os", "logging", "select"}

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "data" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names a file imports, `from x import y` as x.y."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide layers"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path: Path):
    """Imports point down, never up and never sideways."""
    own = layer(path)
    if own == "__init__":
        return  # re-exports the public names
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "mesh":
            continue
        other = "client" if parts[1:2] and parts[1] in mesh.__all__ else parts[1]  # from mesh import Client
        if own in VALUES:
            assert other in VALUES[: VALUES.index(own)], f"{path.name} must not import mesh.{other}"
        elif other not in {own, *VALUES}:
            assert other in MAY_IMPORT[own], f"{own} must not import mesh.{other}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_foreign_libraries_stay_in_their_layer(path: Path):
    """Only transport speaks ZeroMQ, only store speaks MongoDB; a program makes the context its sockets live in."""
    homes = {"zmq": {"transport", "cli"}, "pymongo": {"store"}, "bson": {"store"}}
    for name in imports(path):
        home = homes.get(name.split(".")[0])
        assert home is None or layer(path) in home, f"{name} in {path}"


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if layer(path) in {"protocol", "core", *VALUES}],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_decisions_know_nothing_of_the_world(path: Path):
    """No clock, randomness, socket, thread or log in protocol, core and values."""
    for name in imports(path):
        assert name.split(".")[0] not in WORLD, f"{name} in {path}"


def test_packages_have_no_logic():
    """Only the top package's `__init__.py` has more than a docstring."""
    for path in PACKAGE.rglob("*/__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) <= 1, f"{path} has code"


def test_files_stay_small():
    """No file over 400 lines without a reason in docs/architecture.md."""
    reasons = (ROOT / "docs/architecture.md").read_text()
    for path in SOURCES:
        lines = len(path.read_text().splitlines())
        name = str(path.relative_to(ROOT))
        assert lines <= 400 or f"`{name}` is longer" in reasons, f"{name} has {lines} lines"


def test_the_law_names_every_layer():
    """A new folder gets its line in the law."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name not in {"__pycache__", "data"}}
    assert folders <= set(MAY_IMPORT)
