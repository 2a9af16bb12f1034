"""Whatever is wrong, whoever caused it gets a clear error, and the mesh goes on: same processes, same places."""

import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from mesh import Client
from mesh.config.load import shipped
from mesh.errors import Conflict, InvalidRequest, MeshError, NotFound, StoreUnavailable
from mesh.local.layout import HOST, REGIONS, render
from mesh.local.running import LocalMesh
from mesh.protocol import limits
from mesh.protocol.header import SIZE, Header, Kind, Reason, encode
from mesh.store.mongod import Mongod
from tests.system.meshes import SmallMesh, free_ports, run, wait_until
from tests.system.raw import Stranger

pytestmark = pytest.mark.timeout(120)

HERE = {"id": "bad-input", "lon": -73.99, "lat": 40.73, "properties": {"name": "here"}}
CROSSED = {"type": "Polygon", "coordinates": [[[-74, 40], [-73, 41], [-73, 40], [-74, 41], [-74, 40]]]}
OPEN = {"type": "Polygon", "coordinates": [[[-74, 40], [-73, 40], [-73, 41], [-74, 41]]]}
CIRCLE = [[-74 + math.cos(n * math.pi / 9_999.5), 40 + math.sin(n * math.pi / 9_999.5)] for n in range(19_999)]
LARGE = {"type": "Polygon", "coordinates": [[*CIRCLE, CIRCLE[0]]]}


def facts(mesh: LocalMesh) -> Any:
    """Return what bad input must not change: every process, every region's number of places."""
    return {region: mesh.pids(region) for region in REGIONS}, mesh.counts()


@pytest.fixture
def client(mesh: LocalMesh) -> Iterator[Client]:
    """Return a client; afterwards all processes are those from before, answer, and hold the same places."""
    with Client(mesh.brokers["ne"], timeout=10.0, cache_dir=mesh.cache) as asking:
        stored = asking.insert(HERE)
        before = facts(mesh)
        yield asking
        assert facts(mesh) == before
        for region in REGIONS:
            assert mesh.clients[region].get(stored.id) == stored
            assert [place.id for place in mesh.clients[region].nearest(lon=-73.99, lat=40.73, limit=1)] == [stored.id]
        asking.delete(stored.id)


# -- through the library, and past it ---------------------------------------------------------------------------------


