"""The apt repository that guests install MongoDB from, served in the control namespace."""

import subprocess
import sys
from pathlib import Path

from nspawn_lab import network
from nspawn_lab.layout import CONTROL_ADDRESS, REPOSITORY_PORT, ROOT, LabError, Layout
from nspawn_lab.processes import Record, run, wait_until

BUILDER = ROOT / "scripts/mongodb_repository"
URL = f"http://{CONTROL_ADDRESS}:{REPOSITORY_PORT}/"


def directory(lab: Layout) -> Path:
    """Return what is served."""
    return lab.run / "repository"


def serve(lab: Layout) -> None:
    """Build the repository where the program for it is present, and serve it; does nothing when it is served."""
    record = Record.read(lab.run / "repository.json")
    if record and record.alive:
        return
    directory(lab).mkdir(parents=True, exist_ok=True)
    if BUILDER.exists():
        run(BUILDER, directory(lab))
    _start(lab)


def _start(lab: Layout) -> None:
    server = [sys.executable, "-m", "http.server", "--bind", CONTROL_ADDRESS, str(REPOSITORY_PORT)]
    with (lab.run / "repository.log").open("ab") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", lab.control, *server],
            cwd=directory(lab),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = Record.of(process.pid)
    if record is None or not wait_until(lambda: _listens(lab) or process.poll() is not None, 20):
        raise LabError(f"the apt repository is not served on {URL}; see {lab.run}/repository.log")
    if process.poll() is not None:
        raise LabError(f"the apt repository's server left with {process.returncode}; see {lab.run}/repository.log")
    record.write(lab.run / "repository.json")


def _listens(lab: Layout) -> bool:
    listening = run("ip", "netns", "exec", lab.control, "ss", "-Hltn", f"sport = :{REPOSITORY_PORT}", check=False)
    return bool(listening.stdout.strip()) and network.identity(lab.control) is not None
