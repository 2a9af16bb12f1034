"""NACK: saying no, with the reason, whether and when to come back, and a line for people."""

from mesh.protocol import limits
from mesh.protocol.body import encode_text
from mesh.protocol.header import NO_JOB, Flag, Header, Kind, Reason, encode

#: Milliseconds; nobody should be told to come back later than in a minute.
_LONGEST_WAIT_MS = 60_000


def nack(
    reason: Reason,
    text: str,
    *,
    job: bytes = NO_JOB,
    retry_after: float | None = None,
    retry: bool = True,
) -> bytes:
    """Return the frame of a NACK; *retry_after* in seconds, *retry* False for "do not send this again"."""
    wait = limits.NO_RETRY_AFTER if retry_after is None else int(min(retry_after * 1000, _LONGEST_WAIT_MS))
    flags = Flag.NONE if retry else Flag.NO_RETRY
    head = Header(kind=Kind.NACK, flags=flags, reason=reason, job=job, budget_ms=wait)
    return encode(head, encode_text(text))


def retry_after(head: Header) -> float | None:
    """Return the seconds a NACK asks to wait, None if it does not say."""
    return None if head.budget_ms == limits.NO_RETRY_AFTER else head.budget_ms / 1000
