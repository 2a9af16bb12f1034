"""Figures that tests on hosts measure, printed at the end of a run whether it passed or not."""

import json
from typing import Any

_LINES: list[str] = []


def report(name: str, figures: dict[str, Any]) -> None:
    """Remember what was measured."""
    _LINES.append(f"{name}: {json.dumps(figures)}")


def lines() -> list[str]:
    """Return what was remembered, a line each."""
    return list(_LINES)
