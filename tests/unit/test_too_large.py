"""What is larger than a message may be, on each side of the wire."""

import msgspec
import pytest

from mesh.config.load import shipped
from mesh.core.actions import Link, Send
from mesh.core.broker import BrokerCore
from mesh.core.requests import request
from mesh.core.settings import BrokerSettings, WorkerSettings
from mesh.core.worker import WorkerCore
from mesh.errors import InvalidRequest
from mesh.jobs.places import Places
from mesh.model import Draft, Failed, Find, Found, GetMany
from mesh.protocol import body, limits
from mesh.protocol.header import SIZE, Flag, Header, Kind, Reason, encode, pad_region, peek
from mesh.regions import RegionMap
from mesh.store.memory import MemoryStore

JOB = b"j" * 16
HUGE = bytes(limits.MAX_FRAME_BYTES)


@pytest.fixture(scope="module")
def places() -> Places:
    store = MemoryStore("ne")
    for number in range(12):
        store.insert(Draft(-74.0, 41.0, {"text": "x" * 1_000_000}, f"id-{number:02}"))
    return Places("ne/1", lambda _region: store, RegionMap.load(shipped("regions.geojson")))


def test_a_client_does_not_send_it():
    """The caller learns at once, from the call, that the request is too large."""
    with pytest.raises(InvalidRequest, match="less at a time") as caught:
        request("ne", Find({"name": {"$in": ["x" * 10_000] * 1_000}}))
    assert caught.value.field == "body"


def test_a_page_too_large_for_a_message_comes_in_parts(places: Places):
    """A page of twelve megabytes is cut where it fits, and says that there is more."""
    content = places.handle("ne", body.encode(Find(limit=100)), 5.0)
    assert SIZE + len(content) <= limits.MAX_FRAME_BYTES
    answer = body.decode_reply(content).answer
    assert isinstance(answer, Found)
    assert answer.more
    assert [place.id for place in answer.places] == [f"id-{number:02}" for number in range(6)]


def test_an_answer_that_has_no_pages_is_refused_and_frees_its_slot(places: Places):
    """A worker says TOO_LARGE instead of sending a frame that its broker would drop."""
    content = places.handle("ne", body.encode(GetMany([f"id-{number:02}" for number in range(12)])), 5.0)
    core = WorkerCore(WorkerSettings(region="ne", instance="1", epoch="e", map_digest=b"1234"), 0.0)
    job = Header(kind=Kind.REQUEST, flags=Flag.IDEMPOTENT, region=pad_region("ne"), job=JOB, budget_ms=1000)
    core.receive(Link.LOCAL, b"", encode(job), 0.0)
    core.take(0.0)
    core.finished(JOB, content, 0.1, 0.2)
    (sent,) = [action for action in core.take(0.0) if isinstance(action, Send)]
    head = peek(sent.frame)
    assert (head.kind, head.reason, head.job) == (Kind.NACK, Reason.TOO_LARGE, JOB)
    assert "12,0" in body.decode_text(sent.frame[SIZE:])


def test_a_broker_names_the_job_it_refuses():
    """Whoever waits for the job is told, and need not wait for the end of its time."""
    settings = BrokerSettings(region="ne", regions=("ne",), epoch="e", map_digest=b"1234", region_map=b"{}")
    core = BrokerCore(settings, 0.0)
    core.receive(Link.FRONT, b"c", encode(Header(kind=Kind.REQUEST, job=JOB)) + HUGE, 0.0)
    (sent,) = [action for action in core.take(0.0) if isinstance(action, Send)]
    assert peek(sent.frame).job == JOB
    assert peek(sent.frame).reason == Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"op": "find", "colour": 1}, "colour", "unknown field"),
        ({"op": "nearest", "lon": 1.0}, "lat", "missing"),
        ({"op": "nearest", "lon": "1", "lat": 1.0}, "lon", "expected `float`, got `str`"),
        ({"op": "fly"}, "op", "fly"),
        ({}, "op", "missing"),
    ],
)
def test_a_wrong_body_names_its_field(fields: dict[str, object], field: str, words: str):
    """An unknown or a missing field is named as such, not as the body."""
    with pytest.raises(InvalidRequest) as caught:
        body.decode_operation(msgspec.msgpack.encode(fields))
    assert caught.value.field == field
    assert words in caught.value.message


def test_a_failure_is_never_cut(places: Places):
    """An error stays what it is."""
    assert isinstance(body.decode_reply(places.handle("ne", b"\xc1", 5.0)).answer, Failed)
