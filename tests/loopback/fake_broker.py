"""A broker of a few lines in a thread, which does what each test says."""

import threading
import time
from collections.abc import Callable

import zmq

from mesh.model import Counted
from mesh.protocol import body, header
from mesh.protocol.header import Header, Kind, Reason
from mesh.protocol.refusal import nack

Answer = Callable[["FakeBroker", bytes, Header, bytes], None]


class FakeBroker:
    """A ROUTER in a thread; *answer* decides what a request gets."""

    def __init__(self, answer: Answer, address: str = "tcp://127.0.0.1:*") -> None:
        self.answer = answer
        self.seen: list[Header] = []
        self.greeted: set[bytes] = set()
        self.welcomes = True
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind(address)
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def kinds(self) -> list[str]:
        """Return the names of the kinds that arrived."""
        return [Kind(head.kind).name for head in self.seen]

    def requests(self) -> list[Header]:
        """Return the headers of the requests that arrived."""
        return [head for head in self.seen if head.kind == Kind.REQUEST]

    def send(self, sender: bytes, frame: bytes) -> None:
        """Send a frame to a client."""
        self._router.send_multipart([sender, frame])

    def close(self) -> None:
        """Stop; the port is free afterwards."""
        self._stop.set()
        self._thread.join()
        self._context.destroy(0)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._router.poll(10):
                sender, frame = self._router.recv_multipart()
                self._handle(sender, header.decode(frame), frame[header.SIZE :])

    def _handle(self, sender: bytes, head: Header, content: bytes) -> None:
        self.seen.append(head)
        if head.kind == Kind.HELLO:
            self.greeted.add(sender)
            if self.welcomes:
                welcome = body.Hello(role="broker", region="ne", regions=("ne",), map_digest="01020304")
                self.send(sender, header.encode(Header(kind=Kind.WELCOME), body.encode(welcome)))
        elif sender not in self.greeted:
            self.send(sender, nack(Reason.NO_SESSION, "who are you?", job=head.job))
        else:
            self.answer(self, sender, head, content)


def reply(broker: FakeBroker, sender: bytes, head: Header, _content: bytes = b"") -> None:
    """Answer with the number of requests so far."""
    if head.kind == Kind.REQUEST:
        content = body.encode(body.Reply(Counted(len(broker.requests())), "ne/1"))
        broker.send(sender, header.encode(Header(kind=Kind.REPLY, job=head.job), content))


def silence(_broker: FakeBroker, _sender: bytes, _head: Header, _content: bytes) -> None:
    """Answer nothing."""


def refuse(reason: Reason, text: str = "no", **more: float | bool) -> Answer:
    """Return what refuses everything with a NACK."""

    def answer(broker: FakeBroker, sender: bytes, head: Header, _content: bytes) -> None:
        if head.kind == Kind.REQUEST:
            broker.send(sender, nack(reason, text, job=head.job, **more))  # type: ignore[arg-type]

    return answer


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something another thread does."""
    end = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


Start = Callable[..., FakeBroker]
