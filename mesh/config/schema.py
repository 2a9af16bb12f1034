"""The configuration of one host: its broker, its workers, its peers and the shards they read."""

from msgspec import Struct


class Mesh(Struct, frozen=True, forbid_unknown_fields=True):
    """`[mesh]`: which region this host serves."""

    region: str
    #: Path of the region map (GeoJSON), absolute or relative to the configuration file; empty for the one shipped.
    map: str = ""
    #: What the deployment calls this software with this configuration; shown in status, empty outside of a deployment.
    release: str = ""


class Broker(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[broker]`: times in seconds."""

    #: Where clients and peers connect (cloud FE).
    listen: str
    #: Where the workers of this region connect (local BE).
    workers: str
    #: A second address for workers on other hosts of this region; empty if there are none.
    workers_tcp: str = ""
    #: Jobs that may wait for a worker before clients are told BUSY.
    queue: int = 256
    #: Jobs on one worker, running and waiting, at most.
    window: int = 8
    #: Time between heartbeats.
    heartbeat: float = 0.25
    #: Heartbeats missed before a worker or a peer counts as dead.
    liveness: int = 4
    #: Time a drain may take.
    grace: float = 10.0


class Worker(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[worker]`: what every worker of this host is."""

    #: Jobs one worker runs at the same time.
    slots: int = 1
    #: `places`, `echo`, or `sleep:MILLISECONDS`.
    service: str = "places"


class Peer(Struct, frozen=True, forbid_unknown_fields=True):
    """`[peers.NAME]`: another region's broker."""

    endpoint: str


class Shard(Struct, frozen=True, forbid_unknown_fields=True):
    """`[shards.NAME]`: where the places of a region are."""

    uri: str
    database: str = "mesh"
    #: The account, which exists in the same database (SCRAM-SHA-256); empty for a MongoDB without accounts.
    username: str = ""
    #: Which credential holds its password, see `mesh.service.credentials`. Never the password itself.
    password_credential: str = ""
    #: CA certificates of the servers, absolute or relative to the configuration file; TLS is used if it is set.
    ca_file: str = ""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    mesh: Mesh
    broker: Broker
    worker: Worker = Worker()
    peers: dict[str, Peer] = {}
    shards: dict[str, Shard] = {}

    @property
    def region(self) -> str:
        """The region this host serves."""
        return self.mesh.region
