"""What a core is told at its start."""

from msgspec import Struct


class BrokerSettings(Struct, frozen=True, kw_only=True):
    """The settings of a `BrokerCore`; times in seconds."""

    region: str
    #: All regions of the mesh, this one included.
    regions: tuple[str, ...]
    #: A new one at each start.
    epoch: str
    map_digest: bytes
    #: GeoJSON of the region map, handed to clients.
    region_map: bytes
    #: Jobs that may wait here for a worker.
    queue: int = 256
    #: Jobs on one worker, running and waiting, at most.
    window: int = 8
    heartbeat: float = 0.25
    #: Heartbeats missed before a worker or a peer counts as dead.
    liveness: int = 4
    #: How long a drain may take.
    grace: float = 10.0
    software: str = ""
    #: What was deployed: shown in STATUS, and not otherwise used.
    release: str = ""
    config_digest: str = ""

    @property
    def patience(self) -> float:
        """How long a worker or a peer may be silent."""
        return self.heartbeat * self.liveness


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """The settings of a `WorkerCore`; times in seconds."""

    region: str
    instance: str
    epoch: str
    map_digest: bytes
    service: str = "places"
    slots: int = 1
    window: int = 32
    heartbeat: float = 0.25
    liveness: int = 4
    grace: float = 10.0
