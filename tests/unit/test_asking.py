"""mesh.core.asking when its broker leaves and another comes: what is asked again, when, and what never is."""

from itertools import pairwise

import pytest

from mesh.core.asking import AskCore
from mesh.core.gate import WINDOW
from mesh.core.requests import Request, admin, request
from mesh.core.retry import RetryBudget
from mesh.errors import Busy, DeadlineExceeded, RegionUnavailable
from mesh.model import Counted, Delete, Find
from mesh.protocol import body
from mesh.protocol.header import NO_JOB, Header, Kind, Reason, encode, peek
from mesh.protocol.refusal import nack

READ, WRITE = request("ne", Find()), request("ne", Delete("ne:x"))
ID, OTHER = b"j" * 16, b"k" * 16
BYE, DRAIN = encode(Header(kind=Kind.GOODBYE, job=NO_JOB)), encode(Header(kind=Kind.DRAIN, job=NO_JOB))


def welcome(epoch: str = "one") -> bytes:
    return encode(Header(kind=Kind.WELCOME), body.encode(body.Hello(role="broker", region="ne", epoch=epoch)))


def answer(job: bytes = ID) -> bytes:
    return encode(Header(kind=Kind.REPLY, job=job), body.encode(body.Reply(Counted(1), "ne/1")))


