"""The two clients are one API, and the arguments they take."""

import inspect
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import mesh
from mesh import AsyncClient, Client
from mesh.core.asking import Outcome
from mesh.core.refused import StaleMap
from mesh.core.requests import Request
from mesh.errors import InvalidRequest, ProtocolError
from mesh.model import Found
from mesh.protocol.body import Hello
from mesh.protocol.header import Kind

ROOT = Path(__file__).parents[2]
OPERATIONS = {
    "insert", "insert_many", "upsert", "upsert_many", "get", "get_many", "update", "move", "delete", "nearest",
    "within_radius", "within_box", "within_polygon", "intersects", "find", "count", "iterate", "regions", "status",
    "ping", "close",
}  # fmt: skip


def public(kind: type) -> dict[str, object]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def test_the_blocking_client_is_generated_from_the_other() -> None:
    """Whoever edits one runs scripts/unasync.py."""
    command = [sys.executable, ROOT / "scripts/unasync.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_clients_have_the_same_names_signatures_and_docstrings() -> None:
    """Whoever knows one knows the other."""
    assert set(public(Client)) == set(public(AsyncClient)) == OPERATIONS
    for name, method in public(Client).items():
        twin = public(AsyncClient)[name]
        assert callable(method)
        assert callable(twin)
        assert inspect.getdoc(method) == inspect.getdoc(twin), name
        if name != "iterate":
            assert inspect.signature(method) == inspect.signature(twin), name
            assert inspect.iscoroutinefunction(twin), name
    assert inspect.signature(Client.__init__) == inspect.signature(AsyncClient.__init__)


def test_every_public_method_has_a_docstring() -> None:
    """Users read them."""
    assert all(inspect.getdoc(method) for method in public(Client).values())


def test_the_package_exports_them() -> None:
    """`from mesh import Client, AsyncClient, Place`."""
    assert {"AsyncClient", "Client", "Place"} <= set(mesh.__all__)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda c: c.nearest(lon=40.7, lat=-120.0), "lat"),
        (lambda c: c.nearest(lon=0, lat=0, limit=0), "limit"),
        (lambda c: c.nearest(lon=0, lat=0, where={"a": {"$near": 1}}), "where"),
        (lambda c: c.nearest(lon=0, lat=0, where="population"), "where"),
        (lambda c: c.nearest(lon=0, lat=0, after="nonsense"), "after"),
        (lambda c: c.nearest(lon=0, lat=0, timeout=0), "timeout"),
        (lambda c: c.nearest(lon=0, lat=0, timeout=float("nan")), "timeout"),
        (lambda c: c.within_radius(lon=0, lat=0, radius=-1), "radius"),
        (lambda c: c.within_polygon({"type": "Point", "coordinates": [0, 0]}), "geometry"),
        (lambda c: c.intersects("nonsense"), "geometry"),
        (lambda c: c.get(7), "id"),
        (lambda c: c.update("x", ["no"]), "patch"),
        (lambda c: c.insert({"lon": 0}), "lat"),
        (lambda c: c.insert_many({"type": "Nonsense"}), "features"),
        (lambda c: list(c.iterate("delete")), "query"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_sent(call: object, field: str) -> None:
    """No broker is needed to learn of a mistake."""
    assert callable(call)
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest) as caught:
        call(client)
    assert (caught.value.field or "").startswith(field)


@pytest.mark.parametrize("broker", ["", [], "http://ne", ["ne", "ne:x"]])
def test_what_is_no_broker_is_refused(broker: str) -> None:
    """At once, not at the first question."""
    with pytest.raises(InvalidRequest) as caught:
        Client(broker)
    assert caught.value.field == "broker"


class Redrawn:
    """A connection to brokers that were restarted with another map: the first *stale* requests are refused."""

    def __init__(self, stale: int) -> None:
        self.stale = stale
        self.kinds: list[str] = []
        self.map_digest = b""

    def ask(self, requests: Sequence[Request], _timeout: float) -> list[Outcome]:
        """Answer with a WELCOME, the map, or nothing found."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Close nothing."""

    def _answer(self, request: Request) -> Outcome:
        self.kinds.append(Kind(request.kind).name)
        if request.kind == Kind.HELLO:
            return Hello(role="broker", map_digest="00000000")
        if request.kind == Kind.REGIONS:
            return (ROOT / "inventory/regions.geojson").read_bytes()
        self.stale -= 1
        return StaleMap("redrawn") if self.stale >= 0 else Found([])


def client_of(connection: Redrawn, directory: Path) -> Client:
    client = Client("127.0.0.1:1", cache_dir=directory)
    client.close()
    client._connection = connection  # type: ignore[assignment]
    return client


def test_a_map_that_was_redrawn_is_fetched_and_the_question_planned_anew(tmp_path: Path) -> None:
    """The caller does not notice."""
    connection = Redrawn(stale=1)
    assert client_of(connection, tmp_path).nearest(lon=-118.25, lat=34.05, max_distance=1000.0).places == []
    assert connection.kinds == ["HELLO", "REGIONS", "REQUEST", "REGIONS", "REQUEST"]


def test_a_map_that_stays_stale_is_an_error(tmp_path: Path) -> None:
    """Two brokers that disagree about the map must not send the client in circles."""
    with pytest.raises(ProtocolError, match="redrawn"):
        client_of(Redrawn(stale=9), tmp_path).nearest(lon=-118.25, lat=34.05, max_distance=1000.0)
