"""What systemd does for a unit, done by a test: holds its socket, hears what it says, starts, watches and stops it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from mesh.local.layout import HOST, render
from mesh.local.processes import Program
from tests.system.meshes import READY_SECONDS, free_ports

SECONDS = 20.0

#: What runs in the process: the descriptor is 3 and LISTEN_PID is our own, as sd_listen_fds(3) has it.
_CODE = """
import os
fd = {fd}
if fd >= 0:
    os.dup2(fd, 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="front")
from mesh.cli.{module} import main
main()
"""


class Unit:
    """One program under a stand-in for systemd."""

    def __init__(
        self, directory: Path, name: str, arguments: Sequence[str], *, listener: socket.socket | None = None,
        watchdog_seconds: float = 0.0, credentials: Path | None = None,
    ) -> None:  # fmt: skip
        self.name, self.log = name, directory / f"{name}.log"
        module = name.partition("-")[0]
        self._listener = listener
        self._words = [
            sys.executable,
            "-P",
            "-c",
            _CODE.format(fd=listener.fileno() if listener else -1, module=module),
        ]
        self._words += arguments
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"@mesh-unit-{os.getpid()}-{name}-{time.monotonic_ns()}"
        self._notify.bind("\0" + address[1:])
        self._environ = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))}
        if credentials:
            self._environ["CREDENTIALS_DIRECTORY"] = str(credentials)
        #: Lines it has said since its last start, with the time each was heard.
        self.said: list[tuple[float, str]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._hearer = threading.Thread(target=self._hear, daemon=True)
        self._hearer.start()

    def start(self) -> Self:
        """Start it and return when it says READY."""
        self.begin()
        self.wait_for("READY=1")
        return self

    def begin(self) -> None:
        """Start it and do not wait."""
        self.said.clear()
        with self.log.open("ab") as log:
            fds = (self._listener.fileno(),) if self._listener else ()
            self.process = subprocess.Popen(self._words, stdout=log, stderr=log, env=self._environ, pass_fds=fds)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def restart(self) -> None:
        """Do what `systemctl restart` does: stop, and start when it has ended."""
        assert self.stop() == 0, self.log.read_text()
        self.start()

    def wait_for(self, line: str, seconds: float = SECONDS) -> float:
        """Return when it has said a line that starts so: the time it was heard."""
        deadline = time.monotonic() + seconds
        while True:
            for heard, said in list(self.said):
                if said.startswith(line):
                    return heard
            assert time.monotonic() < deadline, f"{self.name} did not say {line}: {self.said}\n{self.log.read_text()}"
            time.sleep(0.002)

    @property
    def status(self) -> str:
        """What its status line says now."""
        lines = [said for _, said in self.said if said.startswith("STATUS=")]
        return lines[-1].removeprefix("STATUS=") if lines else ""

    def close(self) -> None:
        """End it if it runs."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._hearer.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", self._notify.getsockname())
            self._hearer.join(1.0)
            self._notify.close()

    def _hear(self) -> None:
        while True:
            try:
                data = self._notify.recv(4096)
            except OSError:
                return
            if not data:
                return
            self.said += [(time.monotonic(), line) for line in data.decode().split("\n")]


def listening(port: int = 0) -> socket.socket:
    """Return a socket as mesh-broker.socket makes it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    sock.listen(512)
    return sock


class UnitMesh:
    """Regions whose brokers and workers run as units, each broker on a socket that outlives it; places in memory."""

    def __init__(
        self, directory: Path, *regions: str, workers: int = 2, activated: bool = True, service: str = "places"
    ) -> None:
        self.directory, self.regions, self.workers, self.service = directory, regions, workers, service
        first = free_ports(len(regions))
        self.endpoints = {name: f"tcp://{HOST}:{first + number}" for number, name in enumerate(regions)}
        self.sockets = {name: listening(first + number) for number, name in enumerate(regions) if activated}
        self.stores = {name: Program(f"store-{name}", "store", self._serve(name), directory / "stores.log")
                       for name in regions}  # fmt: skip
        self.brokers: dict[str, Unit] = {}
        self.staff: dict[str, list[Unit]] = {}

    def __enter__(self) -> Self:
        try:
            for name in self.regions:
                self._start(name)
            for name in self.regions:
                text = f"peers={len(self.regions) - 1}/{len(self.regions) - 1} workers={self.workers}"
                self._wait_for(name, text)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for unit in [*self.brokers.values(), *(unit for staff in self.staff.values() for unit in staff)]:
            unit.close()
        for store in self.stores.values():
            store.terminate()
            store.wait(3.0)
        for sock in self.sockets.values():
            sock.close()

    def logs(self) -> str:
        """Return the end of every log, for a failed test's report."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.directory.glob("*.log")))

    def _wait_for(self, name: str, status: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self.brokers[name].status.endswith(status):
            assert time.monotonic() < deadline, f"{name}: {self.brokers[name].status}\n{self.logs()}"
            time.sleep(0.02)

    def _serve(self, name: str) -> list[str]:
        return ["serve", "--listen", f"{self.directory}/{name}.store", "--region", name]

    def _start(self, name: str) -> None:
        self.stores[name].start()
        file = self.directory / f"{name}.toml"
        variables = {
            "mesh_region": name,
            "mesh_broker_listen": self.endpoints[name],
            "mesh_broker_workers": f"ipc://{self.directory}/{name}.w",
            "mesh_worker_service": self.service,
            "mesh_peers": {other: {"endpoint": at} for other, at in self.endpoints.items() if other != name},
            "mesh_shards": {other: {"uri": f"memory://{self.directory}/{other}.store"} for other in self.regions},
        }
        file.write_text(render(variables), encoding="utf-8")
        words = ["--config", str(file)]
        self.brokers[name] = Unit(self.directory, f"broker-{name}", words, listener=self.sockets.get(name))
        self.brokers[name].begin()
        self.staff[name] = [
            Unit(self.directory, f"worker-{name}-{number}", [*words, "--instance", str(number)])
            for number in range(1, self.workers + 1)
        ]
        for worker in self.staff[name]:
            worker.begin()
