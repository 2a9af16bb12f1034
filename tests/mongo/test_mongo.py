"""What can go wrong between a store and its mongod, with a real one."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import ConfigError, DeadlineExceeded, InvalidRequest, MeshError, StoreError, StoreUnavailable
from mesh.model import Count, Draft, Find, Nearest
from mesh.store import mongod as mongod_module
from mesh.store.mongo import MongoStore
from mesh.store.mongod import Mongod, find_mongod, free_port

pytestmark = [pytest.mark.mongo, pytest.mark.slow]


@pytest.fixture
def own(mongod: Mongod, tmp_path: Path) -> Iterator[Mongod]:
    """Run a mongod that the test may kill."""
    running = Mongod(tmp_path / "own").wait()
    yield running
    running.kill()


@pytest.fixture
def store(own: Mongod) -> Iterator[MongoStore]:
    store = MongoStore(own.uri, "NE")
    store.ensure_indexes()
    yield store
    store.close()


def test_a_mongod_that_dies_is_unavailable_in_time_and_found_again(own: Mongod, store: MongoStore) -> None:
    """Reads and writes fail within the time limit, the process lives, and the same store works after a restart."""
    store.insert(Draft(-73, 40, {}, "a"))
    own.kill()
    for act in (lambda: store.get("a"), lambda: store.nearest(Nearest(1, 2)), lambda: store.insert(Draft(1, 2))):
        start = time.monotonic()
        with store.time_limit(0.5), pytest.raises(StoreUnavailable):
            act()
        assert time.monotonic() - start < 1.0
    with Mongod(own.directory, port=own.port):
        assert store.get("a").id == "a"


def test_a_mongod_that_dies_under_load_leaves_no_other_error(own: Mongod, store: MongoStore) -> None:
    """Threads in the middle of queries and bulk writes all end with an error of the mesh."""
    ended: list[BaseException] = []

    def work(act: object) -> None:
        try:
            while True:
                with store.time_limit(3):
                    act()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            ended.append(error)

    rows = [Draft(-73 + n / 1e4, 40, {"n": n}) for n in range(2_000)]
    acts = [lambda: store.nearest(Nearest(-73, 40)), lambda: _bulk(store, rows), lambda: store.insert(Draft(1, 2))]
    threads = [threading.Thread(target=work, args=(act,)) for act in acts * 2]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    own.kill()
    for thread in threads:
        thread.join(25)
    assert {type(error) for error in ended} == {StoreUnavailable}
    assert len(ended) == len(threads)


def _bulk(store: MongoStore, rows: list[Draft]) -> None:
    errors = store.insert_many(rows).errors
    if errors:
        assert {error.error["code"] for error in errors} == {"store_unavailable"}
        raise StoreUnavailable("part of a bulk write")


def test_a_mongod_that_hangs_ends_with_the_time_limit(own: Mongod, store: MongoStore) -> None:
    """A stopped server keeps its connections open and says nothing; the limit counts on this side too."""
    store.insert(Draft(-73, 40, {}, "a"))
    own._process.send_signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        with store.time_limit(0.5), pytest.raises((DeadlineExceeded, StoreUnavailable)):
            store.get("a")
        assert time.monotonic() - start < 1.0
    finally:
        own._process.send_signal(signal.SIGCONT)


def test_a_query_longer_than_its_limit_is_ended_by_the_server(mongo_store: MongoStore) -> None:
    """The limit reaches MongoDB, which stops working on what nobody waits for."""
    mongo_store.insert_many([Draft(-73, 40, {"n": n}) for n in range(20)])
    slow = {"$where": "sleep(100) || true"}
    places = mongo_store._collection()
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded), mongo_store.time_limit(0.3), mongo_store._boundary:
        list(places.find(slow))
    assert time.monotonic() - start < 0.8


def test_errors_do_not_quote_the_query(mongo_store: MongoStore) -> None:
    """What the driver says may contain data; what leaves the store does not."""
    with pytest.raises(MeshError) as caught, mongo_store._boundary:
        list(mongo_store._collection().find({"secret": {"$bad": 1}}))
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_documents_that_do_not_fit_are_refused_alone(mongo_store: MongoStore) -> None:
    """A row too large, or with a number too large, fails with its own error among good ones."""
    rows = [Draft(1, 2), Draft(1, 2, {"n": 2**70}), Draft(1, 2, {"t": "x" * 17_000_000}), Draft(1, 2)]
    answer = mongo_store.insert_many(rows)
    assert [(error.row, error.error["code"]) for error in answer.errors] == [
        (1, "invalid_request"),
        (2, "invalid_request"),
    ]
    assert mongo_store.count(Count()) == 2
    for row in rows[1:3]:
        with pytest.raises(InvalidRequest):
            mongo_store.insert(row)


def test_nothing_connects_before_the_first_use() -> None:
    """A store for a dead shard costs nothing until somebody asks it."""
    store = MongoStore(f"mongodb://127.0.0.1:{free_port()}/", "NE")
    with store.time_limit(0.2), pytest.raises(StoreUnavailable):
        store.find(Find())
    store.close()


def test_a_dead_shard_is_given_up_long_before_a_generous_limit() -> None:
    """Nobody waits 20 seconds for a server that cannot be found within two."""
    store = MongoStore(f"mongodb://127.0.0.1:{free_port()}/", "NE")
    start = time.monotonic()
    with store.time_limit(20), pytest.raises(StoreUnavailable):
        store.insert(Draft(1, 2))
    assert time.monotonic() - start < 3.0
    store.close()


def test_a_wrong_uri_is_a_configuration_error() -> None:
    """It says so in one line."""
    with pytest.raises(ConfigError):
        MongoStore("mongodb://127.0.0.1:notaport/", "NE").count(Count())


# -- running a mongod -------------------------------------------------------------------------------------------------


def test_a_taken_port_is_named(mongod: Mongod, tmp_path: Path) -> None:
    """The error carries mongod's own reason, even though something does answer on that port."""
    with pytest.raises(StoreError, match="Address already in use"):
        Mongod(tmp_path, port=mongod.port).wait()


