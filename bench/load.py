"""A load generator that must not be the bottleneck: raw frames over plain sockets, a window of them in flight."""

import time
from typing import NamedTuple

import zmq
from zmq.backend import Socket as Backend

from mesh.protocol import body
from mesh.protocol.header import Flag, Header, Kind, encode, pad_region

_recv, _send = Backend.recv, Backend.send
#: Where the job id stands in a frame.
_JOB = slice(16, 32)


class Load(NamedTuple):
    """What a load saw."""

    requests: int
    seconds: float
    refused: int
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def run(endpoint: str, requests: int, in_flight: int, *, hello: bool = True, content: bytes = bytes(100)) -> Load:
    """Send *requests* with at most *in_flight* unanswered; return what happened."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(endpoint)
    try:
        if hello:
            socket.send(encode(Header(kind=Kind.HELLO), body.encode(body.Hello(role="client"))))
            socket.recv()
        return _pump(socket, requests, in_flight, content)
    finally:
        socket.close()
        context.term()


def _pump(socket: "zmq.Socket[bytes]", requests: int, in_flight: int, content: bytes) -> Load:
    head = Header(kind=Kind.REQUEST, flags=Flag.IDEMPOTENT, region=pad_region("ne"), budget_ms=30_000)
    frame = encode(head, content)
    before, after = frame[: _JOB.start], frame[_JOB.stop :]
    nack = int(Kind.NACK)
    sent = received = refused = 0
    started, cpu = time.perf_counter(), time.process_time()
    while received < requests:
        while sent < requests and sent - received < in_flight:
            _send(socket, before + sent.to_bytes(16, "big") + after, 0)
            sent += 1
        answer = _recv(socket, 0)
        received += 1
        refused += answer[1] == nack
    return Load(requests, time.perf_counter() - started, refused, time.process_time() - cpu)
