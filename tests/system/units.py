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

from mesh.local.layout import HOST

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
        self._notify.settimeout(SECONDS)
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
