"""One line an event on standard error, as the journal likes it: priority, program, event, fields."""

import logging
import os
import sys
from typing import Any

#: syslog priorities; journald reads `<N>` at the start of a line as one.
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def setup(program: str, *, verbose: bool = False) -> None:
    """Send all log lines to standard error, with priorities when the journal reads them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(program, journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)


def line(level: str, event: str, fields: dict[str, Any]) -> None:
    """Log an event with its fields as `key=value`."""
    text = " ".join([event, *(f"{key}={_plain(value)}" for key, value in fields.items())])
    logging.getLogger("mesh").log(logging.getLevelNamesMapping()[level.upper()], "%s", text)


def _plain(value: Any) -> str:
    """Return a value as one printable word or a quoted string: strangers' bytes must not forge lines."""
    text = str(value)
    return text if text.isprintable() and " " not in text and text else repr(text)


class _Formatter(logging.Formatter):
    def __init__(self, program: str, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else f"%(asctime)s {program} %(levelname)s %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._journal:
            return text
        mark = f"<{_PRIORITY[record.levelname.lower()]}>"
        return "\n".join(mark + part for part in text.splitlines())
