"""What a client may ask a broker for."""

from typing import NamedTuple

from mesh.errors import InvalidRequest
from mesh.model import AnyOperation
from mesh.protocol import body, header, limits
from mesh.protocol.header import Flag, Kind

_READS = frozenset(
    {"nearest", "within_radius", "within_box", "within_polygon", "intersects", "find", "count", "get", "get_many"}
)


class Request(NamedTuple):
    """What to ask a broker: an operation of a region, or one of the kinds that a broker answers itself."""

    kind: int
    region: bytes = header.NO_REGION
    body: bytes = b""
    flags: int = 0


def request(region: str, operation: AnyOperation) -> Request:
    """Return the request that asks *region* for *operation*.

    Raises `LocalProtocolError` for an impossible name, `InvalidRequest` for more than a message may hold.
    """
    flags = int(Flag.IDEMPOTENT) if operation.__struct_config__.tag in _READS else 0
    content = body.encode(operation)
    if header.SIZE + len(content) > limits.MAX_FRAME_BYTES:
        message = f"takes {len(content):,} bytes, where a message holds {limits.MAX_FRAME_BYTES:,}"
        raise InvalidRequest(message, field="body", hint="ask or write less at a time")
    return Request(int(Kind.REQUEST), header.pad_region(region), content, flags)


def admin(kind: Kind) -> Request:
    """Return the request for a broker's own STATUS, REGIONS or PING, or HELLO for its WELCOME."""
    return Request(int(kind), flags=int(Flag.IDEMPOTENT))
