"""A served store: errors, deadlines and restarts across the socket."""

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ConfigError, Conflict, DeadlineExceeded, InvalidRequest, StoreError, StoreUnavailable
from mesh.model import Count, Draft, Found, Nearest
from mesh.store.memory import MemoryStore
from mesh.store.mongo import MongoStore
from mesh.store.open import open_store
from mesh.store.served import ServedStore, serving


class Slow(MemoryStore):
    """Takes its time, or fails in a way nobody foresaw."""

    def nearest(self, query: Nearest) -> Found:
        """Sleep for as many seconds as the longitude says, or raise below zero."""
        if query.lon < 0:
            raise ZeroDivisionError("boom")
        time.sleep(query.lon)
        return super().nearest(query)


def test_a_store_survives_a_restart_of_its_server(socket_path: Path) -> None:
    """Unavailable while it is gone, and back without anybody's help."""
    memory, client = MemoryStore("NE"), ServedStore(socket_path, "NE")
    with serving(memory, socket_path):
        client.insert(Draft(1, 2, {}, "a"))
    with pytest.raises(StoreUnavailable):
        client.get("a")
    with serving(memory, socket_path):
        assert client.get("a").id == "a"
        with pytest.raises(Conflict) as caught:
            client.insert(Draft(1, 2, {}, "a"))
        assert caught.value.id == "a"
    client.close()


def test_a_late_answer_is_nobodys_answer(socket_path: Path) -> None:
    """After a time-out the next question gets its own answer, not the late one."""
    client = ServedStore(socket_path, "NE")
    with serving(Slow("NE"), socket_path):
        start = time.monotonic()
        with client.time_limit(0.1), pytest.raises(DeadlineExceeded):
            client.nearest(Nearest(0.4, 0))
        assert time.monotonic() - start < 0.3
        assert client.count(Count()) == 0
    client.close()


def test_an_unforeseen_failure_is_a_store_error(socket_path: Path) -> None:
    """The connection goes on."""
    client = ServedStore(socket_path, "NE")
    with serving(Slow("NE"), socket_path):
        with pytest.raises(StoreError, match="ZeroDivisionError"):
            client.nearest(Nearest(-1, 0))
        assert client.count(Count()) == 0
    client.close()


@pytest.mark.parametrize(
    "message", [b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x02\x92\x01", b"\xff\xff\xff\xff", b"\x00"]
)
def test_garbage_harms_nobody_else(socket_path: Path, message: bytes) -> None:
    """A connection that breaks the protocol gets an error or its end; others go on."""
    client = ServedStore(socket_path, "NE")
    with serving(MemoryStore("NE"), socket_path), socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(socket_path))
        raw.sendall(message)
        raw.shutdown(socket.SHUT_WR)
        raw.settimeout(2)
        answer = raw.recv(1_000)
        assert answer == b"" or b"invalid_request" in answer
        assert client.count(Count()) == 0
    client.close()


def test_two_servers_do_not_share_a_socket(socket_path: Path) -> None:
    """The second is refused while the first lives; what a dead one left behind is removed."""
    with serving(MemoryStore("NE"), socket_path), pytest.raises(ConfigError), ExitStack() as second:
        second.enter_context(serving(MemoryStore("NE"), socket_path))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(socket_path))
    with serving(MemoryStore("NE"), socket_path):
        assert socket_path.stat().st_mode & 0o777 == 0o660


def test_one_client_serves_many_threads(socket_path: Path) -> None:
    """Answers never cross between threads."""
    client, wrong = ServedStore(socket_path, "NE"), []

    def ask(name: str) -> None:
        wrong.extend(name for _ in range(50) if client.get(name).id != name)

    with serving(MemoryStore("NE"), socket_path):
        client.insert_many([Draft(1, 2, {}, str(n)) for n in range(8)])
        threads = [threading.Thread(target=ask, args=(str(n),)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    client.close()


def test_a_message_over_the_limit_is_refused_before_it_is_sent(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller learns what was too large."""
    monkeypatch.setattr("mesh.store.served._MAX_BYTES", 1_000)
    client = ServedStore(socket_path, "NE")
    with serving(MemoryStore("NE"), socket_path), pytest.raises(InvalidRequest):
        client.insert(Draft(1, 2, {"t": "x" * 2_000}))
    client.close()


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("memory:", MemoryStore),
        ("memory:///run/x", ServedStore),
        ("mongodb://h/", MongoStore),
        ("mongodb+srv://h/", MongoStore),
    ],
)
def test_the_uri_chooses_the_store(uri: str, kind: Any) -> None:
    """Nothing is connected to yet."""
    store = open_store(uri, "NE")
    assert isinstance(store, kind)
    assert store.region == "NE"
    store.close()


@pytest.mark.parametrize("uri", ["", "memory", "memory://", "memory://relative/path", "http://x", "/run/x"])
def test_other_uris_are_refused_with_a_hint(uri: str) -> None:
    """The hint shows what a URI looks like."""
    with pytest.raises(ConfigError) as caught:
        open_store(uri, "NE")
    assert "mongodb://" in (caught.value.hint or "")