Call = Callable[[Client], object]
WRONG: dict[str, tuple[Call, str, str]] = {
    "swapped": (lambda c: c.nearest(lon=40.7, lat=-120.0), "lat", "did you swap lon and lat"),
    "swapped in a write": (lambda c: c.insert({"lon": 40.73, "lat": -73.99}), "lon", "did you swap lon and lat"),
    "nan": (lambda c: c.nearest(lon=math.nan, lat=40.0), "lon", "finite"),
    "infinity": (lambda c: c.within_radius(lon=-74.0, lat=40.0, radius=math.inf), "radius", "finite"),
    "bool": (lambda c: c.nearest(lon=True, lat=40.0), "lon", "must be a number, not bool"),
    "text": (lambda c: c.nearest(lon="-74", lat=40.0), "lon", "must be a number, not str"),  # type: ignore[arg-type]
    "out of range": (lambda c: c.nearest(lon=200.0, lat=40.0), "lon", "subtract or add 360"),
    "no radius": (lambda c: c.within_radius(lon=-74.0, lat=40.0, radius=-1.0), "radius", "more than 0"),
    "limit": (lambda c: c.nearest(lon=-74.0, lat=40.0, limit=0), "limit", "at least 1"),
    "box": (lambda c: c.within_box(west=-74, south=41, east=-73, north=40), "south", "did you swap them"),
    "crossed": (lambda c: c.within_polygon(CROSSED), "geometry", "Self-intersection"),
    "open": (lambda c: c.intersects(OPEN), "geometry.coordinates[0]", "repeat the first position"),
    "20,000 vertices": (lambda c: c.within_polygon(LARGE), "geometry.coordinates", "20,000 positions"),
    "crossed in a write": (lambda c: c.insert({"geometry": CROSSED}), "geometry", "Self-intersection"),
    "operator": (lambda c: c.find({"name": {"$near": 1}}), "where.name.$near", "not an operator"),
    "script": (lambda c: c.count({"$where": "sleep(1)"}), "where.$where", "not an operator"),
    "unknown field": (lambda c: c.insert({**HERE, "colour": 1}), "colour", "not a field of a place"),
    "near miss": (lambda c: c.insert({"lng": 1, "lat": 2}), "lng", "did you mean 'lon'"),
    "10 MB": (lambda c: c.insert({**HERE, "properties": {"text": "x" * 10_000_000}}), "place", "at most 1,048,576"),
    "16 MB": (lambda c: c.upsert({**HERE, "properties": {"text": "x" * 2**24}}), "place", "at most 1,048,576"),
    "10 MB of filter": (lambda c: c.find({"name": {"$in": ["x" * 10_000] * 1_000}}), "body", "less at a time"),
    "a token": (lambda c: c.find(after="bm9wZQ"), "after", "not a token"),
    "no time": (lambda c: c.count(timeout=-1.0), "timeout", "more than 0"),
    "outside": (lambda c: c.insert({"lon": 2.35, "lat": 48.86}), "lon", "in no region"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_library_names_the_field_and_what_to_do(client: Client, case: str):
    """An InvalidRequest whose field and text say what is wrong, in time that no broker was asked for."""
    call, field, words = WRONG[case]
    with pytest.raises(InvalidRequest) as caught:
        call(client)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_an_unknown_parameter_is_named(client: Client):
    """Python's own error names the parameter."""
    with pytest.raises(TypeError, match="colour"):
        client.nearest(lon=-74.0, lat=40.0, colour="red")  # type: ignore[call-arg]


def test_an_id_that_exists_is_a_conflict(client: Client):
    """And the place that has it stays as it is, which the fixture checks."""
    with pytest.raises(Conflict) as caught:
        client.insert({**HERE, "properties": {"name": "somebody else"}})
    assert caught.value.id == HERE["id"]


RAW: dict[str, tuple[dict[str, Any], str, str]] = {
    "swapped": ({"op": "nearest", "lon": 40.7, "lat": -120.0}, "lat", "must be within -90..90"),
    "nan": ({"op": "nearest", "lon": math.nan, "lat": 40.0}, "lon", "finite"),
    "bool": ({"op": "nearest", "lon": True, "lat": 40.0}, "lon", "expected `float`, got `bool`"),
    "text": ({"op": "nearest", "lon": "-74", "lat": 40.0}, "lon", "expected `float`, got `str`"),
    "crossed": ({"op": "within_polygon", "geometry": CROSSED}, "geometry", "Self-intersection"),
    "open": ({"op": "within_polygon", "geometry": OPEN}, "geometry.coordinates[0]", "not closed"),
    "20,000 vertices": ({"op": "within_polygon", "geometry": LARGE}, "geometry.coordinates", "20,000 positions"),
    "operator": ({"op": "find", "where": {"name": {"$near": 1}}}, "where.name.$near", "not an operator"),
    "script": ({"op": "count", "where": {"$where": "sleep(1)"}}, "where.$where", "not an operator"),
    "unknown parameter": ({"op": "nearest", "lon": 1.0, "lat": 2.0, "colour": 1}, "colour", "unknown field"),
    "missing parameter": ({"op": "nearest", "lon": 1.0}, "lat", "missing"),
    "unknown operation": ({"op": "drop"}, "op", "drop"),
    "no operation": ({"lon": 1.0}, "op", "missing"),
    "place outside": ({"op": "insert", "place": [2.35, 48.86]}, "lon", "in no region"),
    "another region's place": ({"op": "insert", "place": [-97.7, 30.3]}, "lon", "lies in sw, not in ne"),
    "$ in a name": ({"op": "update", "id": HERE["id"], "patch": {"$set": 1}}, "patch", "starts with $"),
    "7 MB place": ({"op": "upsert", "place": [-74.0, 40.7, {"x": "x" * 7_000_000}, "bad-input"]}, "place", "at most"),
}  # fmt: skip


@pytest.mark.parametrize("case", RAW)
def test_a_worker_checks_again_what_a_stranger_sends(mesh: LocalMesh, client: Client, case: str):
    """Past the library the same mistakes are refused by the worker, with the field named."""
    fields, field, words = RAW[case]
    with Stranger(mesh.brokers["ne"]).hello() as stranger:
        error = stranger.error("ne", msgspec.msgpack.encode(fields))
    assert error["code"] in {"invalid_request", "wrong_region"}
    assert error["field"] == field
    assert words in error["message"]


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x00" * 1000, os.urandom(5_000), b"\x91" * 100_000])
def test_a_body_that_is_no_msgpack_is_refused_as_such(mesh: LocalMesh, client: Client, content: bytes):
    """The worker names the body, and does not mind how deep the nonsense nests."""
    with Stranger(mesh.brokers["ne"]).hello() as stranger:
        error = stranger.error("ne", content)
    assert error["code"] == "invalid_request"


def test_pages_of_large_places_come_in_parts(mesh: LocalMesh, client: Client):
    """Twelve places of a megabyte are more than a message holds: the pages get shorter, and none is lost."""
    large = [
        {"id": f"large-{n:02}", "lon": -73.99, "lat": 40.7 + n / 100, "properties": {"x": "x" * 10**6}}
        for n in range(12)
    ]
    assert not client.insert_many(large).errors
    try:
        found = list(client.iterate("find", where={"x": {"$exists": True}}, limit=1000))
        assert [place.id for place in found] == [row["id"] for row in large]
        near = list(client.iterate("nearest", lon=-73.99, lat=40.7, max_distance=90_000.0, limit=1000))
        assert [place.id for place in near if place.id != HERE["id"]] == [row["id"] for row in large]
        with pytest.raises(InvalidRequest, match="the answer takes"):
            client.get_many([row["id"] for row in large])
    finally:
        for row in large:
            client.delete(row["id"])


# -- frames at each socket of a live broker ---------------------------------------------------------------------------


GARBAGE = {
    "nothing": (b"", Reason.MALFORMED, "48 bytes"),
    "short": (b"GET / HTTP/1.1\r\n\r\n", Reason.MALFORMED, "48 bytes"),
    "version": (b"\x63" + bytes(100), Reason.VERSION, "version 99 is not spoken"),
    "random": (b"\x01\xee" + os.urandom(500), Reason.MALFORMED, "no message kind 238"),
    "10 MB": (encode(Header(kind=Kind.REQUEST)) + bytes(10_000_000), Reason.TOO_LARGE, "the limit is 8388608"),
}


def doors(mesh: LocalMesh) -> dict[str, str]:
    """Return where a stranger can knock."""
    return {"cloud FE": mesh.brokers["ne"], "local BE": f"ipc://{mesh.layout.socket('ne.ipc')}"}


@pytest.mark.parametrize("door", ["cloud FE", "local BE"])
@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_answered_with_what_is_wrong(mesh: LocalMesh, client: Client, door: str, case: str):
    """The stranger is told, and nobody else notices."""
    frame, reason, words = GARBAGE[case]
    with Stranger(doors(mesh)[door]) as stranger:
        stranger.send(frame)
        said, text = stranger.refusal()
    assert said == reason
    assert words in text


def resident_kb(pid: int) -> int:
    """Return the memory a process has in use."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


@pytest.mark.parametrize("door", ["cloud FE", "local BE"])
def test_a_message_of_20_000_frames_costs_a_refusal_and_no_memory(mesh: LocalMesh, client: Client, door: str):
    """Ten of them, of a megabyte each: told how many frames a message has, and nothing is kept."""
    pid = mesh.pids("ne")["broker"]
    before = resident_kb(pid)
    with Stranger(doors(mesh)[door]) as stranger:
        for _ in range(10):
            stranger.send(*[b"x" * 50] * 20_000)
            assert stranger.refusal() == (Reason.MALFORMED, "a message is one frame, this one has 20000")
    # ZeroMQ's own buffers of one message may stay with the allocator; ten messages must not.
    assert resident_kb(pid) - before < 40_000


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"region": b"mars\0\0\0\0"}, Reason.UNKNOWN_REGION, "ne, south, mw, sw, ca"),
        ({"region": b"\xff" * 8}, Reason.UNKNOWN_REGION, "no such region"),
        ({"map_digest": b"old!"}, Reason.STALE_MAP, "map has changed"),
        ({"budget_ms": 0}, Reason.EXPIRED, "no time left"),
        ({"kind": Kind.READY}, Reason.UNEXPECTED, "READY is not allowed"),
    ],
)
def test_a_request_that_cannot_be_is_refused_by_the_broker(
    mesh: LocalMesh, client: Client, fields: dict[str, Any], reason: Reason, words: str
):
    """With the reason and the job's id, before any worker has seen it."""
    with Stranger(mesh.brokers["ne"]).hello() as stranger:
        job = stranger.ask("ne", msgspec.msgpack.encode({"op": "find"}), **fields)
        said, text = stranger.refusal(job)
    assert said == reason
    assert words in text


def test_a_request_without_a_greeting_is_told_to_greet(mesh: LocalMesh, client: Client):
    """A stranger is told what to do first."""
    with Stranger(mesh.brokers["ne"]) as stranger:
        job = stranger.ask("ne", b"")
        assert stranger.refusal(job) == (Reason.NO_SESSION, "say HELLO or READY before REQUEST")


def test_a_worker_with_a_broken_greeting_gets_no_work(mesh: LocalMesh, client: Client):
    """READY with nonsense is refused; the broker's workers are those it had."""
    workers = len(mesh.clients["ne"].status()["workers"])
    with Stranger(doors(mesh)["local BE"]) as stranger:
        stranger.send(encode(Header(kind=Kind.READY), b"\xc1"))
        said, text = stranger.refusal()
        assert (said, text[:6]) == (Reason.MALFORMED, "READY:")
        assert len(mesh.clients["ne"].status()["workers"]) == workers


class FakePeer:
    """Listens where a broker should be, bears its name, and answers everything with the same messages."""

    def __init__(self, name: str, messages: list[list[bytes]]) -> None:
        self.heard = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTING_ID, name.encode())
        self._socket.setsockopt(zmq.LINGER, 0)
        self.endpoint = f"tcp://{HOST}:{self._socket.bind_to_random_port(f'tcp://{HOST}')}"
        self._messages = messages
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Go."""
        self._stop.set()
        self._thread.join()
        self._context.destroy(0)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(10):
                sender = self._socket.recv_multipart()[0]
                self.heard += 1
                for message in self._messages:
                    self._socket.send_multipart([sender, *message])


@pytest.mark.parametrize("frames", ["garbage", "20,000 frames", "lies"])
def test_a_peer_that_answers_garbage_is_ignored(directory: Path, frames: str):
    """At the cloud BE: the broker logs it, keeps its memory, and serves its own clients and that peer's data itself."""
    messages = {
        "garbage": [[garbage[0]] for garbage in GARBAGE.values()],
        "20,000 frames": [[b"x" * 50] * 20_000],
        "lies": [[encode(Header(kind=kind, job=b"x" * 16), b"\xc1")] for kind in Kind if kind != Kind.WELCOME],
    }[frames]
    peer = FakePeer("south", messages)
    try:
        with SmallMesh(directory, "ne", peers={"south": peer.endpoint}) as small:
            pids = small.pids()
            wait_until(lambda: peer.heard > 3, "the broker greets its peer")
            before = resident_kb(pids["broker-ne"])
            heard = peer.heard
            wait_until(lambda: peer.heard > heard + 8, "the broker goes on greeting")
            with Stranger(small.endpoints["ne"]).hello() as stranger:
                for region in ("ne", "south"):
                    stranger.ask(region, b"echo")
                    head, content = stranger.answer()
                    assert (head.kind, content) == (Kind.REPLY, b"echo")
            assert small.pids() == pids
            assert resident_kb(pids["broker-ne"]) - before < 40_000
            if frames != "lies":
                assert "garbage" in small.log("broker-ne")
    finally:
        peer.close()


def test_peers_with_different_maps_say_so_and_serve_alone(directory: Path):
    """Both logs name the two digests; neither sends the other a job; both answer their own clients."""
    other = directory / "other.geojson"
    other.write_bytes(shipped("regions.geojson").read_bytes() + b"\n")
    with SmallMesh(directory, "ne", "south", maps={"south": other}) as small:
        for name in small.regions:
            wait_until(lambda name=name: "region maps differ peer=" in small.log(f"broker-{name}"), f"{name} says so")
        digests = {name: small.status(name)["map_digest"] for name in small.regions}
        assert f"mine={digests['ne']}" in small.log("broker-ne")
        assert f"theirs={digests['south']}" in small.log("broker-ne")
        for name in small.regions:
            assert {peer["serving"] for peer in small.status(name)["peers"]} == {"new"}
            with Stranger(small.endpoints[name]).hello() as stranger:
                stranger.ask("south", b"echo")
                assert stranger.answer()[1] == b"echo"
        assert len(small.pids()) == 4


# -- MongoDB absent, and dying ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_mongod")
def test_a_shard_that_is_not_there_is_named_and_comes_back(directory: Path):
    """Absent at the start or dying later: a clear error in time, the same workers, service when it returns."""
    port = free_ports(1)
    uri = f"mongodb://{HOST}:{port}/?replicaSet=mesh"
    shards = dict.fromkeys(REGIONS, uri)
    with SmallMesh(directory, "ne", workers=2, service="places", shards=shards) as small:
        pids, client = small.pids(), small.client("ne")
        unavailable(client)
        mongod = Mongod(directory / "mongod", port=port)
        try:
            mongod.wait()
            stored = client.insert(HERE, timeout=20.0)
            mongod.kill()
            unavailable(client)
            mongod = Mongod(directory / "mongod", port=port)
            mongod.wait()
            assert client.get(stored.id, timeout=20.0) == stored
            assert client.count() == len(REGIONS)  # all five regions share this one shard
        finally:
            mongod.kill()
        assert small.pids() == pids


def unavailable(client: Client) -> None:
    """Both a read and a write say that the store cannot be reached, well before their time is over."""
    for call in (lambda: client.get(HERE["id"]), lambda: client.insert({**HERE, "id": "half"})):
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable, match="MongoDB cannot be reached"):
            call()
        assert time.monotonic() - begin < 8.0


