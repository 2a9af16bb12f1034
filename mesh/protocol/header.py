"""The header: 48 bytes in front of every body, packed, versioned, big-endian.

Header and body travel in ONE frame: with two parts at a ROUTER a plain-Python broker moves ten times as many requests
as with five. `docs/protocol.md` has the layout as a table and test vectors.
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.protocol import limits

_LAYOUT = Struct(">BBBBBBH8s16sIQ4s")
SIZE = _LAYOUT.size
# Parts of it: flags..demand at 2, demand alone at 6, budget and credit at 32, credit alone at 36.
_START, _DEMAND, _END, _CREDIT = Struct(">BBBBH"), Struct(">H"), Struct(">IQ"), Struct(">Q")
_BUDGET = Struct(">I")
# What the express lane looks at: flags, attempt, region, job, budget, map digest.
_ORDINARY = Struct(">xxBxBxxx8s16sI8x4s")


NO_JOB = bytes(16)
NO_REGION = bytes(8)
ANY_MAP = bytes(4)


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    WELCOME = 2
    READY = 3
    REQUEST = 4
    REPLY = 5
    PARTIAL = 6
    NACK = 7
    CANCEL = 8
    HEARTBEAT = 9
    DRAIN = 10
    GOODBYE = 11
    STATUS = 12
    REGIONS = 13
    PING = 14


class Flag(IntEnum):
    """What is true of a job, or of a refusal; a bit each. Plain integers, for an IntFlag's `&` costs microseconds."""

    NONE = 0
    #: Running the job twice does no harm, so it may be requeued when a worker or a peer dies.
    IDEMPOTENT = 1
    #: Given to another region's workers; never spilled or forwarded again.
    SPILLED = 2
    #: Sent on to the region that owns the data; never forwarded again.
    FORWARDED = 4
    #: In a NACK: do not send this again, not even later.
    NO_RETRY = 8


class Criticality(IntEnum):
    """What goes first when there is too much (Google SRE's four classes); lower numbers are shed later."""

    CRITICAL_PLUS = 0
    CRITICAL = 1
    SHEDDABLE_PLUS = 2
    SHEDDABLE = 3


class Reason(IntEnum):
    """Why a NACK."""

    NONE = 0
    MALFORMED = 1
    VERSION = 2
    NO_SESSION = 3
    UNEXPECTED = 4
    UNKNOWN_REGION = 5
    STALE_MAP = 6
    BUSY = 7
    EXPIRED = 8
    REGION_UNAVAILABLE = 9
    WORKER_LOST = 10
    TOO_LARGE = 11
    DUPLICATE = 12
    DRAINING = 13
    NO_CREDIT = 14
    CANCELLED = 15


class Header(NamedTuple):
    """The fields of a header, in wire order."""

    version: int = limits.VERSIONS[-1]
    kind: int = 0
    flags: int = 0
    criticality: int = Criticality.CRITICAL
    #: How many times the job has been started before.
    attempt: int = 0
    #: Why, in a NACK.
    reason: int = 0
    #: From a broker that asks: how many jobs it would like to spill. From one that serves: how many of the credits it
    #: has granted have no idle worker behind them.
    demand: int = 0
    #: The region whose data the job is about, NUL-padded.
    region: bytes = NO_REGION
    #: The job's id, chosen by the client, unique; in a HEARTBEAT a token that is sent back.
    job: bytes = NO_JOB
    #: Remaining time in milliseconds, relative so that clocks need not agree; in a NACK the time before a retry.
    budget_ms: int = 0
    #: Between brokers cumulative, since both said hello: to the asking side, how many jobs it may spill in all; from
    #: it, how many it has spilled in all. In a worker's REPLY: the microseconds the job took.
    credit: int = 0
    #: The first bytes of the region map's digest; zeros match any.
    map_digest: bytes = ANY_MAP


def peek(frame: bytes) -> Header:
    """Return the header of a frame that has one."""
    return _new_tuple(Header, _LAYOUT.unpack_from(frame))


def skim(frame: bytes) -> tuple[int, int, bytes, bytes, int, bytes]:
    """Return flags, attempt, region, job, budget and map digest of a sound frame: `peek` in half the time."""
    return _ORDINARY.unpack_from(frame)


def took_seconds(frame: bytes) -> float:
    """Return how long the job of a worker's REPLY took: its credit field, which is in microseconds."""
    microseconds: int = _CREDIT.unpack_from(frame, 36)[0]
    return microseconds * 1e-6


