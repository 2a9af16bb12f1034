"""The express lane decides what the ordinary way would have decided."""

import random

import pytest

from mesh.core.actions import Log, Send
from mesh.core.broker import BrokerCore
from mesh.core.express import Express
from mesh.core.settings import BrokerSettings
from mesh.protocol import body
from mesh.protocol.header import Flag, Header, Kind, Reason, encode, pad_region, reply

FRONT, BACK, LOCAL = 0, 1, 2
DIGEST = b"\x01\x02\x03\x04"


def broker() -> BrokerCore:
    settings = BrokerSettings(
        region="ne", regions=("ne", "south", "mw"), epoch="e", map_digest=DIGEST, region_map=b"{}", queue=5
    )
    core = BrokerCore(settings, 0.0)
    core.receive(FRONT, b"c1", encode(Header(kind=Kind.HELLO), body.encode(body.Hello(role="client"))), 0.0)
    core.receive(FRONT, b"c2", encode(Header(kind=Kind.HELLO), body.encode(body.Hello(role="client"))), 0.0)
    peer = body.Hello(role="peer", region="south", epoch="s", map_digest=DIGEST.hex())
    core.receive(FRONT, b"south", encode(Header(kind=Kind.HELLO), body.encode(peer)), 0.0)
    core.receive(BACK, b"south", encode(Header(kind=Kind.WELCOME, credit=3), body.encode(peer)), 0.0)
    core.receive(BACK, b"south", encode(Header(kind=Kind.HEARTBEAT, credit=3, job=bytes(15) + b"\x01")), 0.001)
    for worker in (b"w1", b"w2"):
        ready = body.Ready(instance=worker.decode(), epoch="w", slots=1, window=4, map_digest=DIGEST.hex())
        core.receive(LOCAL, worker, encode(Header(kind=Kind.READY), body.encode(ready)), 0.0)
    return core


def traffic(dice: random.Random) -> list[tuple[int, bytes, bytes]]:
    """Return a random mix of requests and replies, ordinary and odd."""
    messages = []
    for _ in range(400):
        job = dice.randrange(40).to_bytes(16, "big")
        if dice.random() < 0.5:
            head = Header(
                kind=Kind.REQUEST,
                flags=dice.choice([0, 1, 1, 1, Flag.SPILLED, Flag.FORWARDED]),
                region=pad_region(dice.choice(["ne", "ne", "ne", "south", "mw", "mars"])),
                job=job,
                budget_ms=dice.choice([0, 5, 50, 5000, 5000]),
                map_digest=dice.choice([DIGEST, bytes(4), b"late"]),
            )
            messages.append((FRONT, dice.choice([b"c1", b"c1", b"c2", b"stranger", b"south"]), encode(head, b"body")))
        elif dice.random() < 0.9:
            sender = dice.choice([b"w1", b"w2", b"w2", b"stranger"])
            messages.append((LOCAL, sender, reply(job, dice.choice([5, 500, 50_000]), b"answer")))
        else:
            refused = encode(Header(kind=Kind.NACK, reason=Reason.EXPIRED, job=job))
            messages.append((dice.choice([LOCAL, BACK]), dice.choice([b"w1", b"south"]), refused))
    return messages


def actions(core: BrokerCore, messages: list[tuple[int, bytes, bytes]]) -> list[tuple[object, ...]]:
    """Return everything the broker does on the way."""
    done: list[tuple[object, ...]] = []
    for number, (link, sender, frame) in enumerate(messages):
        now = 0.01 + number * 0.003
        core.receive(link, sender, frame, now)
        if now >= core.wake_at():
            core.tick(now)
        done += [tuple(action) for action in core.take(now) if not isinstance(action, Log)]
    done.append((dict(core.jobs.count), sorted(core.jobs.outstanding), len(core.jobs.waiting)))
    return done


@pytest.mark.parametrize("seed", range(40))
def test_the_express_lane_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch):
    """Random traffic with and without the lane: the same sends in the same order, the same counters, the same state."""
    messages = traffic(random.Random(seed))
    with_lane = actions(broker(), messages)
    monkeypatch.setattr(Express, "request", lambda *_: False)
    monkeypatch.setattr(Express, "reply", lambda *_: False)
    assert actions(broker(), messages) == with_lane


def test_the_express_lane_is_taken():
    """An ordinary request and its reply do go through the lane, else the comparison above would compare nothing."""
    core = broker()
    core.take(0.0)
    head = Header(kind=Kind.REQUEST, flags=1, region=pad_region("ne"), job=b"j" * 16, budget_ms=500)
    assert core._express.request(b"c1", encode(head, b"body"), 0.1)
    (sent,) = [action for action in core.take(0.1) if isinstance(action, Send)]
    assert sent.link == LOCAL
    assert core._express.reply(sent.to, reply(b"j" * 16, 100, b"answer"), 0.2)
    assert [action.to for action in core.take(0.2) if isinstance(action, Send)] == [b"c1"]
