"""mesh-client against a real broker and a real worker whose shards are memory stores."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

from mesh import AsyncClient, Client, Place
from mesh.cli.arguments import hoist
from mesh.cli.client import main
from mesh.errors import Conflict, NotFound

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
REGIONS = ("ne", "south", "mw", "sw", "ca")
FEATURE = {"type": "Feature", "id": "here", "geometry": {"type": "Point", "coordinates": [-73.99, 40.73]}}


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Done(NamedTuple):
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Mesh:
    """The address of a broker, and mesh-client with everything it needs."""

    broker: str
    directory: Path

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> "Done":
        """Run mesh-client in this process, which saves half a second of imports."""
        places = {"XDG_CACHE_HOME": str(self.directory / "cache"), "MESH_BROKER": self.broker, "COLUMNS": "200"}
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, places | environment),
            mock.patch.object(sys, "argv", ["mesh-client", *arguments]),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            main()
        return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """Run mesh-client, which must succeed without a word on stderr, and return what it prints."""
        done = self.run(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run the broker of NE and one worker that holds all shards; the other regions' brokers are down."""
    directory = tmp_path_factory.mktemp("mesh")
    port, *others = free_ports(len(REGIONS))
    config = directory / "mesh.toml"
    config.write_text(
        f'[mesh]\nregion = "ne"\nmap = "{ROOT}/inventory/regions.geojson"\n'
        f'[broker]\nlisten = "tcp://127.0.0.1:{port}"\nworkers = "ipc://{directory}/workers"\n[worker]\nslots = 4\n'
        + "".join(
            f'[peers.{name}]\nendpoint = "tcp://127.0.0.1:{other}"\n'
            for name, other in zip(REGIONS[1:], others, strict=True)
        )
        + "".join(f'[shards.{name}]\nuri = "memory:"\n' for name in REGIONS)
    )
    with (directory / "log").open("w") as log:
        commands = (["mesh-broker", "--config"], ["mesh-worker", "--config"])
        processes = [
            subprocess.Popen([PROGRAMS / name, option, config], stdout=log, stderr=log) for name, option in commands
        ]
        try:
            wait_for_worker(f"tcp://127.0.0.1:{port}", directory)
            yield Mesh(f"tcp://127.0.0.1:{port}", directory)
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(10)


def wait_for_worker(broker: str, directory: Path) -> None:
    with Client(broker, timeout=10.0) as client:
        for _ in range(200):
            if client.status()["workers"]:
                return
            time.sleep(0.05)
    raise AssertionError((directory / "log").read_text())


@pytest.fixture(autouse=True)
def empty(mesh: Mesh) -> None:
    """Start each test without places."""
    with Client(mesh.broker, cache_dir=mesh.directory / "cache") as client:
        for place in list(client.iterate("find", limit=1000)):
            client.delete(place.id)


# -- the program ------------------------------------------------------------------------------------------------------


def test_a_place_lives_and_dies(mesh: Mesh) -> None:
    """Insert, get, update, move across the country, delete."""
    stored = json.loads(mesh.ok("insert", json.dumps(FEATURE)))
    assert (stored["id"], stored["region"], stored["version"]) == ("here", "ne", 1)
    patched = json.loads(mesh.ok("update", "here", '{"name": "Here"}'))
    assert patched["properties"] == {"name": "Here"}
    moved = json.loads(mesh.ok("move", "here", "--lon", "-118.25", "--lat", "34.05"))
    assert (moved["region"], moved["properties"]) == ("ca", {"name": "Here"})
    assert json.loads(mesh.ok("get", "here"))["geometry"]["coordinates"] == [-118.25, 34.05]
    assert json.loads(mesh.ok("delete", "here")) == {"deleted": "here"}
    done = mesh.run("get", "here")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "mesh-client: no region holds a place with the id 'here'\n"


def test_queries_in_all_formats(mesh: Mesh) -> None:
    """GeoJSON in a pipe, a table for people, lines for programs."""
    mesh.ok("insert", "-", stdin=json.dumps(FEATURE | {"properties": {"name": "Here", "n": 5}}))
    mesh.ok("insert", '{"lon": -118.25, "lat": 34.05, "id": "la", "properties": {"name": "LA", "n": 50}}')
    collection = json.loads(mesh.ok("nearest", "--lon", "-73.99", "--lat", "40.73"))
    assert [feature["id"] for feature in collection["features"]] == ["here", "la"]
    assert collection["features"][0]["distance"] == 0.0
    table = mesh.ok("nearest", "--lon", "-73.99", "--lat", "40.73", "--format", "table")
    assert "Here" in table
    assert "3,9" in table
    assert " km" in table
    assert [json.loads(line)["id"] for line in mesh.ok("-f", "ndjson", "find").splitlines()] == ["here", "la"]
    assert [p["id"] for p in json.loads(mesh.ok("find", "--where", "n>=10", "-f", "json"))["places"]] == ["la"]
    assert json.loads(mesh.ok("count", "--where", '{"n": {"$lt": 10}}')) == {"count": 1}
    assert mesh.ok("count", "-f", "table") == "2\n"


