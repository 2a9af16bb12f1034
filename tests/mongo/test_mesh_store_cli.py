"""mesh-store, as an operator runs it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mesh.errors import StoreUnavailable
from mesh.model import Count, Draft
from mesh.store.mongod import Mongod, free_port
from mesh.store.open import open_store

_PROGRAM = [sys.executable, "-c", "from mesh.cli.store import main; main()"]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_PROGRAM, *arguments], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.mongo
@pytest.mark.slow
def test_ensure_indexes_twice_finds_nothing_to_do_the_second_time(mongod: Mongod) -> None:
    """The first run creates what --check misses, the second changes nothing."""
    shard = ("--uri", mongod.uri, "--region", "NE", "--database", "cli", "--json")
    assert _run("ensure-indexes", "--check", *shard).returncode == 1
    first = _run("ensure-indexes", *shard)
    assert first.returncode == 0, first.stderr
    assert "loc_2dsphere" in json.loads(first.stdout)["missing"]
    second = _run("ensure-indexes", "--check", *shard)
    assert (second.returncode, json.loads(second.stdout)["missing"]) == (0, [])
    numbers = json.loads(_run("stats", *shard).stdout)
    assert (numbers["region"], numbers["places"]) == ("NE", 0)


@pytest.mark.slow
def test_serve_shares_places_until_it_is_stopped(socket_path: Path) -> None:
    """Two clients see the same places; SIGTERM ends the server with code 0 and removes the socket."""
    server = subprocess.Popen([*_PROGRAM, "serve", "--listen", str(socket_path), "--region", "SW"])
    try:
        one, two = (open_store(f"memory://{socket_path}", "SW") for _ in range(2))
        _wait_until_served(one)
        one.insert(Draft(-100, 35, {}, "a"))
        assert two.get("a").region == "SW"
        one.close()
        server.send_signal(signal.SIGTERM)
        assert server.wait(5) == 0
        assert not socket_path.exists()
        with pytest.raises(StoreUnavailable):
            two.get("a")
        two.close()
    finally:
        server.kill()
        server.wait()


def _wait_until_served(store: object) -> None:
    for _ in range(200):
        try:
            store.count(Count())
        except StoreUnavailable:
            time.sleep(0.05)
        else:
            return
    pytest.fail("nothing is served")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["stats", "--uri", f"mongodb://127.0.0.1:{free_port()}", "--region", "NE"], 1, "cannot be reached"),
        (["stats", "--uri", "postgres://x", "--region", "NE"], 78, "not a store"),
        (["stats", "--uri", "memory:", "--region", "NE"], 0, ""),
        (["stats", "--uri", "memory://relative", "--region", "NE"], 78, "three slashes"),
        (["ensure-indexes", "--uri", "memory:", "--region", "NE"], 78, "MongoDB only"),
        (["stats", "--config", "/no/such/mesh.toml"], 78, "/no/such/mesh.toml"),
        (["stats"], 2, "--config"),
        (["stats", "--uri", "memory:"], 2, "--region"),
    ],
)
def test_failures_are_one_line_and_an_exit_code(arguments: list[str], code: int, words: str) -> None:
    """No traceback, ever; the code says whether to try again, to read the usage, or to mend the configuration."""
    done = _run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    if code in {1, 78}:
        assert done.stderr.count("\n") == 1
