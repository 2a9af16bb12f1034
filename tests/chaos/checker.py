"""Judges histories: whether any order of events explains all that clients saw and all that is stored.

Theory of operation. One client alone writes a key, one operation after the other. So the states a key can be in are
few, and are followed exactly: each is the set of its copies and of the operations whose outcome is unknown and that
have not happened so far. Such an operation may happen at any later time, once, or never: that is what "unknown" means.

- An acknowledged operation leaves those states in which its answer is true. If none is left, something acknowledged
  before was lost, or something was done twice (versions count by one), or what nobody did has happened.
- A read is right if some state that was possible between its start and its end shows it.
- In the end the copies in the shards have to be those of a possible state.

Everything is a function of its arguments; times are seconds on any one clock.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.chaos.history import Op, Outcome, Read, Seen

#: Copies of a place, and the numbers of operations that may still happen.
Copies = frozenset[Seen]
State = tuple[Copies, frozenset[int]]
NOTHING: Copies = frozenset()
START: State = (NOTHING, frozenset())


@dataclass(frozen=True)
class Rules:
    """What the mesh promises; what it does not promise yet is counted as a known limit instead of a violation."""

    #: A move across a border shows a reader one copy at any time, whatever dies in the middle of it. Until then, a move
    #: of unknown outcome may leave two copies, and a reader who asks everywhere may miss a place that moves meanwhile.
    atomic_moves: bool = False


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, with the history that shows it."""

    kind: str
    key: str
    text: str
    history: tuple[str, ...] = ()
    known: bool = False

    def __str__(self) -> str:
        return "\n".join([f"{self.kind}: {self.key}: {self.text}", *(f"    {line}" for line in self.history)])


@dataclass
class Verdict:
    """All that was found."""

    violations: list[Violation] = field(default_factory=list)
    #: What is a violation of `Rules` that are not promised yet, by kind.
    known: dict[str, int] = field(default_factory=dict)
    keys: int = 0
    acknowledged: int = 0
    unknown: int = 0
    reads: int = 0

    def take(self, found: Iterable[Violation]) -> None:
        """Add violations."""
        for violation in found:
            if violation.known:
                self.known[violation.kind] = self.known.get(violation.kind, 0) + 1
            else:
                self.violations.append(violation)


def check(
    ops: Iterable[Op],
    reads: Iterable[Read],
    stored: Mapping[str, Sequence[Seen]],
    answered: Mapping[str, Seen],
    rules: Rules = Rules(),
) -> Verdict:
    """Judge everything; *stored* has the copies in all shards at the end, *answered* what the mesh then says."""
    by_key: dict[str, list[Op]] = defaultdict(list)
    looks: dict[str, list[Read]] = defaultdict(list)
    for op in ops:
        by_key[op.key].append(op)
    for read in reads:
        looks[read.key].append(read)
    verdict = Verdict(keys=len(by_key), reads=sum(map(len, looks.values())))
    for key, history in by_key.items():
        verdict.acknowledged += sum(op.outcome is Outcome.OK for op in history)
        verdict.unknown += sum(op.outcome in {Outcome.UNKNOWN, Outcome.STUCK} for op in history)
        final = frozenset(stored.get(key, ()))
        verdict.take(check_key(history, looks[key], final, rules))
        verdict.take(_answered_otherwise(key, history, final, answered.get(key)))
    for key in sorted(({*stored, *answered, *looks}) - set(by_key)):
        copies = [*stored.get(key, ()), *(read.seen for read in looks[key] if read.seen)]
        if copies or key in answered:
            verdict.take([Violation("phantom", key, f"nobody wrote it: {_list(copies)}")])
    return verdict


def check_key(ops: Sequence[Op], reads: Sequence[Read], final: Copies, rules: Rules) -> list[Violation]:
    """Judge the history of one key; of an impossible one, only the first contradiction means something."""
    ops = sorted(ops, key=lambda op: op.number)
    eras: list[frozenset[State]] = [frozenset([START])]
    for index, op in enumerate(ops):
        states = _after(op, ops, eras[-1], rules)
        if not states:
            return [_contradiction(op, ops[: index + 1], closure(eras[-1], ops, rules))]
        eras.append(states)
    every = [closure(states, ops, rules) for states in eras]
    found = [*_impossible_reads(ops, reads, every), *_backward_reads(ops, reads, every)]
    ends = {copies for copies, _ in every[-1]}
    if final not in ends:
        found.append(_wrong_end(ops, final, ends))
    elif len(final) > 1:
        found.append(Violation("torn move", ops[0].key, f"left as {_list(final)}", _lines(ops), known=True))
    return found