def test_missing_libraries_name_the_package(tmp_path: Path) -> None:
    """One line that can be pasted into a shell."""
    fake = tmp_path / "mongod"
    fake.write_text(
        "#!/bin/sh\necho 'mongod: error while loading shared libraries: libcurl.so.4: cannot open' >&2\nexit 127\n"
    )
    fake.chmod(0o755)
    with pytest.raises(ConfigError) as caught:
        find_mongod(fake)
    assert caught.value.hint == "apt-get install libcurl4"


def test_mongod_is_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit path, then MESH_MONGOD, then PATH, then the wheel; none at all says what to install."""
    places = [tmp_path / name / "mongod" for name in ("explicit", "variable", "path")]
    for place in places:
        place.parent.mkdir()
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
    monkeypatch.setenv("MESH_MONGOD", str(places[1]))
    monkeypatch.setenv("PATH", f"{places[2].parent}:/bin")
    assert find_mongod(places[0]) == places[0]
    assert find_mongod() == places[1]
    monkeypatch.delenv("MESH_MONGOD")
    assert find_mongod() == places[2]
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(mongod_module, "_in_wheel", lambda: None)
    with pytest.raises(ConfigError, match="no mongod found"):
        find_mongod()


def test_a_mongod_dies_with_its_parent(tmp_path: Path) -> None:
    """A test runner that is killed leaves no database behind."""
    program = (
        "import sys, time; from pathlib import Path; from mesh.store.mongod import Mongod;"
        "print(Mongod(Path(sys.argv[1])).wait().pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = Path(f"/proc/{int(parent.stdout.readline())}/stat")
        assert child.exists()
        parent.kill()
    deadline = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_a_mongod_started_again_on_another_port_takes_writes(own: Mongod, store: MongoStore) -> None:
    """Its replica set knows it by the old address, and is told the new one."""
    store.insert(Draft(-73, 40, {}, "a"))
    own.stop()
    with Mongod(own.directory) as again:
        moved = MongoStore(again.uri, "NE")
        assert moved.update("a", {"n": 1}).version == 2
        moved.close()
