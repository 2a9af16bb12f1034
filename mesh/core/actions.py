"""What a core may ask of the world, and what every core can be told."""

from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from msgspec import Struct


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


class Run(Struct, frozen=True):
    """Run a job with the worker's service until its deadline (on the loop's clock); report `WorkerCore.finished`."""

    job: bytes
    region: str
    body: bytes
    deadline: float


class Log(NamedTuple):
    """Write a line to the log."""

    level: str
    event: str
    fields: dict[str, Any]


class Stop(NamedTuple):
    """All is done that had to be done; end the loop."""


Action = Send | Run | Log | Stop


class Core(Protocol):
    """What the message loop knows of a broker or a worker: tell it what happened, then `take` what it wants done."""

    def receive(self, link: int, sender: bytes, frame: bytes, now: float) -> None:
        """A message of one part arrived (behind the sender's routing id)."""

    def malformed(self, link: int, sender: bytes, parts: int, now: float) -> None:
        """A message of another shape arrived; its content is gone."""

    def undeliverable(self, link: int, to: bytes, frame: bytes, now: float) -> None:
        """A `Send` could not be handed to the transport: nobody there, or no room."""

    def tick(self, now: float) -> None:
        """Time has passed; called at least when `wake_at` says so."""

    def wake_at(self) -> float:
        """When the core wants its next tick."""

    def drain(self, now: float) -> None:
        """Finish what is there, take nothing new, then `Stop`."""

    def take(self, now: float) -> list[Action]:
        """Everything that was decided since the last call, in order; called at the end of each turn."""


_new_tuple = tuple.__new__


class Outbox:
    """Collects what a core decides."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self._last: dict[str, float] = {}

    def take(self) -> list[Action]:
        """Return what was collected and start anew."""
        actions, self.actions = self.actions, []
        return actions

    def send(self, link: int, to: bytes, frame: bytes) -> None:
        """Send a frame."""
        # What Send(link, to, frame) does, in a third of the time: this runs twice for each request.
        self.actions.append(_new_tuple(Send, (link, to, frame)))

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Log an event."""
        self.actions.append(Log(level, event, fields))

    def log_rarely(self, now: float, level: str, event: str, **fields: Any) -> None:
        """Log an event that strangers can cause at most once a second, so that they cannot fill the journal."""
        if now - self._last.get(event, -1e9) >= 1.0:
            self._last[event] = now
            self.log(level, event, **fields)
