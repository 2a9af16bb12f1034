"""The network between the hosts of a chaos run: each has a TUN device, and this program carries packets between them.

Delay, loss and one-way drops are decided here, packet by packet. `tc netem` would be the usual way; many kernels lack
it (that of our test machines does), and a bridge with nft rules can drop but not delay. What the hosts' TCP sees is the
same: packets late, or missing.

Runs as a program of its own, so that whoever measures is not held up by it. On standard input come rules as JSON lines,
`{"0>1": [delay_seconds, loss_0_to_1]}` (all rules there are; a loss of 1 is a cut), and each is acknowledged by a line.
"""

import contextlib
import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

#: The hosts' network; host number n has the address PREFIX + str(FIRST + n).
PREFIX, FIRST, BITS = "10.78.0.", 10, 24
_MTU = 9_000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_VERSION_4 = 4

Rule = tuple[float, float]
Rules = dict[tuple[int, int], Rule]


def address(number: int) -> str:
    """Return the address of a host."""
    return f"{PREFIX}{FIRST + number}"


def open_tun(name: str) -> int:
    """Make a TUN device in the network namespace we are in and return its descriptor."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return tun


def host_commands(name: str, number: int) -> list[list[str]]:
    """Return the commands that give a device its address, to be run in the host's namespace."""
    return [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "addr", "add", f"{address(number)}/{BITS}", "dev", name],
        ["ip", "link", "set", name, "mtu", str(_MTU), "up"],
    ]


class Wire:
    """The running program, and the rules it has."""

    def __init__(self, tuns: Sequence[int], seed: int) -> None:
        command = [sys.executable, str(Path(__file__)), str(seed), *map(str, tuns)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=tuple(tuns),
            start_new_session=True,
        )
        for tun in tuns:
            os.close(tun)
        self.rules: Rules = {}

    def set(self, rules: Rules) -> None:
        """Add rules; returns when they are in force."""
        self.rules |= rules
        self._tell()

    def clear(self, rules: Rules) -> None:
        """Take rules away."""
        for pair in rules:
            self.rules.pop(pair, None)
        self._tell()

    def close(self) -> None:
        """End the program."""
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=5)

    def _tell(self) -> None:
        assert self._process.stdin and self._process.stdout  # noqa: PT018
        line = json.dumps({f"{source}>{target}": rule for (source, target), rule in self.rules.items()})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "ok\n":
            raise RuntimeError("the wire has broken")


class Switch:
    """Packets in, packets out: which goes where, when, if at all."""

    def __init__(self, chance: random.Random) -> None:
        self.rules: Rules = {}
        self._chance = chance
        self._late: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def take(self, source: int, packet: bytes, hosts: int, now: float) -> int | None:
        """Return the host that gets a packet at once; None for one that is kept for later, or lost."""
        if packet[0] >> 4 != _VERSION_4:
            return None
        target = packet[19] - FIRST
        if not 0 <= target < hosts:
            return None
        rule = self.rules.get((source, target))
        if rule is None:
            return target
        delay, loss = rule
        if loss and self._chance.random() < loss:
            return None
        self._count += 1  # those of the same moment stay in order
        heapq.heappush(self._late, (now + delay, self._count, target, packet))
        return None

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """Return the packets whose time has come."""
        found = []
        while self._late and self._late[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._late)
            found.append((target, packet))
        return found

    def wait(self, now: float) -> float | None:
        """Return the seconds until the next packet is due."""
        return max(0.0, self._late[0][0] - now) if self._late else None


def parse(line: str) -> Rules:
    """Return the rules of a line."""
    found: Rules = {}
    for pair, (delay, loss) in json.loads(line).items():
        source, _, target = pair.partition(">")
        found[int(source), int(target)] = (delay, loss)
    return found


def main(seed: int, tuns: Sequence[int]) -> None:
    """Carry packets until standard input ends, as it does when whoever started us dies."""
    switch = Switch(random.Random(seed))
    with selectors.DefaultSelector() as poller:
        poller.register(sys.stdin, selectors.EVENT_READ, -1)
        for number, tun in enumerate(tuns):
            poller.register(tun, selectors.EVENT_READ, number)
        while True:
            for key, _ in poller.select(switch.wait(time.monotonic())):
                if key.data == -1:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    switch.rules = parse(line)
                    sys.stdout.write("ok\n")
                    sys.stdout.flush()
                else:
                    _carry(switch, tuns, key.data)
            for target, packet in switch.due(time.monotonic()):
                _write(tuns[target], packet)


def _carry(switch: Switch, tuns: Sequence[int], source: int) -> None:
    now = time.monotonic()
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):  # then the others get their turn
            packet = os.read(tuns[source], 65_536)
            target = switch.take(source, packet, len(tuns), now)
            if target is not None:
                _write(tuns[target], packet)


def _write(tun: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # a device that is down takes nothing
        os.write(tun, packet)


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(word) for word in sys.argv[2:]])
