"""What a broker says of itself."""

from math import isfinite
from typing import Any

from mesh.core.dispatch import Dispatcher
from mesh.core.peers import Peer
from mesh.core.settings import BrokerSettings
from mesh.core.workers import Worker


def report(settings: BrokerSettings, jobs: Dispatcher, clients: int, uptime: float) -> dict[str, Any]:
    """Return the STATUS of a broker: plain values, times in seconds."""
    return {
        "region": settings.region,
        "epoch": settings.epoch,
        "software": settings.software,
        "release": settings.release,
        "config_digest": settings.config_digest,
        "map_digest": settings.map_digest.hex(),
        "uptime": round(uptime, 3),
        "draining": jobs.draining,
        "clients": clients,
        "outstanding": len(jobs.outstanding),
        "queue": {
            "own": len(jobs.waiting.own),
            "again": len(jobs.waiting.again),
            "spilled": len(jobs.waiting.spilled),
            "limit": jobs.waiting.limit,
        },
        "service_seconds": round(jobs.workers.service_seconds, 6),
        "workers": [_worker(worker) for worker in jobs.workers],
        "peers": [_peer(peer) for peer in jobs.peers],
        "counters": dict(sorted(jobs.count.items())),
    }


def _worker(worker: Worker) -> dict[str, Any]:
    return {
        "instance": worker.instance,
        "state": worker.state.value,
        "service": worker.service,
        "inflight": len(worker.inflight),
        "room": worker.room,
        "slots": worker.slots,
        "done": worker.done,
    }


def _peer(peer: Peer) -> dict[str, Any]:
    return {
        "region": peer.name,
        "serving": peer.serving.value,
        "asking": peer.asking.value,
        "rtt": round(peer.rtt_seconds, 6) if isfinite(peer.rtt_seconds) else None,
        "credit": peer.wallet.left,
        "granted": peer.grant.unspent,
        "forwarded": peer.forwarded,
        "spilled_out": peer.spilled_out,
        "spilled_in": peer.spilled_in,
    }