def test_areas(mesh: Mesh, tmp_path: Path) -> None:
    """A radius, a box, and polygons from a file, standard input and the command line."""
    mesh.ok("insert", json.dumps(FEATURE))
    ring = [[-74.2, 40.5], [-73.7, 40.5], [-73.7, 40.9], [-74.2, 40.9], [-74.2, 40.5]]
    area = json.dumps({"type": "Polygon", "coordinates": [ring]})
    file = tmp_path / "area.geojson"
    file.write_text(f'{{"type": "FeatureCollection", "features": [{{"type": "Feature", "geometry": {area}}}]}}')
    box = ("--west", "-74.2", "--south", "40.5", "--east", "-73.7", "--north", "40.9")
    for arguments, stdin in (
        (("within-radius", "--lon", "-73.9", "--lat", "40.7", "--radius", "20000"), ""),
        (("within-box", *box), ""),
        (("within-polygon", str(file)), ""),
        (("within-polygon", "-"), area),
        (("intersects", area), ""),
    ):
        found = json.loads(mesh.ok(*arguments, stdin=stdin))
        assert [feature["id"] for feature in found["features"]] == ["here"], arguments


def test_swapped_coordinates_are_pointed_out(mesh: Mesh):
    """A question about Antarctica whose swap lies in a region is answered, with a word on stderr."""
    done = mesh.run("nearest", "--lon", "40.73", "--lat", "-73.99")
    assert done.returncode == 0
    assert "did you swap lon and lat? lon=-73.99, lat=40.73 lies in region ne" in done.stderr
    assert not mesh.run("nearest", "--lon", "2.35", "--lat", "48.86").stderr.count("swap")


def test_the_tables_of_a_status_fit_a_terminal(mesh: Mesh):
    """With 80 columns no heading and no number of a status is broken."""
    done = mesh.run("--format", "table", "status", COLUMNS="80")
    assert "forwarded" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_pages(mesh: Mesh, tmp_path: Path) -> None:
    """--after goes on where a page ended, --all follows to the end."""
    file = tmp_path / "many.csv"
    file.write_text("id,lon,lat\n" + "".join(f"p{n:02},-73.{n:02},40.7\n" for n in range(10, 35)))
    assert mesh.run("load", str(file)).returncode == 0
    first = json.loads(mesh.ok("find", "--limit", "10"))
    second = json.loads(mesh.ok("find", "--limit", "10", "--after", first["next"]))
    assert [feature["id"] for feature in second["features"]] == [f"p{n}" for n in range(20, 30)]
    assert json.loads(mesh.ok("find", "--limit", "10", "--all"))["numberReturned"] == 25
    assert len(mesh.ok("find", "--limit", "10", "--all", "--format", "ndjson").splitlines()) == 25
    done = mesh.run("find", "--limit", "10", "--format", "table")
    assert "--after" in done.stderr


