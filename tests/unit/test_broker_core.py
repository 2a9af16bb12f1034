"""What a broker decides, seen from its clients, with the shipped cores wired back to back."""

import pytest

from mesh.core.broker import QUIET_SECONDS
from mesh.core.dispatch import UNSTAFFED_QUEUES
from mesh.protocol import body, limits
from mesh.protocol.header import SIZE, Flag, Header, Kind, Reason, encode, pad_region, peek
from mesh.protocol.refusal import retry_after
from mesh.testing.wiring import Address, Wiring, text_of


def answers(mesh: Wiring, client: str = "c") -> list[tuple[str, str]]:
    return [(Kind(head.kind).name, Reason(head.reason).name) for head in mesh.heads(client)]


def test_a_request_is_answered_by_a_worker_of_its_own_region():
    """A job for the broker's own region goes to its own worker, although peers are idle."""
    mesh = Wiring("ne", "south")
    mesh.hello("c", "ne")
    mesh.ask("c", "ne")
    mesh.advance(0.1)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert [worker for worker, _ in mesh.ran] == ["ne/1"]


def test_a_request_for_another_region_is_forwarded_to_its_owner():
    """Data of another region is read by its owner's worker, one forward away."""
    mesh = Wiring("ne", "south")
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", home="south")
    mesh.advance(0.1)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert [worker for worker, _ in mesh.ran] == ["south/1"]
    assert mesh.counts("ne")["forwarded"] == 1


def test_a_busy_region_spills_to_a_peer_that_granted_credit():
    """When all own workers are busy, a peer's standing credit takes the next job without a round trip."""
    mesh = Wiring("ne", "south", workers=2)
    mesh.hello("c", "ne")
    for _ in range(3):
        mesh.ask("c", "ne", takes=0.5)
    assert [worker for worker, _ in mesh.ran] == ["ne/1", "ne/2", "south/1"]
    mesh.advance(1.0)
    assert answers(mesh) == [("REPLY", "NONE")] * 3
    assert mesh.counts("ne")["spilled_out"] == mesh.counts("south")["spilled_in"] == 1


def test_sixteen_jobs_of_a_second_use_the_whole_mesh_at_once():
    """16 one-second jobs at a region with two workers of a mesh with 18 end in 1.3 s."""
    mesh = Wiring("ne", "south", "mw", "sw", "ca", workers=2)
    for region in mesh.regions[1:]:
        mesh.start_worker(region, "3")
        mesh.start_worker(region, "4")
    mesh.advance(1.0)
    mesh.hello("c", "ne")
    for _ in range(16):
        mesh.ask("c", "ne", takes=1.0)
    mesh.advance(1.3)
    assert answers(mesh) == [("REPLY", "NONE")] * 16


def test_a_spilled_job_is_never_sent_on():
    """No job makes more than one spill: what a peer cannot take comes back, and waits at home."""
    mesh = Wiring("ne", "south", workers=2)
    mesh.hello("c", "ne")
    mesh.hello("d", "south")
    for _ in range(6):
        mesh.ask("d", "south", takes=0.4)
        mesh.ask("c", "ne", takes=0.4)
    mesh.advance(3.0)
    assert answers(mesh) == answers(mesh, "d") == [("REPLY", "NONE")] * 6
    assert len(mesh.ran) == 12


def test_a_job_without_credit_is_refused_by_the_peer():
    """A spilled job beyond the credit is refused: the limit is the receiver's to set."""
    mesh = Wiring("ne", "south")
    south = mesh.broker("south")
    head = Header(kind=Kind.REQUEST, flags=Flag.SPILLED, region=pad_region("ne"), job=b"j" * 16, budget_ms=1000)
    for peer in south.peers:
        peer.grant.received = peer.grant.granted
    south.receive(0, b"ne", encode(head), mesh.now)
    actions = south.take(mesh.now)
    nacks = [peek(action.frame) for action in actions if getattr(action, "to", b"") == b"ne"]
    assert [(nack.kind, nack.reason) for nack in nacks if nack.kind == Kind.NACK] == [(Kind.NACK, Reason.NO_CREDIT)]


