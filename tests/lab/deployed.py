"""A lab with the mesh deployed on it, as most tests want it."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.local.places import us_places
from tests.lab.testbed import PlaybookRun, Testbed

HOME = "/opt/mesh"
STATE = "deployed"


@dataclass
class Deployed:
    """The lab, and how it was made: a look at bare hosts, the first run, one that had nothing to do."""

    bed: Testbed
    looked: PlaybookRun
    first: PlaybookRun
    second: PlaybookRun
    #: Whether nothing was done to it since.
    fresh: bool = False

    def renew(self) -> None:
        """Make it again what it was when it had just been deployed, which takes a boot."""
        if not self.fresh:
            self.bed.restore(STATE)
            self.wait()
        self.fresh = True

    @property
    def vault(self) -> Path:
        """Return the file with the lab's secrets."""
        return self.bed.layout.run / "inventory/group_vars/all/vault.yml"

    @property
    def brokers(self) -> list[str]:
        """Return the hosts with a broker."""
        return [host for host in self.bed.hosts if "-w" not in host]

    def site(self, *arguments: str, check: bool = True) -> PlaybookRun:
        """Run site.yml."""
        return self.bed.playbook("site.yml", *arguments, check=check)

    def with_options(self, check: bool = True, **variables: Any) -> PlaybookRun:
        """Run site.yml with other values of variables."""
        return self.site("-e", json.dumps(variables), check=check)

    def client(self, *arguments: str, broker: str = "ne.example.net") -> Any:
        """Ask a broker."""
        words = ("mesh-client", "--broker", broker, "--format", "json", *arguments)
        return json.loads(self.bed.control(*words).check().stdout)

    def link(self, host: str, name: str = "current") -> str:
        """Return the release that a link on a host names."""
        return self.bed.run(host, f"readlink {HOME}/{name} || true").stdout.strip().rpartition("/")[2]

    def releases(self, name: str = "current") -> dict[str, str]:
        """Return that of every host."""
        return {host: self.link(host, name) for host in self.bed.hosts}

    def statuses(self, host: str) -> dict[str, str]:
        """Return the status line of each process of the mesh on a host."""
        return self._processes(host, "StatusText")

    def pids(self, host: str) -> dict[str, str]:
        """Return the number of each process of the mesh on a host: one that was not restarted keeps its own."""
        return self._processes(host, "MainPID")

    def _processes(self, host: str, asked: str) -> dict[str, str]:
        units = "mesh-broker.service 'mesh-worker@*.service'"
        shown = self.bed.run(host, f"systemctl show --property=Id,ActiveState,{asked} {units}").stdout
        blocks = [block for block in shown.split("\n\n") if "ActiveState=active" in block]
        found = [dict(line.split("=", 1) for line in block.strip().splitlines()) for block in blocks]
        return {unit["Id"]: unit[asked] for unit in found}

    def wait(self, seconds: float = 60) -> None:
        """Wait until every broker has its workers and all its peers."""
        until = time.monotonic() + seconds
        while not all(map(self._serves, self.brokers)):
            assert time.monotonic() < until, "the mesh does not come back"
            time.sleep(0.5)

    def _serves(self, host: str) -> bool:
        done = self.bed.control("mesh-client", "--broker", host, "--format", "json", "status", check=False)
        if done.returncode:
            return False
        status = json.loads(done.stdout)
        workers = [worker["state"] for worker in status["workers"]]
        peers = [state for peer in status["peers"] for state in (peer["serving"], peer["asking"])]
        return len(workers) >= 2 and set(workers + peers) == {"open"}


def deploy(bed: Testbed, directory: Path) -> Deployed:
    """Deploy to bare hosts, store the places of the United States, and remember the disks."""
    keep = os.environ.get("MESH_KEEP_LAB") == "1"
    if keep and bed.saved(STATE):  # for whoever writes tests: the lab of the run before
        bed.up()
        nothing = PlaybookRun("", 0, "PLAY RECAP", "", 0.0)
        return Deployed(bed, nothing, nothing, nothing)
    bed.down()
    bed.up()
    looked = bed.playbook("site.yml", "--check", "--diff")
    first = bed.playbook("site.yml")
    made = Deployed(bed, looked, first, first)
    rows = [{"id": p.id, "lon": p.lon, "lat": p.lat, "properties": p.properties} for p in us_places()]
    (directory / "places.ndjson").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    bed.control("mesh-client", "--broker", "ne.example.net", "load", "--upsert", directory / "places.ndjson").check()
    made.second = bed.playbook("site.yml")
    bed.save(STATE)
    return made
