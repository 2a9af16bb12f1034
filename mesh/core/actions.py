"""What a core may ask of the world, and what every core can be told."""

from enum import IntEnum
from typing import Any, NamedTuple, Protocol


class Link(IntEnum):
    """The sockets a core knows, by what is behind them."""

    #: Cloud FE: clients, and peers that ask.
    FRONT = 0
    #: Cloud BE: peers that serve.
    BACK = 1
    #: Local BE of a broker: its workers. The only link of a worker: its broker.
    LOCAL = 2


class Send(NamedTuple):
    """Send a frame; whoever does it reports `Core.undeliverable` if it cannot be handed over."""

    link: int
    to: bytes
    frame: bytes


class Run(NamedTuple):
    """Run a job with the worker's service, within so many seconds, and report `WorkerCore.finished`."""

    job: bytes
    region: str
    body: bytes
    seconds: float


class Log(NamedTuple):
    """Write a line to the log."""

    level: str
    event: str
    fields: dict[str, Any]


class Stop(NamedTuple):
    """All is done that had to be done; end the loop."""


Action = Send | Run | Log | Stop


class Core(Protocol):
    """What the message loop knows of a broker or a worker: tell it what happened, perform what it returns."""

    def receive(self, link: int, sender: bytes, frame: bytes, now: float) -> list[Action]:
        """A message of one part arrived (behind the sender's routing id)."""

    def malformed(self, link: int, sender: bytes, parts: int, now: float) -> list[Action]:
        """A message of another shape arrived; its content is gone."""

    def undeliverable(self, link: int, to: bytes, frame: bytes, now: float) -> list[Action]:
        """A `Send` could not be handed to the transport: nobody there, or no room."""

    def tick(self, now: float) -> list[Action]:
        """Time has passed; called at least when `wake_at` says so."""

    def wake_at(self) -> float:
        """When the core wants its next tick."""

    def drain(self, now: float) -> list[Action]:
        """Finish what is there, take nothing new, then `Stop`."""


class Outbox:
    """Collects the actions of one event."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self._last: dict[str, float] = {}

    def take(self) -> list[Action]:
        """Return what was collected and start anew."""
        actions, self.actions = self.actions, []
        return actions

    def send(self, link: int, to: bytes, frame: bytes) -> None:
        """Send a frame."""
        self.actions.append(Send(link, to, frame))

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Log an event."""
        self.actions.append(Log(level, event, fields))

    def log_rarely(self, now: float, level: str, event: str, **fields: Any) -> None:
        """Log an event that strangers can cause at most once a second, so that they cannot fill the journal."""
        if now - self._last.get(event, -1e9) >= 1.0:
            self._last[event] = now
            self.log(level, event, **fields)
