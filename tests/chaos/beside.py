"""What is done again and again, on a thread of its own, while something else goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(act: Callable[[], None], every_seconds: float) -> Iterator[None]:
    """Do something every so many seconds while a block lasts."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every_seconds):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