def read(frame: bytes) -> Header | None:
    """Return the header of a frame, None if `fault` finds something wrong with it; the hot path's `decode`."""
    if SIZE <= len(frame) <= limits.MAX_FRAME_BYTES and frame[0] in limits.VERSIONS and frame[1] in _KINDS:
        return _new_tuple(Header, _LAYOUT.unpack_from(frame))
    return None


def encode(header: Header, body: bytes = b"") -> bytes:
    """Return the frame; raises `LocalProtocolError` if a field does not fit or the frame is too large."""
    try:
        frame = _LAYOUT.pack(*header) + body
    except Exception as error:
        raise LocalProtocolError(f"the header does not fit the wire: {error}") from error
    if len(frame) > limits.MAX_FRAME_BYTES:
        raise LocalProtocolError(f"the message has {len(frame)} bytes, the limit is {limits.MAX_FRAME_BYTES}")
    return frame


def readdress(frame: bytes, *, flags: int, attempt: int, budget_ms: int, demand: int = 0, credit: int = 0) -> bytes:
    """Return the frame as it goes on to the next hop: what changes on the way is new, the rest is copied."""
    start = _START.pack(flags, frame[3], attempt, frame[5], demand)
    return b"".join((frame[:2], start, frame[8:32], _END.pack(budget_ms, credit), frame[44:]))


def with_budget(frame: bytes, budget_ms: int) -> bytes:
    """Return the frame with another budget."""
    return b"".join((frame[:32], _BUDGET.pack(budget_ms), frame[36:]))


def reply(job: bytes, microseconds: int, body: bytes) -> bytes:
    """Return a worker's REPLY; `limits.MAX_FRAME_BYTES` is the broker's to enforce."""
    return b"".join((_REPLY, job, _END.pack(0, microseconds), ANY_MAP, body))


def with_credit(frame: bytes, *, demand: int, credit: int) -> bytes:
    """Return the frame with other demand and credit."""
    return b"".join((frame[:6], _DEMAND.pack(demand), frame[8:36], _CREDIT.pack(credit), frame[44:]))


def decode(frame: bytes) -> Header:
    """Return the header of a frame; raises `RemoteProtocolError` (with the `Reason` as a field) if there is none."""
    reason = fault(frame)
    if reason is not None:
        raise RemoteProtocolError(explain(frame, reason), reason=reason.name.lower())
    return peek(frame)


def fault(frame: bytes) -> Reason | None:
    """Return what is wrong with a frame's header, None if nothing is."""
    if len(frame) < SIZE:
        return Reason.MALFORMED
    if frame[0] not in limits.VERSIONS:
        return Reason.VERSION
    if len(frame) > limits.MAX_FRAME_BYTES:
        return Reason.TOO_LARGE
    if frame[1] not in _KINDS:
        return Reason.MALFORMED
    return None


_new_tuple = tuple.__new__  # what Header._make does, without the detour
_REPLY = _LAYOUT.pack(*Header(kind=Kind.REPLY))[:16]
_KINDS = frozenset(int(kind) for kind in Kind)


def explain(frame: bytes, reason: Reason) -> str:
    """Say in words what `fault` found."""
    if reason is Reason.VERSION:
        spoken = ", ".join(map(str, limits.VERSIONS))
        return f"protocol version {frame[0]} is not spoken here; this side speaks {spoken}"
    if reason is Reason.TOO_LARGE:
        return f"the message has {len(frame)} bytes, the limit is {limits.MAX_FRAME_BYTES}"
    if len(frame) < SIZE:
        return f"a message starts with a header of {SIZE} bytes, this one has {len(frame)} bytes in all"
    return f"there is no message kind {frame[1]}"


def pad_region(name: str) -> bytes:
    """Return a region's name as it stands in the header; raises `LocalProtocolError` if it is too long."""
    raw = name.encode()
    if len(raw) > limits.MAX_REGION_BYTES:
        raise LocalProtocolError(f"the region name {name!r} is longer than {limits.MAX_REGION_BYTES} bytes")
    return raw.ljust(limits.MAX_REGION_BYTES, b"\0")


def region_name(field: bytes) -> str:
    """Return the region's name from the header's field."""
    return field.rstrip(b"\0").decode("ascii", "replace")