class Client:
    """An `AskCore` with a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.core = AskCore(RetryBudget(), lambda: 0.5)
        #: What the requests were called on the wire.
        self.names: list[bytes] = []

    def submit(self, what: Request, job: bytes = ID, seconds: float = 2.0) -> None:
        """Take a question."""
        self.core.submit(job, what, self.now + seconds)

    def hears(self, *frames: bytes) -> None:
        """Take what the broker says."""
        for frame in frames:
            self.core.received(frame, self.now)

    def says(self, after: float = 0.0) -> list[str]:
        """Let time pass in small steps; return the kinds that were sent."""
        end, kinds = self.now + after, []
        while True:
            self.core.tick(self.now)
            if self.core.wants_to_send:
                heads = [peek(frame) for frame in self.core.frames(self.now)]
                kinds += [Kind(head.kind).name for head in heads]
                self.names += [head.job for head in heads if head.kind == Kind.REQUEST]
            if self.now >= end:
                return kinds
            self.now = min(end, self.now + 0.01)

    def outcomes(self) -> list[object]:
        """Take away how questions have ended."""
        found = [outcome for _, outcome in self.core.done]
        self.core.done.clear()
        return found


@pytest.fixture
def client() -> Client:
    """Return a client whose broker has welcomed it and has one of its questions."""
    client = Client()
    client.submit(READ)
    assert client.says() == ["HELLO", "REQUEST"]
    client.hears(welcome())
    return client


@pytest.mark.parametrize("word", [DRAIN, nack(Reason.DRAINING, "shutting down", job=OTHER)])
def test_nothing_new_goes_to_a_broker_that_leaves(client: Client, word: bytes) -> None:
    """It is asked now and then whether it has been replaced, and answers what it has."""
    client.submit(WRITE, OTHER)
    assert client.says() == ["REQUEST"]
    client.hears(word)
    client.submit(READ, b"l" * 16)
    assert set(client.says(1.0)) == {"HELLO"}
    client.hears(answer())
    assert client.outcomes() == [Counted(1)]
    assert client.core.leaving


def test_a_leaving_broker_is_asked_seldom(client: Client) -> None:
    """A drain of ten seconds costs a handful of messages, however many questions wait."""
    client.hears(answer(), DRAIN)
    for number in range(100):
        client.submit(READ, bytes([number]) * 16, seconds=20.0)
    said = []
    for _ in range(10):
        said += client.says(1.0)
        client.hears(nack(Reason.DRAINING, "still here"))
    assert set(said) == {"HELLO"}
    assert 10 <= len(said) <= 60


@pytest.mark.parametrize("what", [READ, WRITE])
def test_what_was_refused_by_a_leaving_broker_is_asked_of_the_next(client: Client, what: Request) -> None:
    """Also a write, for it was not started; and at once, for the new broker has nothing to recover from."""
    client.hears(answer())
    client.outcomes()
    client.submit(what, OTHER)
    assert client.says() == ["REQUEST"]
    client.hears(nack(Reason.DRAINING, "shutting down", job=OTHER))
    assert "REQUEST" not in client.says(0.8)
    client.core.lost()
    assert client.says() == (["HELLO", "REQUEST"] if what is READ else ["HELLO"])
    client.hears(welcome("two"))
    assert client.says() == ([] if what is READ else ["REQUEST"])
    client.hears(answer(OTHER))
    assert client.outcomes() == [Counted(1)]


def test_many_refusals_do_not_use_up_the_retries(client: Client) -> None:
    """Leaving is no overload: neither attempts nor budget nor growing waits."""
    for _ in range(20):
        client.hears(nack(Reason.DRAINING, "shutting down", job=client.names[-1]))
        client.core.lost()
        assert client.says(0.05) == ["HELLO", "REQUEST"]
    client.hears(welcome("two"), answer(client.names[-1]))
    assert client.outcomes() == [Counted(1)]


def test_a_broker_that_never_comes_back_is_named(client: Client) -> None:
    """What was refused has not been done, and the error says that: a write may be repeated."""
    client.hears(nack(Reason.DRAINING, "the broker of ne is shutting down", job=ID))
    client.says(2.1)
    (outcome,) = client.outcomes()
    assert isinstance(outcome, Busy)
    assert "shutting down" in str(outcome)


def test_what_was_on_its_way_to_a_leaving_broker_may_have_been_done(client: Client) -> None:
    """A read is asked again, a write never: the honest error says what is known."""
    client.submit(WRITE, OTHER)
    assert client.says() == ["REQUEST"]
    client.hears(DRAIN, BYE)
    client.core.lost()
    (outcome,) = client.outcomes()
    assert isinstance(outcome, RegionUnavailable)
    assert "may or may not have happened" in str(outcome)
    assert client.says() == ["HELLO", "REQUEST"]


def test_a_goodbye_that_was_read_late_costs_one_round_trip() -> None:
    """A client that was idle during a restart finds the old broker's last words in front of the new one's."""
    client = Client()
    client.submit(READ)
    client.says()
    client.hears(welcome(), answer())
    client.now += 60.0
    client.submit(WRITE, OTHER)
    client.hears(DRAIN, BYE)
    assert client.says() == ["HELLO"], "the write waits until somebody says that he is there"
    client.hears(welcome("two"))
    assert client.says() == ["REQUEST"]


def test_a_write_waits_for_a_welcome() -> None:
    """A connection may be the kernel's, taken for a broker that never comes: then nothing has happened."""
    client = Client()
    client.submit(READ)
    client.submit(WRITE, OTHER)
    assert client.says() == ["HELLO", "REQUEST"]
    client.core.lost()
    assert client.outcomes() == []
    assert client.says() == ["HELLO", "REQUEST"]
    client.hears(welcome())
    assert client.says() == ["REQUEST"]


def test_a_replacement_that_nobody_noticed(client: Client) -> None:
    """If the link broke and came back between two looks, the new epoch in its welcome tells."""
    client.submit(WRITE, OTHER)
    client.says()
    client.core._forgotten(b"?" * 16)
    client.submit(READ, b"l" * 16)
    assert client.says() == ["HELLO", "REQUEST"]
    client.hears(welcome("two"))
    assert client.says() == ["REQUEST"], "the read that went down with the old broker"
    (outcome,) = client.outcomes()
    assert isinstance(outcome, RegionUnavailable), "the write that did"


def test_a_repeated_welcome_of_the_same_broker_changes_nothing(client: Client) -> None:
    client.submit(admin(Kind.HELLO), OTHER)
    client.hears(welcome())
    assert client.says() == []
    assert len(client.outcomes()) == 1
    client.hears(answer())
    assert client.outcomes() == [Counted(1)]


def test_a_cancel_reaches_a_leaving_broker(client: Client) -> None:
    """It still runs what it has; nobody waits for that any more."""
    client.hears(DRAIN)
    client.core.abandon(ID)
    assert client.says() == ["CANCEL"]