def test_credit_spent_never_exceeds_credit_granted():
    """Whatever the load, no peer ever gets more spilled jobs than it granted."""
    mesh = Wiring("ne", "south", "mw", workers=2)
    mesh.hello("c", "ne")
    for _ in range(60):
        mesh.ask("c", "ne", takes=0.05)
        mesh.advance(0.01)
        for region in ("south", "mw"):
            grant = next(peer.grant for peer in mesh.broker(region).peers if peer.name == "ne")
            assert grant.received <= grant.granted
    mesh.advance(3.0)
    assert answers(mesh) == [("REPLY", "NONE")] * 60
    assert mesh.counts("south")["over_credit"] == mesh.counts("mw")["over_credit"] == 0


def test_a_spilled_job_has_its_turn_among_the_hosts_own():
    """Own work that keeps coming does not starve a job that was spilled here against a credit."""
    mesh = Wiring("ne", "south", workers=2)
    mesh.hello("c", "ne")
    mesh.hello("d", "south")
    mesh.ask("d", "south", takes=0.3)
    mesh.ask("d", "south", takes=0.3)
    for _ in range(3):
        mesh.ask("c", "ne", takes=0.3)  # the third spills on the standing credit, and waits at south
    assert len(mesh.broker("south").jobs.waiting.spilled) == 1
    mesh.advance(0.01)
    for _ in range(40):
        mesh.ask("d", "south", takes=0.3)
    mesh.advance(0.7)
    assert answers(mesh) == [("REPLY", "NONE")] * 3
    assert len(answers(mesh, "d")) < 10


def test_a_worker_with_another_region_map_gets_no_work():
    """A worker whose map differs would accept misplaced writes, so it is turned away and told why."""
    mesh = Wiring("ne", workers=0)
    ready = body.Ready(instance="1", epoch="e", map_digest="ffffffff")
    broker = mesh.broker("ne")
    broker.receive(2, b"w", encode(Header(kind=Kind.READY), body.encode(ready)), mesh.now)
    (sent,) = [action for action in broker.take(mesh.now) if hasattr(action, "frame")]
    assert peek(sent.frame).reason == Reason.STALE_MAP
    assert "the region maps differ" in text_of(sent.frame)
    assert not len(broker.jobs.workers)


def test_a_full_queue_answers_busy_with_a_time_to_come_back():
    """Beyond the bounded queue a client is told BUSY and when to retry, at once."""
    mesh = Wiring("ne", queue=2)
    mesh.hello("c", "ne")
    for _ in range(4):
        mesh.ask("c", "ne", takes=0.2)
    assert answers(mesh) == [("NACK", "BUSY")]
    assert 0 < mesh.heads("c")[0].budget_ms < 60_000
    mesh.advance(1.0)
    assert answers(mesh)[1:] == [("REPLY", "NONE")] * 3


def test_a_job_whose_worker_died_is_run_again():
    """An idempotent job is requeued when its worker falls silent, and the client sees only the answer."""
    mesh = Wiring("ne", workers=2)
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", takes=0.2)
    mesh.kill("worker", mesh.ran[0][0])
    mesh.advance(3.0)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert mesh.counts("ne")["requeued"] == 1
    assert [worker for worker, _ in mesh.ran] == ["ne/1", "ne/2"]


def test_a_job_that_must_not_run_twice_is_not_run_twice():
    """A write whose worker died is answered with an honest error that says so."""
    mesh = Wiring("ne", workers=2)
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", takes=0.2, flags=Flag.NONE)
    mesh.kill("worker", mesh.ran[0][0])
    mesh.advance(3.0)
    assert answers(mesh) == [("NACK", "WORKER_LOST")]
    assert "may or may not have been done" in text_of(mesh.inbox["c"][-1])
    assert len(mesh.ran) == 1


def test_a_job_that_kills_workers_is_given_up():
    """After three attempts a job is refused instead of being fed to the next worker."""
    mesh = Wiring("ne", workers=4)
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", takes=30, budget_ms=60_000)
    for _ in range(limits.MAX_ATTEMPTS):
        mesh.kill("worker", mesh.ran[-1][0])
        mesh.advance(2.0)
    assert answers(mesh) == [("NACK", "WORKER_LOST")]
    assert len(mesh.ran) == limits.MAX_ATTEMPTS


