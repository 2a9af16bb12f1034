"""The client's connections over real sockets, against a broker of thirty lines that does what each test says."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mesh.core.asking import Outcome
from mesh.core.refused import StaleMap
from mesh.core.requests import Request, admin, request
from mesh.errors import Busy, DeadlineExceeded, InvalidRequest, LocalProtocolError, ProtocolError, RegionUnavailable
from mesh.model import Counted, Delete, Failed, Find, Get
from mesh.protocol import body, header
from mesh.protocol.header import Flag, Header, Kind, Reason
from mesh.protocol.refusal import nack
from mesh.transport.aio import AsyncConnection
from mesh.transport.connection import Connection, endpoint
from tests.loopback.fake_broker import FakeBroker, Start, refuse, reply, silence, wait_until

FIND = request("ne", Find())


def ask(broker: str | list[str], *requests: Request, timeout: float = 2.0) -> list[Outcome]:
    """Ask over a new blocking connection."""
    connection = Connection(broker, patience=0.2)
    try:
        return connection.ask(requests or [FIND], timeout)
    finally:
        connection.close()


# -- the ordinary ---------------------------------------------------------------------------------------------------


def test_a_request_is_preceded_by_one_hello(start: Start) -> None:
    """The broker hears a greeting once, and the header says what the job is."""
    broker = start()
    connection = Connection(broker.endpoint)
    connection.map_digest = b"\1\2\3\4"
    assert connection.ask([FIND], 2.0) == [Counted(1)]
    assert connection.ask([request("ne", Delete("x"))], 2.0) == [Counted(2)]
    connection.close()
    wait_until(lambda: len(broker.seen) == 4)
    assert broker.kinds() == ["HELLO", "REQUEST", "REQUEST", "GOODBYE"]
    read, write = broker.requests()
    assert (header.region_name(read.region), read.map_digest) == ("ne", b"\1\2\3\4")
    assert 1000 < read.budget_ms <= 2000
    assert read.flags & Flag.IDEMPOTENT
    assert not write.flags & Flag.IDEMPOTENT


def test_a_new_connection_costs_no_waiting(start: Start) -> None:
    """The first question goes out when the connection is there, not at the next look."""
    broker = start()
    fastest = 1.0
    for _ in range(5):
        begin = time.monotonic()
        ask(broker.endpoint)
        fastest = min(fastest, time.monotonic() - begin)
    assert fastest < 0.06


def test_many_requests_go_out_at_once_and_come_back_in_order(start: Start) -> None:
    """Answers may arrive in any order; each stands where its request stood."""
    kept: list[tuple[bytes, Header, bytes]] = []

    def reversed_order(broker: FakeBroker, sender: bytes, head: Header, content: bytes) -> None:
        kept.append((sender, head, content))
        if len(kept) == 10:
            for job in reversed(kept):
                wanted = body.decode_operation(job[2])
                answer = body.encode(body.Reply(Failed({"code": "not_found", "message": wanted.id})))  # type: ignore[union-attr]
                broker.send(job[0], header.encode(Header(kind=Kind.REPLY, job=job[1].job), answer))

    broker = start(reversed_order)
    outcomes = ask(broker.endpoint, *[request("ne", Get(str(index))) for index in range(10)])
    assert [str(outcome) for outcome in outcomes] == [str(index) for index in range(10)]


def test_a_hello_alone_brings_the_welcome(start: Start) -> None:
    """What the planner needs first: the digest of the region map."""
    (welcome,) = ask(start().endpoint, admin(Kind.HELLO))
    assert isinstance(welcome, body.Hello)
    assert welcome.map_digest == "01020304"


def test_several_threads_share_one_connection(start: Start) -> None:
    """Calls of different threads do not wait for each other."""

    def slowly(broker: FakeBroker, sender: bytes, head: Header, content: bytes) -> None:
        threading.Timer(0.1, lambda: later.append((sender, head))).start()
        reply(broker, sender, head, content)

    later: list[object] = []
    broker = start(slowly)
    connection = Connection(broker.endpoint)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: connection.ask([FIND], 5.0)[0], range(80)))
    connection.close()
    assert sorted(outcome.count for outcome in outcomes if isinstance(outcome, Counted)) == list(range(1, 81))
    assert broker.kinds().count("HELLO") <= 8


def test_a_closed_connection_says_so(start: Start) -> None:
    """And closing twice is no mistake."""
    connection = Connection(start().endpoint)
    connection.close()
    connection.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        connection.ask([FIND], 1.0)


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_no_answer_within_the_time_is_an_error_and_the_job_is_cancelled(start: Start) -> None:
    """The broker hears that nobody waits any more."""
    broker = start(silence)
    begin = time.monotonic()
    (outcome,) = ask(broker.endpoint, timeout=0.3)
    assert isinstance(outcome, DeadlineExceeded)
    assert 0.25 < time.monotonic() - begin < 1.0


def test_late_answers_are_ignored(start: Start) -> None:
    """The answer of a job that was given up is not taken for that of the next."""
    late: list[tuple[bytes, Header]] = []

    def first_too_late(broker: FakeBroker, sender: bytes, head: Header, content: bytes) -> None:
        if head.kind == Kind.REQUEST and not late:
            late.append((sender, head))
        elif head.kind == Kind.REQUEST:
            answer = body.encode(body.Reply(Counted(999)))
            broker.send(late[0][0], header.encode(Header(kind=Kind.REPLY, job=late[0][1].job), answer))
            reply(broker, sender, head, content)

    broker = start(first_too_late)
    connection = Connection(broker.endpoint)
    assert isinstance(connection.ask([FIND], 0.2)[0], DeadlineExceeded)
    assert connection.ask([FIND], 2.0) == [Counted(2)]
    connection.close()
    assert "CANCEL" in broker.kinds()


def test_a_broker_that_forgot_us_is_greeted_again(start: Start) -> None:
    """NO_SESSION costs a round trip and nothing else."""
    broker = start()
    connection = Connection(broker.endpoint)
    assert connection.ask([FIND], 2.0) == [Counted(1)]
    broker.greeted.clear()
    assert connection.ask([FIND], 2.0) == [Counted(3)]
    assert broker.kinds() == ["HELLO", "REQUEST", "REQUEST", "HELLO", "REQUEST"]
    connection.close()
    assert broker.requests()[1].job == broker.requests()[2].job


def test_a_broker_that_forgets_us_every_time_is_given_up(start: Start) -> None:
    """No circle at the speed of the network."""
    broker = start(refuse(Reason.NO_SESSION))
    (outcome,) = ask(broker.endpoint)
    assert isinstance(outcome, ProtocolError)
    assert len(broker.requests()) == 5


def test_busy_is_tried_three_times(start: Start) -> None:
    """The attempts are counted in the header, and the broker's wait is honoured."""
    broker = start(refuse(Reason.BUSY, "queue full", retry_after=0.05))
    begin = time.monotonic()
    (outcome,) = ask(broker.endpoint)
    assert isinstance(outcome, Busy)
    assert outcome.retry_after == 0.05
    assert "queue full" in str(outcome)
    assert [head.attempt for head in broker.requests()] == [0, 1, 2]
    assert time.monotonic() - begin >= 0.1


