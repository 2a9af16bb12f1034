"""Where pymongo's errors become the mesh's: one table, so that nothing above a store knows which driver it uses.

The driver's texts quote queries, documents and addresses. They stay here; the errors that leave name only what kind of
failure it was, with MongoDB's code.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from bson.errors import BSONError
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)

from mesh.errors import (
    ConfigError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    MeshError,
    StoreError,
    StoreOverloaded,
    StoreUnavailable,
)
from mesh.store.deadline import Deadline

#: Labels of servers from 8.2 on that shed load, and the code of a refused connection.
_OVERLOAD_LABELS = ("SystemOverloadedError", "IngressRequestRateLimitExceeded")
_OVERLOAD_CODES = {462}
_DUPLICATE = 11000
_LOST_CURSOR = 43
_UNAUTHORIZED = {13: "not authorized", 18: "authentication failed"}
_INVALID = {
    52: "a property name starts with $",
    57: "a property name contains a dot",
    121: "the document breaks the collection's validation rules",
    10334: "the document is larger than 16 MB",
    16755: "the geometry cannot be indexed",
    17419: "the document is larger than 16 MB",
    17420: "the document is larger than 16 MB",
}


class Boundary:
    """A reusable context manager: pymongo's and bson's errors leave it as the mesh's."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._deadline.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, NetworkTimeout) and not isinstance(error, WaitQueueTimeoutError):
            self._deadline.check()
        if isinstance(error, PyMongoError | BSONError | OverflowError):
            # Not "from error": its text quotes the query.
            raise translate(error) from None


def translate(error: Exception) -> MeshError:
    """Return the mesh's error for one of pymongo's or bson's."""
    if isinstance(error, PyMongoError) and _is_overload(error):
        return StoreOverloaded("MongoDB pushes back: too many requests at once")
    for kinds, build in _TABLE:
        if isinstance(error, kinds):
            return build(error)
    return StoreError(f"the MongoDB driver failed ({type(error).__name__})")


def from_write_error(details: Mapping[str, Any], id: str | None = None) -> MeshError:  # noqa: A002
    """Return the mesh's error for one entry of MongoDB's `writeErrors`; *id* is that of the place."""
    if details.get("code") == _DUPLICATE:
        return Conflict("the id exists", id=id or (details.get("keyValue") or {}).get("_id"))
    return _from_code(int(details.get("code", 0)), "")


def unencodable(error: Exception) -> InvalidRequest:
    """Return the error for a document that BSON cannot hold."""
    if isinstance(error, DocumentTooLarge):
        return InvalidRequest("the document is larger than 16 MB", field="place")
    if isinstance(error, OverflowError):
        return InvalidRequest("a number does not fit into 64 bits", field="properties")
    return InvalidRequest("a property cannot be stored", field="properties", hint="only JSON values, no NUL in names")


def _is_overload(error: PyMongoError) -> bool:
    if any(error.has_error_label(label) for label in _OVERLOAD_LABELS):
        return True
    return isinstance(error, WaitQueueTimeoutError) or getattr(error, "code", None) in _OVERLOAD_CODES


def _from_code(code: int, name: str) -> MeshError:
    if code in _INVALID:
        return InvalidRequest(_INVALID[code], field="place")
    if code == _LOST_CURSOR:
        return StoreUnavailable("MongoDB lost the cursor of this query")
    if code in _UNAUTHORIZED:
        return StoreError(f"MongoDB: {_UNAUTHORIZED[code]}")
    return StoreError(f"MongoDB failed with code {code} {name}".rstrip())


#: The first row that fits counts: pymongo's classes derive from one another.
_TABLE: tuple[tuple[tuple[type[Exception], ...], Callable[[Any], MeshError]], ...] = (
    ((ExecutionTimeout,), lambda _: DeadlineExceeded("the time limit ended before MongoDB answered")),
    ((DuplicateKeyError,), lambda error: from_write_error(error.details or {})),
    ((DocumentTooLarge, BSONError, OverflowError), unencodable),
    ((ConfigurationError,), lambda error: ConfigError(f"MongoDB connection string: {error}", field="uri")),
    # NetworkTimeout, NotPrimaryError and ServerSelectionTimeoutError are such.
    ((AutoReconnect,), lambda error: StoreUnavailable(f"MongoDB cannot be reached ({type(error).__name__})")),
    ((OperationFailure,), lambda error: _from_code(error.code or 0, (error.details or {}).get("codeName", ""))),
)
