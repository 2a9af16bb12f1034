"""The wire: headers, bodies, refusals and session tables."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidRequest, LocalProtocolError, RemoteProtocolError
from mesh.model import Found, Nearest, Place
from mesh.protocol import body, limits
from mesh.protocol.header import (
    SIZE,
    Flag,
    Header,
    Kind,
    Reason,
    decode,
    encode,
    pad_region,
    peek,
    readdress,
    region_name,
    reply,
    with_credit,
)
from mesh.protocol.refusal import nack, retry_after
from mesh.protocol.session import TABLES, Role, State, follow, refusal

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
ROW = re.compile(r"^\| .+? \| (?P<fields>[a-z_]+=\S.*?) \| `(?P<hex>[0-9a-f]{96})` \|$", re.MULTILINE)
VECTORS = [(match["fields"], match["hex"]) for match in ROW.finditer(DOCUMENT.read_text())]


def documented(fields: str) -> Header:
    values = dict(field.split("=") for field in fields.split(", "))
    raw = {"region": pad_region, "job": bytes.fromhex, "map_digest": bytes.fromhex}
    return Header(**{name: raw.get(name, int)(value) for name, value in values.items()})


def test_the_document_has_vectors():
    """The table in docs/protocol.md is found."""
    assert len(VECTORS) == 6


@pytest.mark.parametrize(("fields", "hexed"), VECTORS)
def test_headers_are_as_documented(fields: str, hexed: str):
    """Each test vector of docs/protocol.md encodes and decodes as written there."""
    head = documented(fields)
    assert encode(head).hex() == hexed
    assert decode(bytes.fromhex(hexed)) == head


heads = st.builds(
    Header,
    version=st.just(1),
    kind=st.sampled_from([int(kind) for kind in Kind]),
    flags=st.integers(0, 255),
    criticality=st.integers(0, 3),
    attempt=st.integers(0, 255),
    reason=st.integers(0, 255),
    demand=st.integers(0, 0xFFFF),
    region=st.binary(min_size=8, max_size=8),
    job=st.binary(min_size=16, max_size=16),
    budget_ms=st.integers(0, 0xFFFFFFFF),
    credit=st.integers(0, 2**64 - 1),
    map_digest=st.binary(min_size=4, max_size=4),
)


@given(heads, st.binary(max_size=50))
def test_what_is_encoded_is_decoded(head: Header, content: bytes):
    """Any header that fits comes back as it was, and the body behind it."""
    frame = encode(head, content)
    assert decode(frame) == head
    assert frame[SIZE:] == content


@given(heads, st.binary(max_size=50))
def test_a_frame_that_goes_on_changes_only_where_it_should(head: Header, content: bytes):
    """The short cuts of the hot path equal decoding, replacing and encoding."""
    frame = encode(head, content)
    on = readdress(frame, flags=3, attempt=2, budget_ms=77, demand=5, credit=6)
    assert on == encode(head._replace(flags=3, attempt=2, budget_ms=77, demand=5, credit=6), content)
    assert with_credit(frame, demand=8, credit=9) == encode(head._replace(demand=8, credit=9), content)


def test_a_workers_reply_is_a_message_like_any_other():
    """The short cut for REPLY equals encoding its header."""
    job = bytes(range(16))
    assert reply(job, 1500, b"body") == encode(Header(kind=Kind.REPLY, job=job, credit=1500), b"body")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_protocol_error(frame: bytes):
    """Whatever arrives, decoding either works or says what is wrong."""
    try:
        assert decode(frame) == peek(frame)
    except RemoteProtocolError as error:
        assert error.fields["reason"] in {reason.name.lower() for reason in Reason}


def test_what_does_not_fit_is_the_callers_fault():
    """A field that is too large and a frame that is too long raise on the sending side."""
    with pytest.raises(LocalProtocolError, match="does not fit"):
        encode(Header(kind=300))
    with pytest.raises(LocalProtocolError, match=f"the limit is {limits.MAX_FRAME_BYTES}"):
        encode(Header(kind=Kind.REQUEST), bytes(limits.MAX_FRAME_BYTES))
    with pytest.raises(LocalProtocolError, match="longer than 8 bytes"):
        pad_region("northeast")


def test_a_regions_name_survives_the_header():
    """Padding goes on and comes off."""
    assert region_name(pad_region("south")) == "south"


@given(st.binary(max_size=200))
def test_no_body_raises_anything_but_an_invalid_request(content: bytes):
    """Random bytes as a body give an answer, never a traceback."""
    for decoder in (body.decode_operation, body.decode_reply, body.decode_hello, body.decode_ready, body.decode_any):
        try:
            decoder(content)
        except InvalidRequest as error:
            assert error.field


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({"op": "nearest", "lon": "x", "lat": 1.0}, "lon", "expected `float`, got `str`"),
        ({"op": "nearest", "lon": 1.0}, "lat", "missing required field `lat`"),
        ({"op": "nearest", "lon": 1.0, "lat": 1.0, "limt": 3}, "limt", "unknown field `limt`"),
        ({"op": "explode"}, "op", "explode"),
        ({"lon": 1.0}, "op", "op"),
        ({"op": "insert", "place": [1.0, "x"]}, "place[1]", "expected `float`"),
    ],
)
def test_a_wrong_operation_is_refused_with_the_field_named(document: dict, field: str, words: str):
    """A request that is not an operation dies at the edge, and the error says where."""
    with pytest.raises(InvalidRequest) as caught:
        body.decode_operation(body.encode(document))
    assert caught.value.field == field
    assert words in caught.value.message


def test_operations_and_answers_survive_the_wire():
    """What is asked and what is answered arrive as they were."""
    operation = Nearest(lon=-73.99, lat=40.73, limit=3, where={"kind": "city"})
    assert body.decode_operation(body.encode(operation)) == operation
    answer = body.Reply(Found([Place("a", -73.9, 40.7, {"n": 1}, distance=12.5)], more=True), "ne/1")
    assert body.decode_reply(body.encode(answer)) == answer


def test_a_refusal_says_when_to_come_back():
    """NACK carries reason, wait and text, and tells "do not retry" from "unknown"."""
    frame = nack(Reason.BUSY, "full", job=b"j" * 16, retry_after=0.25, retry=False)
    head = decode(frame)
    assert (head.reason, retry_after(head), head.flags) == (Reason.BUSY, 0.25, Flag.NO_RETRY)
    assert body.decode_text(frame[SIZE:]) == "full"
    assert retry_after(decode(nack(Reason.BUSY, "full"))) is None
    assert retry_after(decode(nack(Reason.BUSY, "full", retry_after=float("inf")))) == 60.0


def test_session_tables_are_closed():
    """Every state a table leads to is in the table, and NEW leads somewhere only through a hello."""
    for table in TABLES.values():
        assert {after for row in table.values() for after in row.values()} <= set(table)
    assert follow(Role.CLIENT, State.NEW, Kind.REQUEST) is None
    assert refusal(Role.CLIENT, State.NEW, Kind.REQUEST) is Reason.NO_SESSION
    assert refusal(Role.CLIENT, State.OPEN, Kind.READY) is Reason.UNEXPECTED


def test_the_hot_path_allows_what_the_tables_allow():
    """The broker takes REQUEST from a known client and REPLY from a known worker without asking the table."""
    assert follow(Role.CLIENT, State.OPEN, Kind.REQUEST) is State.OPEN
    for state in (State.OPEN, State.DRAINING):
        assert follow(Role.WORKER, state, Kind.REPLY) is state


def test_the_documents_tables_are_the_codes():
    """The session tables in docs/protocol.md are printed from mesh/protocol/session.py."""
    text = DOCUMENT.read_text()
    for role in TABLES:
        assert f"**{role.value.replace('_', ' ')}**" in text
    for kind in Kind:
        assert f"| {kind.value} | {kind.name} |" in text
    for reason in Reason:
        assert reason is Reason.NONE or f"| {reason.value} | {reason.name} |" in text