def test_busy_then_room_is_an_answer(start: Start) -> None:
    """A retry that succeeds is all the caller sees."""

    def second_time(broker: FakeBroker, sender: bytes, head: Header, content: bytes) -> None:
        (reply if head.attempt else refuse(Reason.BUSY))(broker, sender, head, content)

    assert ask(start(second_time).endpoint) == [Counted(2)]


def test_do_not_retry_means_it(start: Start) -> None:
    """One attempt, although there is time."""
    broker = start(refuse(Reason.BUSY, retry=False))
    assert isinstance(ask(broker.endpoint)[0], Busy)
    assert len(broker.requests()) == 1


def test_a_wait_beyond_the_deadline_is_not_waited(start: Start) -> None:
    """The caller learns at once that it is busy."""
    begin = time.monotonic()
    (outcome,) = ask(start(refuse(Reason.BUSY, retry_after=30.0)).endpoint)
    assert isinstance(outcome, Busy)
    assert outcome.retry_after == 30.0
    assert time.monotonic() - begin < 1.0


def test_retries_end_when_most_requests_are_refused(start: Start) -> None:
    """The retry budget keeps an overload from feeding itself."""
    broker = start(refuse(Reason.BUSY, retry_after=0.0))
    connection = Connection(broker.endpoint)
    for _ in range(50):
        connection.ask([FIND], 2.0)
    connection.close()
    assert len(broker.requests()) < 60


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (Reason.EXPIRED, DeadlineExceeded),
        (Reason.REGION_UNAVAILABLE, RegionUnavailable),
        (Reason.WORKER_LOST, RegionUnavailable),
        (Reason.UNKNOWN_REGION, InvalidRequest),
        (Reason.TOO_LARGE, InvalidRequest),
        (Reason.MALFORMED, ProtocolError),
        (Reason.STALE_MAP, StaleMap),
    ],
)
def test_each_refusal_is_an_error_of_its_kind(start: Start, reason: Reason, error: type[Exception]) -> None:
    """With the broker's text, and the region where there is one."""
    (outcome,) = ask(start(refuse(reason, "because")).endpoint)
    assert isinstance(outcome, error)
    assert "because" in str(outcome)
    if isinstance(outcome, RegionUnavailable):
        assert outcome.regions == ("ne",)


