"""The rival: the ZeroMQ Guide's LRU queue with one frame a message, and nothing else.

No sessions, no deadlines, no outstanding table, no credit, no counters: what plain pyzmq can do at best. Its worker
echoes. Run as `python -m bench.lru_proxy proxy FRONT BACK` or `... worker BACK WINDOW`.
"""

import contextlib
import sys
from collections import deque

import zmq
from zmq.backend import Socket as Backend

_recv, _send = Backend.recv, Backend.send
_NOBLOCK, _SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)


def proxy(front_endpoint: str, back_endpoint: str) -> None:
    """Route each request to the worker that has been ready longest."""
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    front.bind(front_endpoint)
    back.bind(back_endpoint)
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    ready: deque[bytes] = deque()
    waiting: deque[tuple[bytes, bytes]] = deque()
    clients: dict[bytes, bytes] = {}
    while True:
        poller.poll()
        with contextlib.suppress(zmq.Again):
            while True:
                worker, frame = _recv(back, _NOBLOCK), _recv(back, 0)
                ready.append(worker)
                if len(frame) > 5:
                    _send(front, clients.pop(frame[16:32]), _SNDMORE)
                    _send(front, frame, 0)
        with contextlib.suppress(zmq.Again):
            while True:
                waiting.append((_recv(front, _NOBLOCK), _recv(front, 0)))
        while waiting and ready:
            client, frame = waiting.popleft()
            clients[frame[16:32]] = client
            _send(back, ready.popleft(), _SNDMORE)
            _send(back, frame, 0)


def worker(back_endpoint: str, window: int) -> None:
    """Say ready *window* times, then echo."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(back_endpoint)
    for _ in range(window):
        socket.send(b"READY")
    while True:
        _send(socket, _recv(socket, 0), 0)


if __name__ == "__main__":
    if sys.argv[1] == "proxy":
        proxy(sys.argv[2], sys.argv[3])
    else:
        worker(sys.argv[2], int(sys.argv[3]))