def test_a_deadline_ends_a_job_wherever_it_is():
    """A job that is running and one that waits are both refused with EXPIRED when their time is over."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", takes=1.0, budget_ms=300)
    mesh.ask("c", "ne", takes=1.0, budget_ms=200)
    mesh.advance(0.5)
    assert answers(mesh) == [("NACK", "EXPIRED")] * 2
    mesh.advance(1.0)
    assert len(mesh.ran) == 1, "a job that expired in the queue is not run"
    assert not mesh.broker("ne").jobs.outstanding
    mesh.ask("c", "ne")
    mesh.advance(0.1)
    assert answers(mesh)[-1] == ("REPLY", "NONE"), "the worker is free again"


def test_a_dead_brokers_data_is_served_by_the_entry_broker():
    """When the owner is gone, the entry broker's own worker reads the owner's shard."""
    mesh = Wiring("ne", "south")
    mesh.hello("c", "ne")
    mesh.kill("broker", "south")
    mesh.ask("c", "ne", home="south")
    mesh.advance(0.1)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert mesh.ran[-1][0] == "ne/1"


def test_a_job_at_a_peer_that_falls_silent_is_served_here():
    """A forwarded job whose owner stops talking is served by the entry broker within its patience."""
    mesh = Wiring("ne", "south")
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", home="south", takes=0.3)
    mesh.cut.add(frozenset((Address("broker", "ne"), Address("broker", "south"))))
    mesh.advance(2.0)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert [worker for worker, _ in mesh.ran] == ["south/1", "ne/1"]


def test_a_restarted_peer_is_welcomed_again_with_fresh_counters():
    """A new epoch zeroes the credit on both sides, and jobs flow again."""
    mesh = Wiring("ne", "south", workers=2)
    mesh.hello("c", "ne")
    for _ in range(4):
        mesh.ask("c", "ne", takes=0.1)
    mesh.advance(1.0)
    mesh.kill("broker", "south")
    mesh.advance(2.0)
    mesh.start_broker("south")
    mesh.advance(3.0)
    peer = next(iter(mesh.broker("ne").peers))
    assert peer.alive
    assert peer.wallet.sent == 0
    assert len(mesh.broker("south").jobs.workers) == 2, "the workers found the new broker"
    mesh.ask("c", "ne", home="south")
    mesh.advance(0.1)
    assert answers(mesh)[-1] == ("REPLY", "NONE")


def test_a_draining_broker_finishes_what_it_has_and_takes_nothing_new():
    """SIGTERM loses nothing: running jobs are answered, new ones are told DRAINING, peers stop sending."""
    mesh = Wiring("ne", "south")
    mesh.hello("c", "ne")
    mesh.hello("d", "south")
    mesh.ask("c", "ne", takes=0.3)
    mesh.broker("ne").drain(mesh.now)
    mesh.perform(Address("broker", "ne"))
    mesh.ask("c", "ne")
    assert answers(mesh) == [("DRAIN", "NONE"), ("NACK", "DRAINING")]
    mesh.ask("d", "south", home="ne")
    mesh.advance(1.0)
    assert answers(mesh)[2:4] == [("REPLY", "NONE"), ("GOODBYE", "NONE")]
    assert answers(mesh, "d") == [("REPLY", "NONE")], "the owner is leaving, so the entry broker served it"
    assert Address("broker", "ne") in mesh.stopped


def test_what_only_waits_is_handed_back_by_a_broker_that_leaves():
    """It has not been started, so its successor, or another broker, may have it; the drain takes no longer for it."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    for _ in range(3):
        mesh.ask("c", "ne", takes=0.3, flags=Flag.NONE)
    mesh.broker("ne").drain(mesh.now)
    mesh.perform(Address("broker", "ne"))
    assert answers(mesh) == [("NACK", "DRAINING")] * 2 + [("DRAIN", "NONE")]
    mesh.advance(0.35)
    assert answers(mesh)[3:5] == [("REPLY", "NONE"), ("GOODBYE", "NONE")]
    assert len(mesh.ran) == 1