# -- states ------------------------------------------------------------------------------------------------------------


def done(op: Op, copies: Copies) -> Copies:
    """Return the copies after an operation has been done, all of it, once."""
    held = _newest(copies)
    match op.kind:
        case "delete":
            return NOTHING
        case "insert" if held is None:
            return frozenset([_whole(op, 1)])
        case "upsert":
            return frozenset([_whole(op, 1 if held is None else held.version + 1)])
        case "update" if held:
            return frozenset([replace(held, version=held.version + 1, marks=held.marks | {op.number})])
        case "move" if held and op.number > held.at:
            moved = replace(held, region=op.region, at=op.number, lon=op.lon, lat=op.lat)
            return frozenset([replace(moved, version=held.version + 1)])
    return copies


def closure(states: Iterable[State], ops: Sequence[Op], rules: Rules) -> frozenset[State]:
    """Return the states, and those that come about when operations of unknown outcome happen in any order."""
    numbered = {op.number: op for op in ops}
    found = set(states)
    open_ = list(found)
    while open_:
        copies, pending = open_.pop()
        for number in pending:
            for after in _ways(numbered[number], copies, rules):
                state = (after, pending - {number})
                if state not in found:
                    found.add(state)
                    open_.append(state)
    return frozenset(found)


def _ways(op: Op, copies: Copies, rules: Rules) -> Iterator[Copies]:
    """Yield what an operation of unknown outcome may have made of the copies."""
    whole = done(op, copies)
    yield whole
    if op.kind == "move" and not rules.atomic_moves and {c.region for c in whole} != {c.region for c in copies}:
        yield whole | copies


def _whole(op: Op, version: int) -> Seen:
    return Seen(op.region, version, op.number, frozenset(), op.number, op.lon, op.lat)


def _newest(copies: Copies) -> Seen | None:
    return max(copies, key=lambda copy: (copy.at, copy.version), default=None)


def _after(op: Op, ops: Sequence[Op], states: frozenset[State], rules: Rules) -> frozenset[State]:
    before = closure(states, ops, rules)
    if op.outcome is Outcome.OK:
        return frozenset((after, pending) for copies, pending in before if _true(op, copies, after := done(op, copies)))
    if op.outcome is Outcome.REFUSED:
        return frozenset(state for state in before if _refusable(op, state[0]))
    return frozenset((copies, pending | {op.number}) for copies, pending in states)


def _true(op: Op, before: Copies, after: Copies) -> bool:
    """Return whether an operation's answer is true of what was there and what it made of it."""
    if op.kind == "delete":
        return bool(before)
    if op.kind == "insert" and before:
        return False
    return op.seen in after


def _refusable(op: Op, copies: Copies) -> bool:
    """Return whether a refusal that speaks of what is stored is true of it."""
    if op.error.startswith("not_found"):
        return not copies
    if op.error.startswith("conflict") and op.kind == "insert":
        return bool(copies)
    return True


# -- what is wrong -----------------------------------------------------------------------------------------------------


def _contradiction(op: Op, ops: Sequence[Op], before: frozenset[State]) -> Violation:
    possible = {copies for copies, _ in before}
    if op.outcome is Outcome.REFUSED:
        kind = "lost" if op.error.startswith("not_found") else "applied twice"
        return Violation(
            kind, op.key, f"#{op.number} was refused: {op.error}; possible was {_sets(possible)}", _lines(ops)
        )
    expected = {done(op, copies) for copies in possible}
    kind = _kind(frozenset([op.seen] if op.seen else ()), expected)
    return Violation(kind, op.key, f"#{op.number} saw {op.seen}; possible was {_sets(expected)}", _lines(ops))


def _wrong_end(ops: Sequence[Op], final: Copies, ends: set[Copies]) -> Violation:
    kind = _kind(final, ends)
    return Violation(kind, ops[0].key, f"stored is {_list(final)}; possible was {_sets(ends)}", _lines(ops))


