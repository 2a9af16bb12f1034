"""The whole error tree on one screen.

Every error carries fields; the text is for people, the fields are for programs and for the wire.
"""

from typing import Any, ClassVar


class MeshError(Exception):
    """Anything the mesh raises on purpose; catch this to catch them all."""

    code: ClassVar[str] = "error"
    #: Whether the same request may succeed later, unchanged.
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = {name: value for name, value in fields.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return `{code, message, retryable, ...fields}` for JSON output and for the wire."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable, **self.fields}


class InvalidRequest(MeshError):
    """The request itself is wrong: *field* says where, *hint* what to do about it."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None, **fields: Any) -> None:
        super().__init__(message, field=field, hint=hint, **fields)
        self.field = field
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.message}{hint}"


class WrongRegion(InvalidRequest):
    """A write went to a region that does not own its position; *region* does."""

    code = "wrong_region"

    def __init__(self, message: str, *, region: str, **fields: Any) -> None:
        super().__init__(message, region=region, **fields)
        self.region = region


class NotFound(MeshError):
    """No region that was asked holds a place with this *id*."""

    code = "not_found"

    def __init__(self, message: str, *, id: str | None = None) -> None:  # noqa: A002 - the field's name in GeoJSON
        super().__init__(message, id=id)
        self.id = id


class Conflict(MeshError):
    """The write contradicts what is stored, for example an insert of an *id* that exists."""

    code = "conflict"

    def __init__(self, message: str, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(message, id=id)
        self.id = id


class Busy(MeshError):
    """The mesh refused the request before doing anything; try again after *retry_after* seconds, if given."""

    code = "busy"
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retry_after = retry_after


class RegionUnavailable(MeshError):
    """Neither the broker nor the data of these *regions* could be reached."""

    code = "region_unavailable"
    retryable = True

    def __init__(self, message: str, *, regions: tuple[str, ...] | list[str] = ()) -> None:
        super().__init__(message, regions=list(regions))
        self.regions = tuple(regions)


class DeadlineExceeded(MeshError):
    """No answer within the time the caller gave; a write may or may not have happened."""

    code = "deadline_exceeded"
    retryable = True


class ProtocolError(MeshError):
    """Frames or messages that break the protocol; raised as one of its two kinds."""

    code = "protocol_error"


class LocalProtocolError(ProtocolError):
    """We tried to send what the protocol forbids: a bug of the caller."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol forbids."""


class StoreError(MeshError):
    """The store failed at something it should be able to do."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """The store cannot be reached."""

    code = "store_unavailable"
    retryable = True


class StoreOverloaded(StoreError):
    """The store is reached but pushes back; sending it the same job from elsewhere makes it worse."""

    code = "store_overloaded"
    retryable = True


class ConfigError(MeshError):
    """A configuration file or a command line is wrong: *file*, *field*, and a *hint*."""

    code = "config_error"

    def __init__(
        self, message: str, *, file: str | None = None, field: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, file=file, field=field, hint=hint)
        self.file, self.field, self.hint = file, field, hint

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.field) if part)
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}: {self.message}{hint}" if where else f"{self.message}{hint}"


class CannotListen(MeshError):
    """An address is not free, or not here yet: no fault of the configuration, so starting again may help."""

    code = "cannot_listen"
    retryable = True


_BY_CODE: dict[str, type[MeshError]] = {
    kind.code: kind
    for kind in (
        InvalidRequest, WrongRegion, NotFound, Conflict, Busy, RegionUnavailable, DeadlineExceeded,
        StoreError, StoreUnavailable, StoreOverloaded, ConfigError,
    )
}  # fmt: skip


def from_dict(document: dict[str, Any]) -> MeshError:
    """Rebuild an error from `MeshError.to_dict()`; an unknown code becomes a plain `MeshError`."""
    fields = {name: value for name, value in document.items() if name not in {"code", "message", "retryable"}}
    message = str(document.get("message", "unknown error"))
    try:
        return _BY_CODE[document["code"]](message, **fields)
    except (KeyError, TypeError):
        return MeshError(message, **fields)