# -- programs ---------------------------------------------------------------------------------------------------------


def config(directory: Path, **changes: str) -> Path:
    """Write a configuration that is right but for *changes* of its text."""
    variables = {
        "mesh_region": "ne",
        "mesh_broker_listen": f"tcp://{HOST}:{free_ports(1)}",
        "mesh_broker_workers": f"ipc://{directory}/ne.ipc",
        "mesh_worker_service": "echo",
        "mesh_peers": {},
        "mesh_shards": {},
    }
    text = render(variables | {key: value for key, value in changes.items() if key in variables})
    for key, value in changes.items():
        if key not in variables:
            assert key in text
            text = text.replace(key, value)
    file = directory / "mesh.toml"
    file.write_text(text)
    return file


def complaint(program: str, *arguments: object, code: int = 78) -> str:
    """Run a program that must refuse its configuration: its exit code and one line, which is returned."""
    done = run(program, *arguments)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_port_in_use_is_one_clear_line(directory: Path):
    """The broker names the key and the address, and what to do; systemd may try again, so the code is not 78."""
    with socket.create_server((HOST, 0)) as holder:
        listen = f"tcp://{HOST}:{holder.getsockname()[1]}"
        line = complaint("mesh-broker", "--config", config(directory, mesh_broker_listen=listen), code=1)
    assert line == (
        f"mesh-broker: broker.listen: cannot listen on {listen}: address already in use "
        "(another process listens there; stop it or choose another port)"
    )


