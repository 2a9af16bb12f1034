"""Brokers that end with their test, and an address where there is none."""

import socket
from collections.abc import Iterator

import pytest

from tests.loopback.fake_broker import Answer, FakeBroker, Start, reply


@pytest.fixture
def start() -> Iterator[Start]:
    """Start brokers that end with the test."""
    brokers: list[FakeBroker] = []

    def starting(answer: Answer = reply, address: str = "tcp://127.0.0.1:*") -> FakeBroker:
        brokers.append(FakeBroker(answer, address))
        return brokers[-1]

    yield starting
    for broker in brokers:
        broker.close()


@pytest.fixture
def free_endpoint() -> str:
    """Return an address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