def test_a_broker_that_leaves_does_not_wait_for_workers_that_have_left():
    """A job whose worker died comes back, and nobody is there to take it again."""
    mesh = Wiring("ne", "south")
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", takes=5.0)
    mesh.broker("ne").drain(mesh.now)
    mesh.kill("worker", "ne/1")
    mesh.advance(1.6)
    assert answers(mesh) == [
        ("DRAIN", "NONE"),
        ("NACK", "DRAINING"),
        *[("GOODBYE", "NONE")] * answers(mesh).count(("GOODBYE", "NONE")),
    ]
    assert Address("broker", "ne") in mesh.stopped


def test_a_broker_that_has_just_come_up_keeps_what_it_gets():
    """Its workers need a moment to find it; the crowd that waited for it is there first, and larger than a queue."""
    mesh = Wiring("ne", workers=0, queue=4)
    mesh.hello("c", "ne")
    for _ in range(4 * UNSTAFFED_QUEUES):
        mesh.ask("c", "ne")
    assert answers(mesh) == []
    mesh.ask("c", "ne")
    assert answers(mesh) == [("NACK", "BUSY")]
    assert retry_after(peek(mesh.inbox["c"][-1])) is None, "nobody knows how long this takes"
    mesh.start_worker("ne", "1")
    mesh.advance(1.0)
    assert answers(mesh)[1:] == [("REPLY", "NONE")] * 4 * UNSTAFFED_QUEUES
    for _ in range(30):
        mesh.ask("c", "ne", takes=0.5)
    assert answers(mesh)[-1] == ("NACK", "BUSY"), "with workers the limit is the configured one"


def test_workers_find_a_new_broker_at_once():
    """They ask twenty times a second, not at each heartbeat: jobs wait for them."""
    mesh = Wiring("ne", workers=3)
    mesh.kill("broker", "ne")
    mesh.advance(2.0)
    mesh.start_broker("ne")
    mesh.advance(0.06)
    assert len(mesh.broker("ne").jobs.workers) == 3


def test_workers_find_the_successor_of_a_broker_that_left():
    """Its goodbye is not the last word."""
    mesh = Wiring("ne")
    mesh.broker("ne").drain(mesh.now)
    mesh.advance(0.2)
    mesh.kill("broker", "ne")
    mesh.start_broker("ne")
    mesh.advance(0.06)
    assert len(mesh.broker("ne").jobs.workers) == 1


def test_a_broker_waits_for_what_was_sent_before_its_clients_knew():
    """Leaving at once would close connections with unread requests in them, and nobody would know of their writes."""
    mesh = Wiring("ne", "south")
    mesh.hello("c", "ne")
    mesh.broker("ne").drain(mesh.now)
    mesh.perform(Address("broker", "ne"))
    for _ in range(3):
        mesh.advance(QUIET_SECONDS * 0.7)
        mesh.ask("c", "ne", flags=Flag.NONE)
        assert answers(mesh)[-1] == ("NACK", "DRAINING")
    assert Address("broker", "ne") not in mesh.stopped
    mesh.advance(QUIET_SECONDS * 1.5)
    assert Address("broker", "ne") in mesh.stopped


def test_a_client_that_does_not_listen_cannot_keep_a_broker():
    """Whoever goes on asking a broker that leaves is refused, and left."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    mesh.broker("ne").drain(mesh.now)
    for _ in range(100):
        mesh.advance(0.02)
        mesh.ask("c", "ne")
        if Address("broker", "ne") in mesh.stopped:
            return
    pytest.fail("it is still here after two seconds")


def test_a_broker_that_leaves_welcomes_nobody():
    """A client that asks whether it has been replaced must not take it for its successor."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    mesh.broker("ne").drain(mesh.now)
    mesh.hello("d", "ne")
    assert answers(mesh, "d") == [("NACK", "DRAINING")]
    mesh.hello("c", "ne")
    assert answers(mesh)[-1] == ("NACK", "DRAINING")


