"""What a run says at its end: tables for people, the same as JSON for programs."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tests.chaos.clients import DEADLINE_SECONDS, EVERYWHERE, Log, Sample
from tests.chaos.history import Outcome
from tests.chaos.run import Done, Options, Result
from tests.chaos.schedule import KINDS, Fault
from tests.chaos.watch import JUDGED_SECONDS, WARM_SECONDS
from tests.lab import load

#: A fault is over for reads this long after it has healed.
AFTER_SECONDS = 2.0
MOST_SHOWN = 5
#: Seconds by which a request may leave late; beyond, the clients themselves were short of CPU.
MOST_LATE_SECONDS = 0.5
FAULT_COLUMNS = (
    "kind", "times", "reads", "answered", "about it", "its clients", "elsewhere", "slowest ms", "gap s", "whole s",
)  # fmt: skip
#: Targets: part of reads answered during a fault; seconds a region may be unreadable when its broker dies; MB an hour.
LEAST_ANSWERED, LONGEST_GAP_SECONDS, MOST_MB_AN_HOUR, MOST_P99_GROWTH = 0.999, 1.0, 1.0, 1.2


def to_dict(result: Result) -> dict[str, Any]:
    """Return everything as JSON values; times in seconds, latencies in milliseconds."""
    options, log, verdict = result.options, result.log, result.verdict
    return {
        "good": result.good,
        "directory": result.directory,
        "seed": options.seed,
        "again": again(options),
        "seconds": options.seconds,
        "rate": round(result.rate, 1),
        "requests": requests(log.samples),
        "checked": {
            "keys": verdict.keys, "acknowledged": verdict.acknowledged, "unknown": verdict.unknown,
            "reads": verdict.reads,
        },
        "violations": [violation.kind for violation in verdict.violations],
        "histories": [str(violation) for violation in _shortest(verdict.violations)],
        "known_limits": verdict.known,
        "wrong": log.wrong[:20],
        "trouble": result.trouble,
        "leaks": result.leaks,
        "errors": dict(Counter(plain(sample.error) for sample in log.samples if sample.error).most_common(20)),
        "faults": by_kind(result.faults, log.samples),
        "schedule": [done.fault.to_dict() | {"began": round(done.began, 2)} for done in result.faults],
        "lacking": result.lacking,
        "resources": result.resources,
        "clients_late_seconds": round(max((sample.sent - sample.due for sample in log.samples), default=0.0), 3),
        "p99_growth": growth(log.samples, options.seconds),
    }  # fmt: skip


def again(options: Options) -> str:
    """Return the command that breaks the same in the same order."""
    usual = Options()
    chosen = f' FAULTS="{",".join(options.kinds) or "none"}"' if options.kinds != tuple(KINDS) else ""
    arguments = [f"--workers {options.workers}"] if options.workers != usual.workers else []
    arguments += [f"--rate {options.rate:g}"] if options.rate != usual.rate else []
    arguments += ["--overlap"] if options.overlap else []
    more = f' ARGS="{" ".join(arguments)}"' if arguments else ""
    return f"make chaos MINUTES={options.seconds / 60:g} SEED={options.seed}{chosen}{more}"


def requests(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the figures of each kind of request."""
    kinds = sorted({sample.kind for sample in samples})
    found = {kind: _figures([sample for sample in samples if sample.kind == kind]) for kind in kinds}
    return found | {"all": _figures(samples)}


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    counts = Counter(sample.outcome for sample in samples)
    answered = [sample.ended - sample.due for sample in samples if sample.outcome is Outcome.OK]
    return {
        "asked": len(samples),
        **{outcome.value: counts[outcome] for outcome in Outcome},
        "p50_ms": percentile(answered, 50),
        "p99_ms": percentile(answered, 99),
        "max_ms": percentile(answered, 100),
    }


def percentile(seconds: Iterable[float], percent: float) -> float | None:
    """Return the value that *percent* of them do not exceed, in milliseconds."""
    found = load.percentile(sorted(seconds), percent)
    return None if found is None else round(found, 1)


