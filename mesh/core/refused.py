"""What a refusal (NACK) means to the one who asked: the error that its caller gets."""

from mesh.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MeshError,
    ProtocolError,
    RegionUnavailable,
    RemoteProtocolError,
)
from mesh.protocol.header import Reason


class StaleMap(ProtocolError):
    """The broker has another region map; nothing was done. Fetch the map and plan anew."""

    code = "stale_map"
    retryable = True


def refusal(brokers: str, region: str, reason: int, text: str) -> MeshError:
    """Return the error for a job about *region* that *brokers* refused for good, with their *text*."""
    name = Reason(reason).name.lower() if reason in set(Reason) else str(reason)
    message = text or f"{brokers} refuses: {name}"
    if reason == Reason.STALE_MAP:
        return StaleMap(message)
    if reason in {Reason.EXPIRED, Reason.CANCELLED}:
        return DeadlineExceeded(message)
    if reason in {Reason.REGION_UNAVAILABLE, Reason.WORKER_LOST}:
        return RegionUnavailable(message, regions=[region] if region else [])
    if reason == Reason.UNKNOWN_REGION:
        return InvalidRequest(message, field="region")
    if reason == Reason.TOO_LARGE:
        return InvalidRequest(message, field="body", hint="ask or write less at a time")
    return RemoteProtocolError(message, reason=name)