def test_another_protocol_version_names_both(start: Start) -> None:
    """Whichever side notices."""

    def newer(broker: FakeBroker, sender: bytes, head: Header, _content: bytes) -> None:
        broker.send(sender, header.encode(Header(version=9, kind=Kind.REPLY, job=head.job)))

    (outcome,) = ask(start(newer).endpoint)
    assert isinstance(outcome, ProtocolError)
    assert "version 9" in str(outcome)
    assert "speaks 1" in str(outcome)
    (outcome,) = ask(start(refuse(Reason.VERSION, "this side speaks 2, 3")).endpoint)
    assert isinstance(outcome, ProtocolError)
    assert "version 1" in str(outcome)
    assert "speaks 2, 3" in str(outcome)


def test_garbage_is_an_error_or_ignored(start: Start) -> None:
    """A body that is no answer ends the job with an error; a frame that is no message ends nothing."""

    def garbage(broker: FakeBroker, sender: bytes, head: Header, _content: bytes) -> None:
        broker.send(sender, b"")
        broker.send(sender, b"\1\xff" + bytes(60))
        broker.send(sender, header.encode(Header(kind=Kind.REPLY, job=head.job), b"\xc1garbage"))

    (outcome,) = ask(start(garbage).endpoint)
    assert isinstance(outcome, ProtocolError)


def test_nobody_listens(free_endpoint: str) -> None:
    """The error says what to look at."""
    (outcome,) = ask(free_endpoint, timeout=0.3)
    assert isinstance(outcome, RegionUnavailable)
    assert str(outcome) == f"cannot reach {free_endpoint}: is mesh-broker running there?"


def test_the_next_broker_of_the_list_answers(start: Start, free_endpoint: str) -> None:
    """One that is down, and one that accepts and says nothing, are passed over."""
    mute, well = start(silence), start()
    mute.welcomes = False
    assert ask([free_endpoint, well.endpoint], timeout=3.0) == [Counted(1)]
    assert ask([mute.endpoint, well.endpoint], timeout=3.0) == [Counted(2)]


def test_a_broker_that_leaves_is_left_for_the_next_of_the_list(start: Start) -> None:
    """At once, without the patience that a silent one gets, and with what it refused."""
    leaving, well = start(refuse(Reason.DRAINING, "shutting down")), start()
    begin = time.monotonic()
    connection = Connection([leaving.endpoint, well.endpoint], patience=30.0)
    assert connection.ask([FIND, request("ne", Delete("x"))], 5.0) == [Counted(1), Counted(2)]
    connection.close()
    assert time.monotonic() - begin < 1.0


