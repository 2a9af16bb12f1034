"""A client's connection for asyncio: all jobs of all tasks on one DEALER, without zmq.asyncio.

zmq.asyncio can miss wake-ups: the socket's descriptor is edge-triggered, and reading EVENTS or sending takes the edge
(pyzmq#2173). Here every pump ends by finding nothing to read, and a timer looks again while jobs wait.
"""

import asyncio
import time
from collections.abc import Sequence

import zmq

from mesh.core.asking import Outcome
from mesh.core.requests import Request
from mesh.core.retry import RetryBudget
from mesh.errors import LocalProtocolError
from mesh.protocol.header import ANY_MAP
from mesh.transport.connection import PATIENCE_SECONDS, Link, endpoints


class AsyncConnection:
    """A connection for the tasks of one event loop, which is the one running at the first `ask`."""

    def __init__(self, brokers: str | Sequence[str], *, patience: float = PATIENCE_SECONDS) -> None:
        self.endpoints = endpoints(brokers)
        #: Four bytes that name the region map the caller plans by; goes into every request.
        self.map_digest = ANY_MAP
        self._patience = patience
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._link: Link | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: zmq.Socket[bytes] | None = None
        self._descriptor = -1
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[bytes, asyncio.Future[Outcome]] = {}
        self._closed = False

    async def ask(self, requests: Sequence[Request], timeout: float) -> list[Outcome]:  # noqa: ASYNC109 - the broker is told
        """Send all requests at once and return how each ended, in their order; *timeout* in seconds."""
        link, loop = self._open()
        link.core.map_digest = self.map_digest
        ids = link.submit(requests, time.monotonic() + timeout)
        futures: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in ids]
        self._waiting.update(zip(ids, futures, strict=True))
        self._pump()
        try:
            return [await future for future in futures]
        finally:
            self._forget(ids)

    async def close(self) -> None:
        """Close; what still waits ends with an error."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_result(LocalProtocolError("this client was closed meanwhile"))
        self._waiting.clear()
        if self._link is not None and self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._link.close()
            self._link = None
        if not self._context.closed:
            self._context.term()

    def _open(self) -> tuple[Link, asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise LocalProtocolError("this client is closed")
        if self._link is None:
            self._link, self._loop = Link(self._context, self.endpoints, RetryBudget(), self._patience), loop
            self._watch(self._link, loop)
        elif self._loop is not loop:
            raise LocalProtocolError("this client belongs to another event loop; make one in each")
        return self._link, loop

    def _watch(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to the link's socket, which is another one when it has gone to the next broker."""
        if link.socket is self._watched:
            return
        if self._watched is not None:
            loop.remove_reader(self._descriptor)
        self._watched, self._descriptor = link.socket, int(link.socket.getsockopt(zmq.FD))
        loop.add_reader(self._descriptor, self._pump)

    def _pump(self) -> None:
        link, loop = self._link, self._loop
        if link is None or loop is None:
            return
        wake = link.pump(time.monotonic())
        self._watch(link, loop)
        self._deliver(link)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if wake is None else loop.call_later(max(0.0, wake - time.monotonic()), self._pump)

    def _deliver(self, link: Link) -> None:
        for job_id, outcome in link.core.done:
            future = self._waiting.pop(job_id, None)
            if future is not None and not future.done():
                future.set_result(outcome)
        link.core.done.clear()

    def _forget(self, ids: Sequence[bytes]) -> None:
        given_up = [job_id for job_id in ids if self._waiting.pop(job_id, None) is not None]
        if self._link is not None and given_up:
            for job_id in given_up:
                self._link.core.abandon(job_id)
            self._pump()
