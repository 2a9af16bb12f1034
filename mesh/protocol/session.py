"""Who may say what when, as tables.

Theory of operation: a broker holds one session for each routing id it hears on each of its links. A session has a
state, and the table says which message kinds are legal in it and which state follows. All transitions live here; code
asks `follow` and acts on the answer. What a table does not list is refused with a NACK (`NO_SESSION` when a hello would
cure it, `UNEXPECTED` otherwise) and changes nothing, so a stranger, a restarted broker and a confused client are all
answered, and none of them can kill a session that works.

The tables are written from the broker's side: what may ARRIVE from a client, a peer, a worker. `mesh.client` and
`WorkerCore` are the other ends.
"""

from enum import StrEnum

from mesh.protocol.header import Kind, Reason


class Role(StrEnum):
    """Who is at the other end."""

    CLIENT = "client"
    #: A peer's cloud BE, as seen by my cloud FE: its jobs for me come in here.
    ASKING_PEER = "asking_peer"
    #: A peer's cloud FE, as seen by my cloud BE: its answers to my jobs come in here.
    SERVING_PEER = "serving_peer"
    WORKER = "worker"


class State(StrEnum):
    """How far a session has come."""

    NEW = "new"
    OPEN = "open"
    #: It finishes what it has and wants nothing new.
    DRAINING = "draining"


Table = dict[State, dict[int, State]]


def _stay(state: State, *kinds: Kind) -> dict[int, State]:
    return {int(kind): state for kind in kinds}


CLIENT: Table = {
    State.NEW: {Kind.HELLO: State.OPEN},
    State.OPEN: {
        **_stay(State.OPEN, Kind.HELLO, Kind.REQUEST, Kind.CANCEL, Kind.HEARTBEAT),
        **_stay(State.OPEN, Kind.STATUS, Kind.REGIONS, Kind.PING),
        Kind.GOODBYE: State.NEW,
    },
}
ASKING_PEER: Table = {
    State.NEW: {Kind.HELLO: State.OPEN},
    State.OPEN: {
        **_stay(State.OPEN, Kind.HELLO, Kind.REQUEST, Kind.CANCEL, Kind.HEARTBEAT),
        Kind.GOODBYE: State.NEW,
    },
}
SERVING_PEER: Table = {
    State.NEW: {Kind.WELCOME: State.OPEN, Kind.NACK: State.NEW, Kind.GOODBYE: State.NEW},
    State.OPEN: {
        **_stay(State.OPEN, Kind.WELCOME, Kind.REPLY, Kind.NACK, Kind.HEARTBEAT),
        Kind.DRAIN: State.DRAINING,
        Kind.GOODBYE: State.NEW,
    },
    State.DRAINING: {
        Kind.WELCOME: State.OPEN,
        **_stay(State.DRAINING, Kind.REPLY, Kind.NACK, Kind.HEARTBEAT, Kind.DRAIN),
        Kind.GOODBYE: State.NEW,
    },
}
WORKER: Table = {
    State.NEW: {Kind.READY: State.OPEN},
    State.OPEN: {
        **_stay(State.OPEN, Kind.READY, Kind.REPLY, Kind.NACK, Kind.HEARTBEAT),
        Kind.DRAIN: State.DRAINING,
        Kind.GOODBYE: State.NEW,
    },
    State.DRAINING: {
        **_stay(State.DRAINING, Kind.REPLY, Kind.NACK, Kind.HEARTBEAT, Kind.DRAIN),
        Kind.READY: State.OPEN,
        Kind.GOODBYE: State.NEW,
    },
}

TABLES: dict[Role, Table] = {
    Role.CLIENT: CLIENT,
    Role.ASKING_PEER: ASKING_PEER,
    Role.SERVING_PEER: SERVING_PEER,
    Role.WORKER: WORKER,
}


def follow(role: Role, state: State, kind: int) -> State | None:
    """Return the state after *kind* arrives, None if it must not."""
    return TABLES[role][state].get(kind)


def refusal(role: Role, state: State, kind: int) -> Reason:
    """Return the reason to give for a kind that `follow` does not allow."""
    would_do_if_open = kind in TABLES[role][State.OPEN]
    return Reason.NO_SESSION if state is State.NEW and would_do_if_open else Reason.UNEXPECTED
