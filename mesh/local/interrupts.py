"""SIGINT and SIGTERM as KeyboardInterrupt, but never in the middle of a fork.

Around a fork with preexec_fn Python runs hooks that take and release locks, such as that of `logging`. An exception
raised inside a hook is dropped: the interrupt would be lost, and the lock held for ever.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.service import lifecycle


class _State:
    """Whether the main thread is forking, and whether a signal came meanwhile."""

    held = False
    pending = False


def install() -> None:
    """From now on raise KeyboardInterrupt in the main thread at the first signal; a second one ends the process."""
    lifecycle.on_stop_signals(_interrupt)


@contextmanager
def held() -> Iterator[None]:
    """Put an interrupt off until the block has ended; signals only ever interrupt the main thread."""
    if threading.current_thread() is not threading.main_thread() or _State.held:
        yield
        return
    _State.held = True
    try:
        yield
    finally:
        _State.held = False
    if _State.pending:
        _State.pending = False
        raise KeyboardInterrupt


def _interrupt() -> None:
    if _State.held:
        _State.pending = True
    else:
        raise KeyboardInterrupt
