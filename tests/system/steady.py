"""Clients that ask at a steady rate, whatever becomes of the answers, and remember how each question ended."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from mesh import AsyncClient, Client
from mesh.errors import MeshError


@dataclass
class Answers:
    """How questions ended."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """How many there were."""
        return len(self.seconds) + len(self.errors)

    @property
    def longest(self) -> float:
        """The longest time an answer took, in seconds."""
        return max(self.seconds)

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.asked} asked, {len(self.errors)} failed, slowest {self.longest:.3f} s {self.errors[:3]}"


class Steady:
    """Asks in the background from entry to exit."""

    def __init__(self, per_second: float) -> None:
        self.answers = Answers()
        self._interval = 1.0 / per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def close(self) -> None:
        """Close the client, if it is not the thread's own."""

    def _run(self) -> None:
        raise NotImplementedError


class SteadyThreads(Steady):
    """Several threads share one `Client`."""

    def __init__(self, client: Client, ask: Callable[[Client], object], per_second: float, threads: int = 16) -> None:
        super().__init__(per_second)
        self._client, self._ask, self._threads = client, ask, threads

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _run(self) -> None:
        with ThreadPoolExecutor(self._threads) as pool:
            due = time.monotonic()
            while not self._stop.is_set():
                pool.submit(self._once)
                due += self._interval
                time.sleep(max(0.0, due - time.monotonic()))

    def _once(self) -> None:
        begin = time.monotonic()
        try:
            self._ask(self._client)
            self.answers.seconds.append(time.monotonic() - begin)
        except MeshError as error:
            self.answers.errors.append(f"{type(error).__name__}: {error} after {time.monotonic() - begin:.2f} s")


class SteadyTasks(Steady):
    """Tasks of one event loop share one `AsyncClient`."""

    def __init__(
        self, make: Callable[[], AsyncClient], ask: Callable[[AsyncClient], Awaitable[object]], per_second: float
    ) -> None:
        super().__init__(per_second)
        self._make, self._ask = make, ask

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        async with self._make() as client:
            tasks = set()
            due = time.monotonic()
            while not self._stop.is_set():
                tasks.add(asyncio.create_task(self._once(client)))
                tasks = {task for task in tasks if not task.done()}
                due += self._interval
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _once(self, client: AsyncClient) -> None:
        begin = time.monotonic()
        try:
            await self._ask(client)
            self.answers.seconds.append(time.monotonic() - begin)
        except MeshError as error:
            self.answers.errors.append(f"{type(error).__name__}: {error} after {time.monotonic() - begin:.2f} s")
