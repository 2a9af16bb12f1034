"""Signals, exit codes and the one line a program says when it cannot go on."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mesh.errors import ConfigError, MeshError

EXIT_FAILURE = 1
EXIT_USAGE = 2
#: sysexits.h EX_CONFIG; units list it in RestartPreventExitStatus so that a typo is no restart loop.
EXIT_CONFIG = 78


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call *stop* at the first SIGTERM or SIGINT; a second one ends the process at once."""

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


@contextmanager
def complaints(program: str) -> Iterator[None]:
    """Turn the mesh's errors into one line on standard error and an exit code."""
    try:
        yield
    except ConfigError as error:
        sys.stderr.write(f"{program}: {error}\n")
        sys.exit(EXIT_CONFIG)
    except MeshError as error:
        sys.stderr.write(f"{program}: {error}\n")
        sys.exit(EXIT_FAILURE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
