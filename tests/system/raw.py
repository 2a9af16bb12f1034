"""A stranger who sends whatever he likes, frame by frame, to any socket of a broker."""

import os
import time
from types import TracebackType
from typing import Any, Self

import zmq

from mesh.protocol import body, header
from mesh.protocol.header import Flag, Header, Kind, Reason, pad_region

Answer = tuple[Header, bytes]


class Stranger:
    """A DEALER that speaks the protocol as badly as it is told."""

    def __init__(self, endpoint: str, identity: bytes | None = None) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        if identity:
            self.socket.setsockopt(zmq.ROUTING_ID, identity)
        self.socket.connect(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._context.destroy(0)

    def hello(self) -> Self:
        """Be a client as others are."""
        self.send(header.encode(Header(kind=Kind.HELLO), body.encode(body.Hello(role="client"))))
        assert self.answer()[0].kind == Kind.WELCOME
        return self

    def send(self, *frames: bytes) -> None:
        """Send one message."""
        self.socket.send_multipart(frames)

    def answer(self, seconds: float = 10.0) -> Answer:
        """Return the next message that comes; fail if none does."""
        assert self.socket.poll(int(seconds * 1000)), "no answer"
        frame = self.socket.recv()
        return header.peek(frame), frame[header.SIZE :]

    def refusal(self, job: bytes | None = None) -> tuple[Reason, str]:
        """Return the reason and the text of the next NACK, past heartbeats."""
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            head, content = self.answer()
            if head.kind == Kind.NACK:
                assert job is None or head.job == job
                return Reason(head.reason), body.decode_text(content)
        raise AssertionError("no refusal")

    def ask(self, home: str, content: bytes, **fields: Any) -> bytes:
        """Send a request and return its job id."""
        job = os.urandom(16)
        usual = {
            "kind": Kind.REQUEST,
            "flags": Flag.IDEMPOTENT,
            "region": pad_region(home),
            "job": job,
            "budget_ms": 9000,
        }
        self.send(_pack(Header(**usual | fields), content))
        return job

    def reply(self, home: str, content: bytes) -> dict[str, Any]:
        """Send a request and return its answer."""
        job = self.ask(home, content)
        head, answer = self.answer()
        assert (head.kind, head.job) == (Kind.REPLY, job)
        found: dict[str, Any] = body.decode_any(answer)[0]
        return found

    def error(self, home: str, content: bytes) -> dict[str, Any]:
        """Send a request whose answer is a failure, and return that."""
        error: dict[str, Any] = self.reply(home, content)["error"]
        return error


def _pack(head: Header, content: bytes) -> bytes:
    # Not `header.encode`: that refuses what is too large, and a stranger does not.
    return header.encode(head) + content
