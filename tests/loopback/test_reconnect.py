"""A broker that comes back on a new connection while its peer still holds the old one, as after a link was down."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from mesh.transport import sockets


class Relay:
    """Carries bytes between a peer and a listener; `break_silently` ends it for the peer alone."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def break_silently(self) -> None:
        """End the peer's connections; the listener's stay, and say nothing any more."""
        for near, _ in self._pairs:
            near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=[one, other], daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            return  # and the other side hears nothing of it


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    """Return a context that is gone after the test."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(0)


def test_a_peer_on_a_new_connection_is_heard_although_the_old_one_is_not_known_to_be_dead(
    context: "zmq.Context[zmq.Socket[bytes]]",
):
    """Its routing id is taken, and a ROUTER that ignores the newcomer for that ignores it for ever."""
    front = sockets.router(context, routing_id=b"sw")
    endpoint = sockets.bind(front, "tcp://127.0.0.1:*", "broker.listen")
    relay = Relay(int(endpoint.rpartition(":")[2]))
    back = sockets.router(context, routing_id=b"ca")
    sockets.connecting(back, sockets.PEER)
    sockets.connect(back, f"tcp://127.0.0.1:{relay.port}", "peers.sw.endpoint")
    assert _asks(back, front, b"before", 5)

    relay.break_silently()

    # Later than the time after which the old connection is found to be dead.
    assert _asks(back, front, b"after", 2 * sockets.HEARTBEAT_TIMEOUT_MS / 1000 + 2)
    relay.close()
    front.close()
    back.close()


def _asks(back: "zmq.Socket[bytes]", front: "zmq.Socket[bytes]", text: bytes, seconds: float) -> bool:
    """Say something to the listener again and again until it has heard it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            back.send_multipart([b"sw", text], zmq.DONTWAIT)
        except zmq.ZMQError:
            time.sleep(0.02)  # not connected yet
        if front.poll(50) and front.recv_multipart() == [b"ca", text]:
            return True
    return False
