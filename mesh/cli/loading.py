"""What `mesh-client load` draws: a bar with rate and time left, and a summary."""

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mesh.cli import show
from mesh.client import load
from mesh.client.sync import Client
from mesh.errors import MeshError


def run(client: Client, file: Path, *, upsert: bool, resume: bool, timeout: float) -> int:
    """Load a file and return how many rows failed."""
    job = load.Load(file, client.upsert_many if upsert else client.insert_many, replaces=upsert, timeout=timeout)
    if resume:
        job.resume()
    try:
        _with_bar(job)
    except (MeshError, KeyboardInterrupt):
        show.note(f"stopped after {job.progress.rows:,} rows; go on with --resume")
        raise
    return _summary(job)


def _with_bar(job: load.Load) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    before = job.progress.rows
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(job.path.name, total=job.progress.size or 1, rows=before, rate=0.0)

        def report(progress: load.Progress, position: int) -> None:
            elapsed = bar.tasks[0].elapsed or 0.001
            bar.update(task, completed=position, rows=progress.rows, rate=(progress.rows - before) / elapsed)

        job.run(report)


def _summary(job: load.Load) -> int:
    done = job.progress
    show.note(f"{job.path}: {done.rows:,} rows, {done.rows - done.failed:,} stored, {done.failed:,} failed")
    if done.failed:
        show.note(f"the rows that failed are in {job.errors_path}")
    return done.failed