def test_a_write_that_a_leaving_broker_has_is_waited_for(start: Start) -> None:
    """Going to the next broker would leave its fate unknown; what is asked meanwhile goes there afterwards."""
    kept: list[tuple[bytes, Header]] = []

    def slowly(broker: FakeBroker, sender: bytes, head: Header, _content: bytes) -> None:
        if head.flags & Flag.IDEMPOTENT:
            broker.send(sender, nack(Reason.DRAINING, "shutting down", job=head.job))
        else:
            kept.append((sender, head))

    leaving, well = start(slowly), start()

    async def main() -> list[list[Outcome]]:
        connection = AsyncConnection([leaving.endpoint, well.endpoint])
        write = asyncio.create_task(connection.ask([request("ne", Delete("x"))], 5.0))
        await asyncio.to_thread(wait_until, lambda: kept)
        read = asyncio.create_task(connection.ask([FIND], 5.0))
        await asyncio.sleep(0.3)
        assert not well.requests()
        ((sender, head),) = kept
        reply(leaving, sender, head)
        outcomes = [await write, await read]
        await connection.close()
        return outcomes

    assert all(isinstance(outcome, Counted) for (outcome,) in asyncio.run(main()))
    assert [head.flags for head in well.requests()] == [Flag.IDEMPOTENT]


def test_a_broker_that_dies_is_left_for_the_next_of_the_list(start: Start) -> None:
    """At once: whoever was there a moment ago and is not any more needs no patience."""
    dying, well = start(silence), start()
    connection = Connection([dying.endpoint, well.endpoint], patience=30.0)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(connection.ask, [FIND], 5.0)
        wait_until(dying.requests)
        dying.close()
        begin = time.monotonic()
        assert read.result() == [Counted(1)]
        assert time.monotonic() - begin < 1.0
    connection.close()


def test_when_all_brokers_leave_none_is_pestered(start: Start) -> None:
    """The client goes round, but not as fast as it can."""
    brokers = [start(refuse(Reason.DRAINING, "shutting down")) for _ in range(2)]
    (outcome,) = ask([broker.endpoint for broker in brokers], timeout=1.0)
    assert isinstance(outcome, Busy | RegionUnavailable)
    assert sum(len(broker.requests()) for broker in brokers) <= 15


def test_a_read_survives_the_restart_of_its_broker(start: Start) -> None:
    """It is sent again as soon as the broker is back."""
    first = start(silence)
    connection = Connection(first.endpoint)
    with ThreadPoolExecutor(2) as pool:
        read = pool.submit(connection.ask, [FIND], 5.0)
        write = pool.submit(connection.ask, [request("ne", Delete("x"))], 5.0)
        wait_until(lambda: len(first.requests()) == 2)
        first.close()
        start(reply, first.endpoint)
        assert read.result() == [Counted(1)]
        (lost,) = write.result()
    connection.close()
    assert isinstance(lost, RegionUnavailable)
    assert "may or may not" in str(lost)


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ne.example.net", "tcp://ne.example.net:5570"),
        ("ne.example.net:7000", "tcp://ne.example.net:7000"),
        ("tcp://127.0.0.1:5570", "tcp://127.0.0.1:5570"),
        ("tcp://127.0.0.1", "tcp://127.0.0.1:5570"),
        ("[::1]", "tcp://[::1]:5570"),
        ("[::1]:7000", "tcp://[::1]:7000"),
        ("ipc:///run/mesh/cloud", "ipc:///run/mesh/cloud"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    """All the forms people write."""
    assert endpoint(text) == expected


@pytest.mark.parametrize("text", ["", "ne:", "ne:0", "ne:70000", "ne:http", "http://ne", "ipc://", "a b", "::1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """With the forms that are."""
    with pytest.raises(InvalidRequest, match=r"ne\.example\.net"):
        endpoint(text)