def test_a_job_that_was_never_sent_ends_as_before(client: Client) -> None:
    """Without a refusal the error of a silent broker is the usual one."""
    assert client.says(2.1) == ["CANCEL"]
    assert isinstance(client.outcomes()[0], DeadlineExceeded)


def test_only_writes_on_their_way_keep_a_client_at_a_leaving_broker(client: Client) -> None:
    """With another broker at hand, reads can be asked there at once; an unanswered write cannot."""
    assert not client.core.must_stay
    client.submit(WRITE, OTHER)
    assert not client.core.must_stay
    client.says()
    assert client.core.must_stay
    client.hears(answer(OTHER))
    assert not client.core.must_stay


def test_a_crowd_that_waited_comes_back_little_by_little(client: Client) -> None:
    """All at once it would fill the new broker's queue and be refused; each answer brings the next question."""
    client.hears(answer(), DRAIN)
    client.outcomes()
    ids = [number.to_bytes(16, "big") for number in range(1, 501)]
    for job in ids:
        client.submit(READ, job, seconds=60.0)
    client.core.lost()
    sent = client.says()
    assert sent == ["HELLO", *["REQUEST"] * WINDOW]
    client.hears(welcome("two"))
    for number, job in enumerate(ids):
        client.hears(answer(job))
        unanswered = len(sent) - 1 - (number + 1)
        assert unanswered <= WINDOW
        sent += client.says()
    assert len(sent) == 501
    assert len(client.outcomes()) == 500
    for job in ids:
        client.submit(READ, job, seconds=60.0)
    assert client.says() == ["REQUEST"] * 500, "and then there is no limit any more"


def test_what_is_given_up_makes_room_for_others(client: Client) -> None:
    """A deadline, a cancellation or a refusal must not leave a crowd waiting for answers that never come."""
    client.hears(answer())
    client.core.lost()
    ids = [number.to_bytes(16, "big") for number in range(1, 4 * WINDOW + 1)]
    for job in ids:
        client.submit(READ, job, seconds=1.0 if job in ids[:WINDOW] else 60.0)
    client.says()
    assert client.says(1.1).count("REQUEST") == WINDOW, "their time was up"
    for job in ids[WINDOW : 2 * WINDOW]:
        client.core.abandon(job)
    assert client.says().count("REQUEST") == WINDOW, "nobody wants them any more"
    for job in ids[2 * WINDOW : 3 * WINDOW]:
        client.hears(nack(Reason.EXPIRED, "too late", job=job))
    assert client.says().count("REQUEST") == WINDOW, "they were refused"


def test_writes_are_part_of_the_crowd() -> None:
    """They wait for a welcome, and are counted then."""
    client = Client()
    client.core.lost()
    for number in range(3 * WINDOW):
        client.submit(WRITE, number.to_bytes(16, "big"))
    assert client.says() == ["HELLO"]
    client.hears(nack(Reason.DRAINING, "not here"))
    assert set(client.says(0.5)) == {"HELLO"}
    client.hears(welcome())
    assert client.says() == ["REQUEST"] * WINDOW


def test_a_question_that_is_asked_anew_has_another_name(client: Client) -> None:
    """Under the first one it may still run somewhere, and the broker there would call the second a stranger's."""
    for _ in range(300):
        client.core.lost()
        client.says()
        client.hears(welcome("two"))
    assert client.names[0] == ID
    assert all(earlier != later for earlier, later in pairwise(client.names))
    client.hears(answer(client.names[-2]), nack(Reason.CANCELLED, "", job=client.names[-2]))
    assert client.outcomes() == [], "what the first broker says is of no interest any more"
    client.hears(answer(client.names[-1]))
    assert client.core.done == [(ID, Counted(1))]
    assert not client.core._jobs._aliases


def test_giving_up_names_what_the_broker_knows(client: Client) -> None:
    client.core.lost()
    client.says()
    client.core.abandon(ID)
    client.core.tick(client.now)
    (frame,) = client.core.frames(client.now)
    assert (peek(frame).kind, peek(frame).job) == (Kind.CANCEL, client.names[-1])
    assert not client.core._jobs._aliases