@pytest.mark.parametrize("program", ["mesh-broker", "mesh-worker"])
@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("listen =", "lisen =", "broker.lisen: there is no such key (did you mean `listen`?)"),
        ("[worker]", "[wroker]", "wroker: there is no such key (did you mean `worker`?)"),
        ("slots = 1", "slots = true", "worker.slots: expected `int`, got `bool`"),
        ("slots = 1", "slots = 0", "worker.slots: 0 is out of range (between 1 and 1000 jobs)"),
        ("slots = 1", "slots = ", "is not TOML"),
        ('"ne"', '"New England"', "mesh.region: 'New England' is no region name"),
        ('"echo"', '"ehco"', "worker.service: there is no service 'ehco'"),
    ],
)
def test_a_wrong_key_or_value_is_named(directory: Path, program: str, right: str, wrong: str, words: str):
    """One line: the file, the key, and the nearest one that exists."""
    file = config(directory, **{right: wrong})
    line = complaint(program, "--config", file)
    assert line.startswith(f"{program}: {file}: ")
    assert words in line


@pytest.mark.parametrize("program", ["mesh-broker", "mesh-worker"])
def test_a_configuration_that_is_not_there(program: str):
    """One line that names the file."""
    assert complaint(program, "--config", "/nowhere/mesh.toml") == (
        f"{program}: /nowhere/mesh.toml: cannot be read: no such file or directory "
        "(give the path of a mesh.toml with --config)"
    )


