"""What a job's frame says when it goes on."""

from mesh.core.job import admitted
from mesh.protocol.header import Flag, Header, Kind, encode, pad_region, peek

REQUEST = Header(kind=Kind.REQUEST, flags=Flag.IDEMPOTENT, region=pad_region("ne"), job=b"j" * 16, budget_ms=8000)


def test_a_job_that_hardly_waited_goes_to_a_worker_as_it_came():
    """Within 1/64 of its budget the frame is the same object: nothing is packed or copied."""
    frame = encode(REQUEST, b"body")
    job = admitted(b"client", None, frame, REQUEST, 10.0)
    assert job.frame_here(10.09) is frame


def test_a_job_that_waited_tells_a_worker_what_is_left():
    job = admitted(b"client", None, encode(REQUEST, b"body"), REQUEST, 10.0)
    sent = job.frame_here(11.0)
    assert peek(sent) == REQUEST._replace(budget_ms=7000)
    assert sent.endswith(b"body")
    assert peek(job.frame_here(99.0)).budget_ms == 0


def test_a_second_attempt_says_so():
    job = admitted(b"client", None, encode(REQUEST, b"body"), REQUEST, 10.0)
    job.attempt += 1
    assert peek(job.frame_here(10.0)).attempt == 1


def test_a_job_for_a_peer_is_marked():
    job = admitted(b"client", None, encode(REQUEST, b"body"), REQUEST, 10.0)
    head = peek(job.frame_for(10.5, flags=Flag.SPILLED, demand=7, credit=41))
    assert head == REQUEST._replace(flags=Flag.IDEMPOTENT | Flag.SPILLED, budget_ms=7500, demand=7, credit=41)