def by_kind(faults: Sequence[Done], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return what each kind of fault did to reads."""
    reads = sorted((s for s in samples if s.kind.startswith("read")), key=lambda sample: sample.due)
    found = []
    for kind in sorted({done.fault.kind for done in faults}):
        those = [done for done in faults if done.fault.kind == kind]
        pairs = [(done, s) for done in those for s in reads if done.began <= s.due < done.healed + AFTER_SECONDS]
        during = [s for _, s in pairs]
        found.append(
            {
                "kind": kind,
                "times": len(those),
                "reads": len(during),
                "answered": _answered(during),
                "answered_about_it": _answered([s for done, s in pairs if s.region in hit(done.fault)]),
                "answered_to_its_clients": _answered([s for done, s in pairs if s.via in hit(done.fault)]),
                "answered_elsewhere": _answered([s for done, s in pairs if not {s.region, s.via} & hit(done.fault)]),
                "slowest_ms": percentile((s.ended - s.due for s in during if s.outcome is Outcome.OK), 100),
                "errors": dict(Counter(plain(s.error) for s in during if s.error).most_common(5)),
                "longest_gap": max((_gap(done, reads) for done in those), default=None),
                "whole_after": max((done.whole_after or math.inf for done in those), default=None),
            }
        )
    return found


def plain(error: str) -> str:
    """Return an error without what differs from client to client."""
    return re.sub(r"tcp://\S+( or tcp://\S+)+", "all brokers", re.sub(r"the id '[^']*'", "this id", error))


def hit(fault: Fault) -> set[str]:
    """Return the regions that a fault is about, and what asks all of them."""
    return {fault.whom, fault.other, EVERYWHERE}


def _answered(reads: Sequence[Sample]) -> float | None:
    """Return which part of reads was answered in time."""
    in_time = sum(s.outcome is Outcome.OK and s.ended - s.sent <= DEADLINE_SECONDS for s in reads)
    return round(in_time / len(reads), 5) if reads else None


def _gap(done: Done, reads: Sequence[Sample]) -> float:
    """Return the longest time in which no read of the region that was hit was answered."""
    end = done.healed + AFTER_SECONDS
    answers = sorted(
        s.ended
        for s in reads
        if s.region == done.fault.whom and s.outcome is Outcome.OK and done.began <= s.ended <= end
    )
    marks = [done.began, *answers, end]
    return round(max(later - earlier for earlier, later in pairwise(marks)), 3)


def growth(samples: Sequence[Sample], seconds: float) -> dict[str, float | None] | None:
    """Return the p99 of answers in the second minute and in the last; None for a run too short to have both."""
    if seconds < 180:
        return None
    first = min((s.due for s in samples), default=0.0)
    answered = [s for s in samples if s.outcome is Outcome.OK]
    second = percentile((s.ended - s.due for s in answered if 60 <= s.due - first < 120), 99)
    last = percentile((s.ended - s.due for s in answered if s.due - first >= seconds - 60), 99)
    return {
        "second_minute_ms": second,
        "last_minute_ms": last,
        "ratio": round(last / second, 3) if second and last else None,
    }


# -- for people --------------------------------------------------------------------------------------------------------


def show(result: Result, console: Console) -> None:
    """Print the report."""
    told = to_dict(result)
    console.print(_requests_table(told["requests"]))
    if told["faults"]:
        console.print(_faults_table(told["faults"]))
    console.print(_resources_table(told["resources"]))
    for line in _words(told):
        console.print(line, soft_wrap=True, highlight=False)


def live(log: Log, faults: Sequence[Done], seconds: float) -> Group:
    """Return how it goes, for a display that is drawn again and again."""
    counts = ", ".join(f"{name} {log.counts[name]:,}" for name in ("ok", "refused", "unknown", "wrong", "stuck"))
    last = faults[-1] if faults else None
    now = f"{last.fault.kind} {last.fault.whom} {last.fault.other}" if last and not last.healed else "-"
    return Group(
        Text(f"{log.now():6.0f} of {seconds:.0f} s   faults {len(faults)}, now: {now}"),
        Text(f"   {counts}", style="dim"),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _requests_table(figures: dict[str, dict[str, Any]]) -> Table:
    table = _table(
        "Requests", "kind", "asked", "ok", "refused", "unknown", "wrong", "stuck", "p50 ms", "p99 ms", "max ms"
    )
    for kind, row in figures.items():
        table.add_row(kind, *(_cell(value) for value in row.values()))
    return table


def _faults_table(rows: list[dict[str, Any]]) -> Table:
    table = _table("Faults", *FAULT_COLUMNS)
    for row in rows:
        shares = [
            "-" if share is None else f"{share:.2%} {_mark(share >= LEAST_ANSWERED)}"
            for share in (row[f"answered{part}"] for part in ("", "_about_it", "_to_its_clients", "_elsewhere"))
        ]
        gap = row["longest_gap"]
        mark = f" {_mark(gap <= LONGEST_GAP_SECONDS)}" if row["kind"] == "kill broker" else ""
        cells = (row["times"], row["reads"], *shares, row["slowest_ms"], f"{gap}{mark}", row["whole_after"])
        table.add_row(row["kind"], *map(_cell, cells))
    return table


def _resources_table(rows: list[dict[str, Any]]) -> Table:
    table = _table(
        f"Processes (slopes after {WARM_SECONDS:.0f} s)", "name", "lived s", "MB", "MB/h", "fds", "most", "fds/h"
    )
    for row in rows:
        grows = row["memory_mb_an_hour"]
        judged = row["seconds"] >= WARM_SECONDS + JUDGED_SECONDS
        memory = f"{grows} {_mark(grows <= MOST_MB_AN_HOUR)}" if judged else grows
        cells = (row["seconds"], row["memory_mb"], memory, row["descriptors"], row["most_descriptors"],
                 row["descriptors_an_hour"])  # fmt: skip
        table.add_row(row["name"], *map(_cell, cells))
    return table


def _words(told: dict[str, Any]) -> Iterable[str]:
    checked = told["checked"]
    yield (
        f"{checked['keys']:,} keys, {checked['acknowledged']:,} acknowledged writes, {checked['unknown']:,} of unknown "
        f"outcome, {checked['reads']:,} reads of them checked; {len(told['schedule'])} faults"
    )
    if told["p99_growth"]:
        second, last, ratio = told["p99_growth"].values()
        mark = _mark(ratio is not None and ratio <= MOST_P99_GROWTH)
        yield f"p99 of the second minute {second} ms, of the last {last} ms: {ratio} times {mark}"
    late = told["clients_late_seconds"]
    if late > MOST_LATE_SECONDS:
        yield f"[yellow]clients sent up to {late} s late: the machine was too busy for the times above to count[/]"
    for kind, why in told["lacking"].items():
        yield f"[yellow]not tried: {kind}: {why}[/]"
    for kind, number in told["known_limits"].items():
        yield f"[yellow]known limit: {kind}, {number} times[/]"
    for error, number in list(told["errors"].items())[:MOST_SHOWN]:
        yield f"[dim]{number} x {_escaped(error)}[/]"
    for line in [*told["wrong"][:MOST_SHOWN], *told["trouble"], *told["leaks"], *told["histories"]]:
        yield f"[red]✘[/] {_escaped(line)}"
    counts = Counter(told["violations"])
    if counts:
        yield "[red]" + ", ".join(f"{kind}: {number}" for kind, number in counts.items()) + "[/]"
    verdict = "[green]✔ every promise was kept[/]" if told["good"] else "[red]✘ a promise was broken[/]"
    yield f"{verdict}; the same faults again: {told['again']}"


def _shortest(violations: Sequence[Any]) -> list[Any]:
    """Return the violations with the shortest histories, one of each kind first."""
    ordered = sorted(violations, key=lambda violation: len(violation.history))
    firsts = list({violation.kind: violation for violation in reversed(ordered)}.values())
    rest = [violation for violation in ordered if violation not in firsts]
    return [*firsts, *rest][:MOST_SHOWN]


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _mark(good: bool) -> str:
    return "[green]✔[/]" if good else "[yellow]✘[/]"


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)
