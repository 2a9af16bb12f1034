"""The asyncio connection over real sockets: many tasks, one DEALER, no missed wake-up."""

import asyncio
import time

import pytest

from mesh.core.asking import Outcome
from mesh.core.requests import request
from mesh.errors import LocalProtocolError, RegionUnavailable
from mesh.model import Counted, Find
from mesh.transport.aio import AsyncConnection
from tests.loopback.fake_broker import Start, reply, silence, wait_until

FIND = request("ne", Find())


def test_many_tasks_share_one_socket(start: Start) -> None:
    """A thousand concurrent questions need one greeting, and none is forgotten."""
    broker = start()

    async def main() -> list[list[Outcome]]:
        connection = AsyncConnection(broker.endpoint)
        try:
            return await asyncio.gather(*[connection.ask([FIND, FIND], 20.0) for _ in range(500)])
        finally:
            await connection.close()

    counts = [outcome.count for outcomes in asyncio.run(main()) for outcome in outcomes if isinstance(outcome, Counted)]
    assert sorted(counts) == list(range(1, 1001))
    assert broker.kinds().count("HELLO") == 1


def test_one_question_after_the_other_never_stalls(start: Start) -> None:
    """The descriptor is edge-triggered: a missed edge would show as a wait for the timer."""
    broker = start()

    async def main() -> float:
        connection = AsyncConnection(broker.endpoint)
        await connection.ask([FIND], 5.0)
        longest = 0.0
        for _ in range(500):
            begin = time.monotonic()
            await connection.ask([FIND], 5.0)
            longest = max(longest, time.monotonic() - begin)
        await connection.close()
        return longest

    assert asyncio.run(main()) < 1.0


def test_a_cancelled_task_cancels_its_job(start: Start) -> None:
    """The broker hears of it, and other tasks go on."""
    broker = start(silence)

    async def main() -> None:
        connection = AsyncConnection(broker.endpoint)
        task = asyncio.create_task(connection.ask([FIND], 5.0))
        await asyncio.to_thread(wait_until, broker.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        broker.answer = reply
        assert await connection.ask([FIND], 2.0) == [Counted(2)]
        await connection.close()

    asyncio.run(main())
    assert "CANCEL" in broker.kinds()


def test_closing_ends_what_still_waits(start: Start) -> None:
    """With an error that says why, not with a cancellation nobody asked for."""
    broker = start(silence)

    async def main() -> Outcome:
        connection = AsyncConnection(broker.endpoint)
        task = asyncio.create_task(connection.ask([FIND], 5.0))
        await asyncio.to_thread(wait_until, broker.requests)
        await connection.close()
        return (await task)[0]

    outcome = asyncio.run(main())
    assert isinstance(outcome, LocalProtocolError)


def test_async_deadline_absence_and_loops(free_endpoint: str) -> None:
    """The errors are those of the blocking connection; another event loop is refused."""
    connection = AsyncConnection(free_endpoint)

    async def main() -> Outcome:
        return (await connection.ask([FIND], 0.2))[0]

    with asyncio.Runner() as first, asyncio.Runner() as second:
        outcome = first.run(main())
        assert isinstance(outcome, RegionUnavailable)
        with pytest.raises(LocalProtocolError, match="another event loop"):
            second.run(main())
        first.run(connection.close())
