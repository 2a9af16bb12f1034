"""Services that isolate the mesh itself: for benchmarks and for trying out how it routes."""

import time


class Echo:
    """Returns what it got, at once."""

    name = "echo"
    inline = True

    def handle(self, region: str, body: bytes, seconds: float) -> bytes:  # noqa: ARG002
        """Return the body."""
        return body

    def close(self) -> None:
        """Nothing to release."""


class Sleep:
    """Returns what it got, after a while."""

    inline = False

    def __init__(self, milliseconds: float) -> None:
        self.name = f"sleep:{milliseconds:g}"
        self._seconds = milliseconds / 1000

    def handle(self, region: str, body: bytes, seconds: float) -> bytes:  # noqa: ARG002
        """Sleep, and return the body."""
        time.sleep(self._seconds)
        return body

    def close(self) -> None:
        """Nothing to release."""
