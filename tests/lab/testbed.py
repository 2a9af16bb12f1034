"""What tests do with the lab: run commands in hosts, playbooks and load beside them, pull cables and plugs."""

import contextlib
import hashlib
import json
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nspawn_lab import control, disks, guests, lifecycle, network
from nspawn_lab.layout import ROOT, Guest, LabError, Layout, find, read_guests

RECAP = re.compile(r"^(?P<host>\S+)\s+: (?P<counts>ok=\d+.*)$")


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    command: str
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    def check(self) -> Self:
        """Raise AssertionError with the end of what it said, unless it succeeded; pytest shows all of it."""
        if self.returncode != 0:
            sys.stdout.write(f"{self.command}\n{self.stdout}\n{self.stderr}\n")
            said = " ".join(f"{self.stdout}\n{self.stderr}".split())
            raise AssertionError(f"`{self.command}` left with {self.returncode}: ... {said[-300:]}")
        return self


@dataclass(frozen=True)
class PlaybookRun(Done):
    """An ansible-playbook that ended."""

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Return the counts of PLAY RECAP: `recap["ne.example.net"]["changed"]`."""
        tail = self.stdout.rpartition("PLAY RECAP")[2]
        found = filter(None, (RECAP.match(line.strip()) for line in tail.splitlines()))
        return {match["host"]: _counts(match["counts"]) for match in found}

    @property
    def changed(self) -> dict[str, int]:
        """Return how many tasks changed something, for each host where any did; localhost counts too."""
        return {host: counts["changed"] for host, counts in self.recap.items() if counts["changed"]}


def _counts(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (word.split("=") for word in text.split())}


@dataclass
class Load:
    """Requests at a steady rate, from a process of its own; see load.py for what it reports."""

    process: subprocess.Popen[str]
    report: dict[str, Any] = field(default_factory=dict)

    def stop(self) -> dict[str, Any]:
        """Ask no more, wait for the last answers, return the report."""
        if not self.report:
            self.process.terminate()
            output, errors = self.process.communicate(timeout=60)
            assert self.process.returncode == 0, f"the load generator failed:\n{output}\n{errors}"
            self.report = json.loads(output.splitlines()[-1])
        return self.report

    @property
    def running(self) -> bool:
        """Tell whether it still asks: a test that outlasts its load has measured nothing at the end."""
        return self.process.poll() is None


class Testbed:
    """One lab under test."""

    __test__ = False

    def __init__(self, layout: Layout, inventory: Path = ROOT / "inventory/lab.yml") -> None:
        self.layout = layout
        self.inventory = inventory
        self.guests = read_guests(inventory)
        self._prepared = False

    # -- the lab itself --------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Boot what is off."""
        with lifecycle.alone(self.layout):
            lifecycle.up(self.layout, self.guests, _say)

    def down(self) -> list[str]:
        """Remove everything; return what could not be removed."""
        with lifecycle.alone(self.layout):
            return lifecycle.down(self.layout)

    def save(self, name: str) -> None:
        """Reboot all hosts, and remember their disks under a name (about 2 s)."""
        lifecycle.save(self.layout, self.guests, name, _say)

    def restore(self, name: str) -> None:
        """Boot all hosts with the disks they had at `save`, cables plugged in (about 2 s)."""
        for guest in self.guests:
            network.set_link(self.layout, guest, up=True)
        lifecycle.restore(self.layout, self.guests, name, _say)

    def saved(self, name: str) -> bool:
        """Tell whether there is a state of this name to come back to."""
        return all(name in disks.saved(self.layout, guest) for guest in self.guests)

    def renew(self) -> None:
        """Exchange all hosts for bare ones (about 2 s)."""
        assert self.down() == []
        self.up()

    # -- hosts -----------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> list[str]:
        """Return the names of all hosts, those with a broker first."""
        return [guest.host for guest in self.guests]

    def guest(self, host: str) -> Guest:
        """Return the guest called `ne` or `ne.example.net`."""
        return find(self.guests, host)

    def run(self, host: str, command: str, *, check: bool = True, timeout: float = 60) -> Done:
        """Run a shell command in a host, as root and past its network, so that firewalls do not matter."""
        started = time.monotonic()
        words = ["sh", "-c", command]
        code, out, err = guests.run_in(self.layout, self.guest(host), words, timeout_seconds=timeout)
        done = Done(f"{host}: {command}", code, out, err, time.monotonic() - started)
        return done.check() if check else done

    def read(self, host: str, path: str) -> str:
        """Return the text of a file in a host."""
        return self.run(host, f"cat {shlex.quote(path)}").stdout

    def write(self, host: str, path: str, text: str) -> None:
        """Write a file in a host."""
        self.run(host, f"printf %s {shlex.quote(text)} >{shlex.quote(path)}")

    def state(self, host: str) -> str:
        """Return `running`, `degraded`, `off` and the like."""
        return guests.state(self.layout, self.guest(host))

    def boot_id(self, host: str) -> str:
        """Return what is different after each boot of a host; nothing while it is off."""
        with contextlib.suppress(LabError):
            return self.run(host, "cat /proc/sys/kernel/random/boot_id", check=False).stdout.strip()
        return ""

    def power_off(self, host: str) -> None:
        """Shut a host down in an orderly way."""
        guests.power_off(self.layout, self.guest(host))

    def cut_power(self, host: str) -> None:
        """Pull a host's plug."""
        guests.cut_power(self.layout, self.guest(host).short)

    def start(self, host: str) -> list[str]:
        """Boot a host that is off and wait for it; return the units that failed."""
        lifecycle.start_all(self.layout, [self.guest(host)], _say)
        return guests.failed_units(self.layout, self.guest(host))

    def reboot(self, host: str) -> list[str]:
        """Shut a host down, boot it, wait for it; return the units that failed."""
        self.power_off(host)
        return self.start(host)

    @contextlib.contextmanager
    def unplugged(self, host: str) -> Iterator[None]:
        """Pull a host's cable for the time of a block."""
        network.set_link(self.layout, self.guest(host), up=False)
        try:
            yield
        finally:
            network.set_link(self.layout, self.guest(host), up=True)

    def journal(self, host: str, lines: int = 100) -> str:
        """Return the last lines of the mesh's and MongoDB's journal of a host, or of its console when it is off."""
        command = f"journalctl --no-pager -u 'mesh-*' -u mongod -n {lines}; systemctl --failed --no-legend"
        with contextlib.suppress(LabError, subprocess.TimeoutExpired):
            return self.run(host, command, check=False).stdout
        console = self.layout.state(self.guest(host)) / "console.log"
        return console.read_text(errors="replace")[-2000:] if console.exists() else "never booted"

    # -- beside the hosts ------------------------------------------------------------------------------------------

    def control(
        self, *command: str | Path, check: bool = True, timeout: float = 120, env: dict[str, str] | None = None
    ) -> Done:
        """Run a program in the control namespace, where hosts' names and addresses mean something."""
        done = self._control([str(word) for word in command], ROOT, timeout, env or {})
        return Done(*done).check() if check else Done(*done)

    def playbook(
        self, name: str, *arguments: str, check: bool = True, timeout: float = 900, env: dict[str, str] | None = None
    ) -> PlaybookRun:
        """Run a playbook of ansible/ against the lab."""
        if not self._prepared:
            control.prepare_playbook(self.layout)
            self._prepared = True
        words = ["ansible-playbook", name, *arguments]
        done = self._control(words, ROOT / "ansible", timeout, {"ANSIBLE_NOCOLOR": "1"} | (env or {}))
        return PlaybookRun(*done).check() if check else PlaybookRun(*done)

    @contextlib.contextmanager
    def load(
        self, brokers: Sequence[str], *, rate: float = 200, seconds: float = 900, **options: Any
    ) -> Iterator[Load]:
        """Ask *brokers* in turn, *rate* times a second together, while a block runs; then `report` has what happened.

        Waits until every broker has answered once. Bounded by *seconds* whatever the block does. Further options are
        those of load.py: `timeout=2`, `require_all=True`.
        """
        words = [
            sys.executable,
            str(Path(__file__).with_name("load.py")),
            "--rate",
            str(rate),
            "--seconds",
            str(seconds),
        ]
        for broker in brokers:
            words += ["--broker", broker]
        for option, value in options.items():
            words += [f"--{option.replace('_', '-')}"] + ([] if value is True else [str(value)])
        command, environment = control.command(self.layout, words, self.inventory)
        environment |= {"PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
            load = Load(process)
            try:
                _wait_ready(process)
                yield load
                load.stop()
            finally:
                process.kill()

    def _control(
        self, words: list[str], directory: Path, timeout: float, extra: dict[str, str]
    ) -> tuple[str, int, str, str, float]:
        started = time.monotonic()
        command, environment = control.command(self.layout, words, self.inventory)
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment | extra,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return shlex.join(words), done.returncode, done.stdout, done.stderr, time.monotonic() - started


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _wait_ready(process: "subprocess.Popen[str]", timeout_seconds: float = 30) -> None:
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], timeout_seconds)
    if not ready or process.stdout.readline().strip() != "ready":
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"the load generator got no answer from every broker:\n{output}\n{errors}")


def layout_of(checkout: Path, purpose: str = "test") -> Layout:
    """Return the lab that tests of a checkout use: neither `mesh-lab`, which a person may be using, nor another's."""
    return Layout(f"mesh-{purpose}-{hashlib.sha256(str(checkout).encode()).hexdigest()[:6]}")