def test_a_cancelled_job_that_waits_is_not_run():
    """CANCEL reaches the queue, and the worker never sees the job."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", takes=0.2)
    job = mesh.ask("c", "ne", takes=0.2)
    mesh.tell("c", "ne", encode(Header(kind=Kind.CANCEL, job=job)))
    mesh.advance(1.0)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert len(mesh.ran) == 1


def test_a_cancel_that_finds_no_worker_leaves_nothing_behind():
    """A job whose client gave up while its worker was dying is forgotten, not kept in the table for ever."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    job = mesh.ask("c", "ne", takes=0.2)
    mesh.kill("worker", "ne/1")
    mesh.tell("c", "ne", encode(Header(kind=Kind.CANCEL, job=job)))
    mesh.advance(10.0)
    assert not mesh.broker("ne").jobs.outstanding


def test_a_stranger_cannot_cancel_or_take_anothers_job():
    """Another client's CANCEL changes nothing, and its use of the same job id is refused."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    mesh.hello("d", "ne")
    job = mesh.ask("c", "ne", takes=0.2)
    mesh.tell("d", "ne", encode(Header(kind=Kind.CANCEL, job=job)))
    mesh.ask("d", "ne", job=job)
    mesh.advance(1.0)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert answers(mesh, "d") == [("NACK", "DUPLICATE")]


@pytest.mark.parametrize(("flags", "answered"), [(Flag.IDEMPOTENT, ("REPLY", "NONE")), (0, ("NACK", "DUPLICATE"))])
def test_a_peer_that_has_the_job_from_another_broker_is_no_reason_to_fail(flags: int, answered: tuple[str, str]):
    """A broker that lost a peer gives the job to the next one, where the lost peer may have sent it before.

    What may be done twice is done here then; anything else is refused.
    """
    mesh = Wiring("ne", "south", "mw")
    mesh.hello("c", "ne")
    mesh.hello("d", "south")
    job = mesh.ask("c", "ne", home="mw", takes=0.5, flags=flags)
    mesh.ask("d", "south", home="mw", job=job, flags=flags)
    mesh.advance(1.0)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert answers(mesh, "d") == [answered]


def test_a_repeated_request_is_run_once():
    """The same request sent twice by its owner is one job with one answer."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    job = mesh.ask("c", "ne", takes=0.2)
    mesh.ask("c", "ne", takes=0.2, job=job)
    mesh.advance(1.0)
    assert answers(mesh) == [("REPLY", "NONE")]
    assert len(mesh.ran) == 1