def test_a_region_the_map_does_not_have(directory: Path):
    """The broker names the regions there are."""
    line = complaint("mesh-broker", "--config", config(directory, mesh_region="mars"))
    assert "the region map has no region 'mars' (the map has ne, south, mw, sw, ca)" in line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nearest", "--lon", "40.7", "--lat", "-120"], 2, "did you swap lon and lat"),
        (["nearest", "--lon", "nan", "--lat", "40"], 2, "lon: must be finite"),
        (["within-polygon", msgspec.json.encode(CROSSED).decode()], 2, "Self-intersection"),
        (["find", "--where", '{"name": {"$near": 1}}'], 2, "not an operator"),
        (["insert", "{not json"], 2, "not JSON"),
        (["insert", msgspec.json.encode(HERE).decode()], 1, "the id exists"),
        (["get", "nobody"], 3, "no region holds"),
    ],
)
def test_mesh_client_says_one_line(mesh: LocalMesh, client: Client, arguments: list[str], code: int, words: str):
    """The exit code for scripts, one line for people, and no traceback for anyone."""
    done = run("mesh-client", "--broker", mesh.brokers["ne"], *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


def test_mesh_client_without_a_mesh(directory: Path):
    """Nobody listens there: said within the time given, with a code that means "later"."""
    done = run("mesh-client", "--broker", f"{HOST}:{free_ports(1)}", "--timeout", "1", "ping")
    assert done.returncode == 75
    assert "is mesh-broker running there?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_errors_of_the_mesh_are_of_one_family():
    """Whoever catches MeshError catches all that this file provokes."""
    assert all(issubclass(kind, MeshError) for kind in (InvalidRequest, Conflict, NotFound, StoreUnavailable))
    assert limits.MAX_FRAME_BYTES - SIZE > 8_000_000
