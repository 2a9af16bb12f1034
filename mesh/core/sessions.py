"""The clients a broker knows, by routing id."""

from mesh.protocol.session import State

#: Seconds of silence after which a client must say HELLO again (it is told so, and it costs it nothing else).
CLIENT_PATIENCE_SECONDS = 120.0
#: Sessions at most; nats-server has 64k connections by default, a broker's file descriptors end sooner.
MAX_CLIENTS = 20_000


class Clients:
    """Who said HELLO and when each was last heard."""

    def __init__(self) -> None:
        #: Routing id to the time it last spoke.
        self.heard: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self.heard)

    def state(self, routing_id: bytes) -> State:
        """Return how far a client's session has come."""
        return State.OPEN if routing_id in self.heard else State.NEW

    def hear(self, routing_id: bytes, now: float) -> None:
        """Note that a client with a session spoke, or open one."""
        self.heard[routing_id] = now

    @property
    def full(self) -> bool:
        """Whether no further session fits."""
        return len(self.heard) >= MAX_CLIENTS

    def drop(self, routing_id: bytes) -> None:
        """End a session."""
        self.heard.pop(routing_id, None)

    def expire(self, now: float) -> None:
        """End the sessions of those who have been silent too long."""
        for routing_id in [key for key, heard in self.heard.items() if now - heard > CLIENT_PATIENCE_SECONDS]:
            del self.heard[routing_id]