def _kind(found: Copies, expected: set[Copies]) -> str:
    """Name what is wrong with copies that fit none of those expected."""
    copy = _newest(found)
    wanted = [seen for copies in expected for seen in copies]
    if len(found) > max(map(len, expected), default=0):
        return "applied twice" if wanted else "phantom"
    if copy is None:
        return "lost"
    if not wanted or copy.marks - frozenset().union(*(seen.marks for seen in wanted)):
        return "phantom"
    if copy.version > max(seen.version for seen in wanted):
        return "applied twice"
    if copy.version < min(seen.version for seen in wanted) or all(seen.marks - copy.marks for seen in wanted):
        return "lost"
    return "mixed up"


def _impossible_reads(
    ops: Sequence[Op], reads: Sequence[Read], eras: Sequence[frozenset[State]]
) -> Iterator[Violation]:
    for read in reads:
        possible = set(_visible(ops, eras, read.started if read.primary else 0.0, read.ended))
        if read.seen in possible:
            continue
        known = read.seen is None and _moves_across(ops, read)
        kind = ("missed while it moved" if known else "lost to a reader") if read.seen is None else "wrong read"
        text = f"read {read.seen or 'nothing'}; possible was {'; '.join(sorted(map(str, possible)))}"
        yield Violation(kind, read.key, text, (*_lines(ops), str(read)), known=known)


def _visible(ops: Sequence[Op], eras: Sequence[frozenset[State]], start: float, end: float) -> Iterator[Seen | None]:
    """Yield what could be seen between two times: an operation may take effect anywhere between its own two."""
    for index, states in enumerate(eras):
        begins = ops[index - 1].started if index else 0.0
        ends = _ended(ops[index]) if index < len(ops) else float("inf")
        if begins <= end and ends >= start:
            for copies, _ in states:
                yield from copies or (None,)


def _ended(op: Op) -> float:
    return op.ended if op.outcome in {Outcome.OK, Outcome.REFUSED} else op.started


def _moves_across(ops: Sequence[Op], read: Read) -> bool:
    """Return whether the place was crossing a border during a read."""
    return any(
        op.kind == "move" and op.started <= read.ended and (op.outcome is not Outcome.OK or op.ended >= read.started)
        for op in ops
    )


def _backward_reads(ops: Sequence[Op], reads: Sequence[Read], eras: Sequence[frozenset[State]]) -> Iterator[Violation]:
    """Yield reads that saw less than a read which had ended before they began."""
    torn = any(len(copies) > 1 for states in eras for copies, _ in states)
    timeline = sorted((read for read in reads if read.primary), key=lambda read: read.started)
    ended = sorted(timeline, key=lambda read: read.ended)
    best: tuple[float, Read | None] = (0, None)
    index = 0
    for read in timeline:
        while index < len(ended) and ended[index].ended < read.started:
            best = max(best, (_level(ended[index], ops), ended[index]), key=lambda pair: pair[0])
            index += 1
        if best[1] and _level(read, ops) < best[0] and not (read.seen is None and _moves_across(ops, read)):
            history = (*_lines(ops), str(best[1]), str(read))
            yield Violation("went back", read.key, f"read {read.seen} after {best[1].seen}", history, known=torn)


def _level(read: Read, ops: Sequence[Op]) -> float:
    """Return how far a key was when it was read: its version; a place that is gone comes after all versions."""
    if read.seen:
        return read.seen.version
    gone = any(op.kind == "delete" and op.started <= read.ended for op in ops)
    return float("inf") if gone else 0.0


def _answered_otherwise(key: str, ops: Sequence[Op], stored: Copies, answered: Seen | None) -> Iterator[Violation]:
    if answered != _newest(stored):
        text = f"the mesh says {answered or 'nothing'}, stored is {_list(stored)}"
        torn = len(stored) > 1 and answered in stored  # whether two copies may be stored is judged elsewhere
        yield Violation("old copy of a torn move" if torn else "wrong answer", key, text, _lines(ops), known=torn)


def _lines(ops: Sequence[Op]) -> tuple[str, ...]:
    return tuple(map(str, ops))


def _list(copies: Iterable[Seen]) -> str:
    return " and ".join(sorted(map(str, copies))) or "nothing"


def _sets(sets: Iterable[Copies]) -> str:
    return "; or ".join(sorted(map(_list, sets))) or "nothing at all"
