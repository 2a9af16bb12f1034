"""One memory store for many processes: `serve` hosts it on a unix socket, `ServedStore` is a `Store` that asks there.

A message is four bytes of length and msgpack: (seconds left, operation) one way, an answer the other. One connection
carries one operation at a time. A connection whose answer did not come in time is closed, never used again: the next
thing read from it would be the late answer to the wrong question.
"""

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from mesh.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    MeshError,
    StoreError,
    StoreUnavailable,
    from_dict,
)
from mesh.model import (
    AnyAnswer,
    AnyOperation,
    BulkStored,
    Count,
    Counted,
    Delete,
    Deleted,
    Draft,
    Failed,
    Find,
    Found,
    Get,
    GetMany,
    Insert,
    InsertMany,
    Intersects,
    Move,
    Nearest,
    Place,
    Properties,
    Stored,
    Update,
    Upsert,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.store.base import Store
from mesh.store.deadline import Deadline
from mesh.store.perform import perform

#: Seconds for an operation whose caller set no time limit.
DEFAULT_LIMIT = 10.0
_MAX_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_A = TypeVar("_A")


class Ask(msgspec.Struct, array_like=True):
    """What goes to the server."""

    seconds: float
    operation: AnyOperation


_encode = msgspec.msgpack.Encoder().encode
_decode_ask = msgspec.msgpack.Decoder(Ask).decode
_ANSWERS: msgspec.msgpack.Decoder[AnyAnswer] = msgspec.msgpack.Decoder(AnyAnswer)


# -- the server -------------------------------------------------------------------------------------------------------


class StoreServer(socketserver.ThreadingUnixStreamServer):
    """Hosts *store* at *path*; `serve_forever()` answers until `shutdown()` is called from another thread."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, store: Store, path: str | Path) -> None:
        self.store, self.path = store, str(path)
        self._stopping = False
        self._open: set[socket.socket] = set()
        _remove_stale(self.path)
        try:
            super().__init__(self.path, _Connection)
        except OSError as error:
            raise ConfigError(f"cannot listen: {error.strerror or error}", field=self.path) from None
        # The workers of a region share its group; nobody else may write into its data.
        Path(self.path).chmod(0o660)

    def serve_until_stopped(self) -> None:
        """Answer until `stop_soon()` is called."""
        while not self._stopping:
            self.handle_request()

    def stop_soon(self) -> None:
        """End `serve_until_stopped()`; safe in a signal handler, where `shutdown()` would wait for ever."""
        self._stopping = True
        # After a signal Python resumes the interrupted wait; a connection ends it.
        with socket.socket(socket.AF_UNIX) as knock, contextlib.suppress(OSError):
            knock.connect(self.path)

    def server_close(self) -> None:
        """Stop listening, end all connections and remove the socket file."""
        super().server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        Path(self.path).unlink(missing_ok=True)

    @contextmanager
    def holding(self, connection: socket.socket) -> Iterator[None]:
        """Remember a connection while it is served."""
        self._open.add(connection)
        try:
            yield
        finally:
            self._open.discard(connection)


class _Connection(socketserver.BaseRequestHandler):
    server: StoreServer

    def handle(self) -> None:
        with self.server.holding(self.request), contextlib.suppress(OSError):
            while (message := _receive(self.request)) is not None:
                _send(self.request, _encode(self._answer(message)))

    def _answer(self, message: bytes) -> AnyAnswer:
        try:
            ask = _decode_ask(message)
            with self.server.store.time_limit(ask.seconds):
                return perform(self.server.store, ask.operation)
        except MeshError as error:
            return Failed(error.to_dict())
        except msgspec.MsgspecError as error:
            return Failed(InvalidRequest(f"not an operation: {error}").to_dict())
        except Exception as error:  # noqa: BLE001 - one bad operation must not end the connection
            return Failed(StoreError(f"the store failed: {type(error).__name__}: {error}").to_dict())


def serve(store: Store, path: str | Path, on_start: Callable[[Callable[[], None]], None]) -> None:
    """Host *store* on a unix socket; *on_start* gets what ends it, for example to hang it on SIGTERM."""
    with StoreServer(store, path) as server:
        on_start(server.stop_soon)
        server.serve_until_stopped()


@contextmanager
def serving(store: Store, path: str | Path) -> Iterator[StoreServer]:
    """Host *store* from a thread of this process for the length of the block."""
    with StoreServer(store, path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _remove_stale(path: str) -> None:
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise ConfigError("another store is served there", field=path)
    Path(path).unlink(missing_ok=True)


# -- the client -------------------------------------------------------------------------------------------------------


class ServedStore:
    """A `Store` whose places live in the process that serves *path*; connects when first used."""

    def __init__(self, path: str | Path, region: str) -> None:
        self.region = region
        self._path = str(path)
        self._deadline = Deadline()
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def time_limit(self, seconds: float) -> AbstractContextManager[None]:
        """Bound everything this thread does with the store inside the block."""
        return self._deadline.limit(seconds)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def insert(self, place: Draft) -> Place:
        """Store a new place."""
        return self._ask(Insert(place), Stored).place

    def insert_many(self, places: Sequence[Draft]) -> BulkStored:
        """Store new places, each on its own."""
        return self._ask(InsertMany(list(places)), BulkStored)

    def upsert(self, place: Draft) -> Place:
        """Store a place, replacing what has its id."""
        return self._ask(Upsert(place), Stored).place

    def get(self, id: str) -> Place:  # noqa: A002
        """Return one place."""
        return self._ask(Get(id), Stored).place

    def get_many(self, ids: Sequence[str]) -> list[Place]:
        """Return those that exist, in the order asked."""
        return self._ask(GetMany(list(ids)), Found).places

    def update(self, id: str, patch: Properties) -> Place:  # noqa: A002
        """Merge a patch into the properties."""
        return self._ask(Update(id, patch), Stored).place

    def move(self, id: str, lon: float, lat: float, timestamp: float) -> Place:  # noqa: A002
        """Set the position, unless a newer one is stored."""
        return self._ask(Move(id, lon, lat, timestamp), Stored).place

    def delete(self, id: str, version: int | None = None) -> None:  # noqa: A002
        """Remove a place."""
        self._ask(Delete(id, version), Deleted)

    def nearest(self, query: Nearest) -> Found:
        """Return the nearest places."""
        return self._ask(query, Found)

    def within_radius(self, query: WithinRadius) -> Found:
        """Return the places within a radius, nearest first."""
        return self._ask(query, Found)

    def within_box(self, query: WithinBox) -> Found:
        """Return the places in a box."""
        return self._ask(query, Found)

    def within_polygon(self, query: WithinPolygon) -> Found:
        """Return the places in a polygon."""
        return self._ask(query, Found)

    def intersects(self, query: Intersects) -> Found:
        """Return the places whose geometry touches the given one."""
        return self._ask(query, Found)

    def find(self, query: Find) -> Found:
        """Return the places whose properties match."""
        return self._ask(query, Found)

    def count(self, query: Count) -> int:
        """Count the places whose properties match."""
        return self._ask(query, Counted).count

    def _ask(self, operation: AnyOperation, kind: type[_A]) -> _A:
        answer = self._exchange(operation)
        if isinstance(answer, Failed):
            raise from_dict(answer.error)
        if not isinstance(answer, kind):
            raise StoreError(f"the store answered {type(answer).__name__} where {kind.__name__} belongs")
        return answer

    def _exchange(self, operation: AnyOperation) -> AnyAnswer:
        seconds = self._deadline.remaining() or DEFAULT_LIMIT
        try:
            with self._connection(seconds) as connection:
                _send(connection, _encode(Ask(seconds, operation)))
                message = _receive(connection)
                if message is None:
                    raise StoreUnavailable("the store's server ended before it answered")
                return _ANSWERS.decode(message)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from the store within {seconds:.3g} s") from None
        except OSError as error:
            raise StoreUnavailable(f"cannot reach the store: {error.strerror or error}") from None
        except msgspec.MsgspecError as error:
            raise StoreError(f"the store's answer cannot be read: {error}") from None

    @contextmanager
    def _connection(self, seconds: float) -> Iterator[socket.socket]:
        held = self._take()
        connection = held or socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(seconds)
            if held is None:
                connection.connect(self._path)
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)

    def _take(self) -> socket.socket | None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if _is_fresh(connection):
                    return connection
                connection.close()
        return None


def _is_fresh(connection: socket.socket) -> bool:
    # A restarted server has closed it. Seen here, nothing was sent yet, so a new connection is no retry of a write.
    connection.settimeout(0)  # with a timeout set, Python waits for it even under MSG_DONTWAIT
    with contextlib.suppress(BlockingIOError):
        connection.recv(1, socket.MSG_PEEK)
        return False
    return True


# -- frames -----------------------------------------------------------------------------------------------------------


def _send(connection: socket.socket, message: bytes) -> None:
    if len(message) > _MAX_BYTES:
        raise InvalidRequest(f"a message of {len(message):,} bytes is over the limit of {_MAX_BYTES:,}")
    connection.sendall(_LENGTH.pack(len(message)) + message)


def _receive(connection: socket.socket) -> bytes | None:
    header = _read(connection, _LENGTH.size)
    if header is None:
        return None
    (length,) = _LENGTH.unpack(header)
    if length > _MAX_BYTES:
        raise OSError(f"a message of {length:,} bytes announced")
    return _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
