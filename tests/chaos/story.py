"""A history as it should be, for tests that falsify it."""

from dataclasses import replace

from tests.chaos.checker import Rules, Verdict, check
from tests.chaos.history import Op, Outcome, Read, Seen

KEY = "w1-1"
#: Seconds from the start of one operation to that of the next, and how long each takes.
STEP, TAKES = 1.0, 0.5


class Story:
    """One key's history as it should be, told operation by operation by a model of its own; tests then falsify it."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.reads: list[Read] = []
        self.now: Seen | None = None

    def do(self, kind: str, region: str = "ne", outcome: Outcome = Outcome.OK, *, happens: bool = True) -> Op:
        """Do one operation; one of unknown outcome happens or not."""
        number = len(self.ops) + 1
        op = Op("w1", KEY, number, kind, region, float(number), 1.0, number * STEP, number * STEP + TAKES, outcome)
        if happens:
            self.now = self._changed(op)
        if outcome is Outcome.OK:
            op.seen = self.now
        self.ops.append(op)
        return op

    def read(self, at: float, seen: Seen | None, takes: float = 0.1) -> None:
        """Read at a time."""
        self.reads.append(Read("r1", KEY, at, at + takes, seen))

    def judge(self, *stored: Seen, rules: Rules = Rules(), answered: Seen | None = None) -> Verdict:  # noqa: B008
        """Return the verdict when these copies are stored in the end; without any, what should be."""
        copies = stored or ((self.now,) if self.now else ())
        said = answered or max(copies, key=lambda copy: copy.version, default=None)
        return check(self.ops, self.reads, {KEY: copies}, {KEY: said} if said else {}, rules)

    def kinds(self, *stored: Seen, rules: Rules = Rules()) -> list[str]:  # noqa: B008
        """Return the kinds of violations found."""
        return [violation.kind for violation in self.judge(*stored, rules=rules).violations]

    def _changed(self, op: Op) -> Seen | None:
        old = self.now
        if op.kind == "delete":
            return None
        if op.kind in {"insert", "upsert"}:
            return Seen(op.region, old.version + 1 if old else 1, op.number, frozenset(), op.number, op.lon, op.lat)
        assert old
        if op.kind == "update":
            return replace(old, version=old.version + 1, marks=old.marks | {op.number})
        return replace(old, version=old.version + 1, region=op.region, at=op.number, lon=op.lon, lat=op.lat)
