"""The time limit of a thread, for stores that have to watch the clock themselves."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.errors import DeadlineExceeded


class Deadline(threading.local):
    """When this thread has to be done; limits nest, and the earliest one counts."""

    def __init__(self) -> None:
        self._at: float | None = None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Bound what this thread does inside the block."""
        outer, mine = self._at, time.monotonic() + seconds
        self._at = mine if outer is None else min(outer, mine)
        try:
            yield
        finally:
            self._at = outer

    def remaining(self) -> float | None:
        """Return the seconds left, at least a little above 0, or None without a limit; raise if there are none."""
        if self._at is None:
            return None
        left = self._at - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the time limit ended before the store answered")
        return left

    def check(self) -> None:
        """Raise `DeadlineExceeded` if the time is over."""
        self.remaining()
