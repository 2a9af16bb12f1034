"""The apt repository that guests install MongoDB from, served in the control namespace."""

import sys
from pathlib import Path

from nspawn_lab.layout import CONTROL_ADDRESS, REPOSITORY_PORT, ROOT, LabError, Layout
from nspawn_lab.processes import Record, run, start_daemon, wait_until

BUILDER = ROOT / "scripts/mongodb_repository"
URL = f"http://{CONTROL_ADDRESS}:{REPOSITORY_PORT}/"


def directory(lab: Layout) -> Path:
    """Return what is served."""
    return lab.run / "repository"


def serve(lab: Layout) -> None:
    """Serve the repository, unless it is served; build it first (0.9 s) where the program for that is present."""
    record = Record.read(lab.run / "repository.json")
    if record and record.alive:
        return
    directory(lab).mkdir(parents=True, exist_ok=True)
    if BUILDER.exists():
        run(BUILDER, directory(lab))
    _start(lab)


def _start(lab: Layout) -> None:
    server = [sys.executable, "-m", "http.server", "--bind", CONTROL_ADDRESS, str(REPOSITORY_PORT)]
    log = lab.run / "repository.log"
    command = ["ip", "netns", "exec", lab.control, *server, "--directory", str(directory(lab))]
    record = start_daemon(command, log)
    record.write(lab.run / "repository.json")
    if not wait_until(lambda: _listens(lab) or not record.alive, 20) or not record.alive:
        raise LabError(f"the apt repository is not served on {URL}; see {log}")


def _listens(lab: Layout) -> bool:
    listening = run("ip", "netns", "exec", lab.control, "ss", "-Hltn", f"sport = :{REPOSITORY_PORT}", check=False)
    return bool(listening.stdout.strip())
