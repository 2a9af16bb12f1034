"""Figures that tests on hosts measure, printed at the end of a run whether it passed or not."""

import json
from typing import Any

_LINES: list[str] = []
#: What is left out: of no use when nothing failed, and long when something did.
_LONG = ("errors", "first_errors")


def report(name: str, figures: dict[str, Any]) -> None:
    """Remember what was measured."""
    _LINES.append(f"{name}: {json.dumps({key: value for key, value in figures.items() if key not in _LONG})}")


def lines() -> list[str]:
    """Return what was remembered, a line each."""
    return list(_LINES)