def test_load_counts_stored_and_failed_rows(mesh: Mesh, tmp_path: Path) -> None:
    """The status says that rows failed, and their file says which."""
    file = tmp_path / "rows.ndjson"
    rows = [FEATURE, {"lon": 0.0, "lat": 0.0}, FEATURE, {"lon": -118.25, "lat": 34.05, "id": "la"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    done = mesh.run("load", str(file))
    assert done.returncode == 1
    assert "4 rows, 2 stored, 2 failed" in done.stderr
    errors = [json.loads(line) for line in Path(f"{file}.errors.ndjson").read_text().splitlines()]
    assert [(error["row"], error["error"]["code"]) for error in errors] == [(2, "invalid_request"), (3, "conflict")]
    done = mesh.run("load", str(file), "--upsert")
    assert "4 rows, 3 stored, 1 failed" in done.stderr


def test_the_mesh_itself(mesh: Mesh) -> None:
    """Regions, status, ping."""
    assert {f["id"] for f in json.loads(mesh.ok("regions"))["features"]} == set(REGIONS)
    assert set(json.loads(mesh.ok("regions", "--format", "json"))["regions"]) == set(REGIONS)
    assert json.loads(mesh.ok("status"))["region"] == "ne"
    assert "broker ne" in mesh.ok("status", "--format", "table")
    assert json.loads(mesh.ok("ping"))["milliseconds"] < 1000


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nearest", "--lon", "40.7", "--lat", "-120"), 2, "did you swap lon and lat"),
        (("insert", '{"lon": 40.7, "lat": -74}'), 2, "did you swap lon and lat"),
        (("insert", "nowhere.geojson"), 2, "No such file"),
        (("insert", "{nonsense"), 2, "not JSON"),
        (("find", "--where", "n >"), 2, "where"),
        (("find", "--after", "nonsense"), 2, "after"),
        (("find", "--timeout", "0"), 2, "timeout"),
        (("delete", "nobody"), 3, "nobody"),
        (("ping", "--broker", "127.0.0.1:1", "--timeout", "0.2"), 75, "is mesh-broker running there?"),
        (("ping", "--broker", "http://x"), 2, "no address of a broker"),
    ],
)
def test_errors_are_one_line_and_a_code(mesh: Mesh, arguments: tuple[str, ...], code: int, says: str) -> None:
    """Nothing on stdout, no traceback."""
    done = mesh.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_usage(mesh: Mesh) -> None:
    """The help teaches, and a missing broker is named."""
    text = mesh.run("--help").stdout
    assert "mesh-client nearest --lon -73.99 --lat 40.73" in text
    assert "75 busy" in text.replace("\n", " ")
    assert mesh.run("nearest", "--help").returncode == 0
    assert mesh.run("nearest", "--lon", "x").returncode == 2
    done = mesh.run("ping", MESH_BROKER="")
    assert (done.returncode, "name a broker" in done.stderr) == (2, True)


def test_the_installed_program_runs(mesh: Mesh) -> None:
    """In a process of its own, as people start it."""
    command = [PROGRAMS / "mesh-client", "--broker", mesh.broker, "count"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"count": 0}\n', "")


def test_the_second_broker_answers_when_the_first_is_down(mesh: Mesh) -> None:
    """--broker may be repeated."""
    mesh.ok("--broker", "127.0.0.1:1", "--broker", mesh.broker, "ping")


def test_ctrl_c_is_quiet(mesh: Mesh) -> None:
    """130 and no traceback."""
    process = subprocess.Popen(
        [PROGRAMS / "mesh-client", "--broker", mesh.broker, "ping", "--count", "100"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (130, "")


def test_shared_options_may_stand_anywhere() -> None:
    """Before the command or after it, with = or without."""
    assert hoist(["find", "-b", "x", "--limit", "3", "--format=json"]) == [
        "-b",
        "x",
        "--format=json",
        "find",
        "--limit",
        "3",
    ]
    assert hoist(["get", "--", "-b"]) == ["get", "--", "-b"]
    assert hoist(["find", "-b"]) == ["-b", "find"]


# -- the library ------------------------------------------------------------------------------------------------------


def test_ten_lines_of_python(mesh: Mesh) -> None:
    """What the README shows."""
    with Client(mesh.broker, cache_dir=mesh.directory) as client:
        place = client.insert({"lon": -73.99, "lat": 40.73, "properties": {"name": "here"}})
        assert isinstance(place, Place)
        assert client.get(place.id) == place
        assert client.insert_many([place]).errors[0].error["code"] == "conflict"
        with pytest.raises(Conflict):
            client.insert(place)
        page = client.nearest(lon=-73.99, lat=40.73, where="name=here")
        assert [found.distance for found in page] == [0.0]
        assert client.within_polygon(page[0].geometry | {"type": "Polygon", "coordinates": [box()]})[0].id == place.id
        assert (client.count(), client.regions().names[0]) == (1, REGIONS[0])
        client.delete(place.id)
        with pytest.raises(NotFound):
            client.get(place.id)


def box() -> list[list[float]]:
    return [[-75, 40], [-73, 40], [-73, 41], [-75, 41], [-75, 40]]


async def ask_twice(broker: str, cache: Path) -> list[Any]:
    async with AsyncClient(broker, cache_dir=cache) as client:
        await client.upsert({"lon": -73.99, "lat": 40.73, "id": "x"})
        return [place.id async for place in client.iterate("nearest", lon=-73.99, lat=40.73, limit=1)]


def test_the_asyncio_client(mesh: Mesh) -> None:
    """The same, with await."""
    assert asyncio.run(ask_twice(mesh.broker, mesh.directory)) == ["x"]


def test_the_region_map_is_fetched_once(mesh: Mesh, tmp_path: Path) -> None:
    """The second client finds it on disk."""
    with Client(mesh.broker, cache_dir=tmp_path) as client:
        digest = client.regions().digest.hex()
    assert [file.name for file in tmp_path.iterdir()] == [f"regions-{digest}.geojson"]