@pytest.mark.parametrize(
    ("frame", "reason", "words"),
    [
        (b"", Reason.MALFORMED, "header of 48 bytes"),
        (b"garbage", Reason.MALFORMED, "has 7 bytes in all"),
        (bytes(48), Reason.VERSION, "version 0 is not spoken"),
        (
            encode(Header(version=9, kind=Kind.HELLO)),
            Reason.VERSION,
            "version 9 is not spoken here; this side speaks 1",
        ),
        (encode(Header(kind=99)), Reason.MALFORMED, "no message kind 99"),
        (encode(Header(kind=Kind.REQUEST)), Reason.NO_SESSION, "say HELLO"),
        (encode(Header(kind=Kind.WELCOME)), Reason.UNEXPECTED, "WELCOME is not allowed here"),
        (encode(Header(kind=Kind.HELLO), b"\xc1"), Reason.MALFORMED, "msgpack"),
        (encode(Header(kind=Kind.HELLO), body.encode(body.Hello(role="peer"))), Reason.UNEXPECTED, "routing id"),
        (encode(Header(kind=Kind.HELLO)) + bytes(limits.MAX_FRAME_BYTES), Reason.TOO_LARGE, "the limit is"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(frame, reason, words):
    """A client that sends nonsense is told what was wrong, and nothing else changes."""
    mesh = Wiring("ne")
    mesh.tell("c", "ne", frame)
    assert answers(mesh) == [("NACK", reason.name)]
    assert words in text_of(mesh.inbox["c"][-1])


@pytest.mark.parametrize(
    ("head", "reason", "words"),
    [
        (Header(region=pad_region("mars"), budget_ms=9), Reason.UNKNOWN_REGION, "this mesh has ne"),
        (Header(region=pad_region("ne"), budget_ms=0), Reason.EXPIRED, "no time left"),
        (Header(region=pad_region("ne"), budget_ms=9, map_digest=b"late"), Reason.STALE_MAP, "fetch it again"),
    ],
)
def test_a_request_that_cannot_be_a_job_is_refused(head, reason, words):
    """Unknown regions, no time, and an old region map are refused before anything starts."""
    mesh = Wiring("ne")
    mesh.hello("c", "ne")
    mesh.tell("c", "ne", encode(head._replace(kind=Kind.REQUEST, job=b"j" * 16)))
    assert answers(mesh) == [("NACK", reason.name)]
    assert words in text_of(mesh.inbox["c"][-1])
    assert mesh.ran == []


def test_workers_and_peers_that_send_garbage_do_no_harm():
    """Garbage on the local and the cloud BE is counted; the broker goes on serving."""
    mesh = Wiring("ne", "south")
    broker = mesh.broker("ne")
    for frame in (
        b"",
        b"x" * 10,
        bytes(100),
        encode(Header(kind=Kind.REQUEST)),
        encode(Header(kind=Kind.READY), b"\xc1"),
    ):
        for link, sender in ((2, b"ne/1"), (2, b"stranger"), (1, b"south"), (1, b"stranger")):
            broker.receive(link, sender, frame, mesh.now)
    broker.malformed(1, b"south", 20_000, mesh.now)
    assert broker.jobs.count["garbage_malformed"] >= 9
    mesh.hello("c", "ne")
    mesh.ask("c", "ne", home="south")
    mesh.advance(0.1)
    assert answers(mesh) == [("REPLY", "NONE")]


def test_a_client_that_bears_a_regions_name_is_no_peer():
    """A client whose routing id is a region's name but which is no peer cannot get jobs in."""
    mesh = Wiring("ne", "south")
    before = len(mesh.ran)
    mesh.kill("broker", "south")
    mesh.advance(3.0)
    mesh.ask("south", "ne")
    assert len(mesh.ran) == before


def test_the_broker_answers_for_itself():
    """STATUS, REGIONS and PING are answered by the broker, with the job id of the question."""
    mesh = Wiring("ne", "south", workers=2)
    mesh.hello("c", "ne")
    for kind in (Kind.STATUS, Kind.REGIONS, Kind.PING):
        mesh.tell("c", "ne", encode(Header(kind=kind, job=bytes([kind]) * 16)))
    heads = mesh.heads("c")
    assert [(head.kind, head.job[0]) for head in heads] == [(Kind.REPLY, 12), (Kind.REPLY, 13), (Kind.REPLY, 14)]
    status = body.decode_any(mesh.inbox["c"][1][SIZE:])
    assert status["region"] == "ne"
    assert [worker["instance"] for worker in status["workers"]] == ["1", "2"]
    assert [(peer["region"], peer["serving"]) for peer in status["peers"]] == [("south", "open")]
    assert mesh.inbox["c"][2][SIZE:] == b'{"map": true}'


def test_counters_come_to_rest():
    """After a storm and quiet, nothing is outstanding, queued, in flight or owed."""
    mesh = Wiring("ne", "south", "mw", workers=2)
    for client, region in (("a", "ne"), ("b", "south"), ("c", "mw")):
        mesh.hello(client, region)
    for n in range(120):
        mesh.ask("a", "ne", takes=0.02, home=mesh.regions[n % 3])
        if n % 2:
            mesh.ask("b", "south", takes=0.02)
        mesh.advance(0.01)
    mesh.advance(5.0)
    assert len(mesh.heads("a")) == 120
    assert len(mesh.heads("b")) == 60
    for region in mesh.regions:
        core = mesh.broker(region)
        assert not core.jobs.outstanding
        assert not len(core.jobs.waiting)
        assert core.jobs.workers.inflight == 0
        for peer in core.peers:
            other = next(p for p in mesh.broker(peer.name).peers if p.name == region)
            assert peer.wallet.sent == other.grant.received
            assert peer.wallet.limit == other.grant.granted
