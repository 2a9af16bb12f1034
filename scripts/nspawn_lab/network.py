"""Namespaces and cables: a bridge in the control namespace, one veth to each guest, no way out."""

import contextlib
from pathlib import Path

from nspawn_lab.layout import CONTROL_ADDRESS, PREFIX_BITS, Guest, LabError, Layout
from nspawn_lab.processes import network_of, run

BRIDGE = "br0"
GUEST_LINK = "mesh0"
NAMESPACES = Path("/run/netns")


def identity(namespace: str) -> tuple[int, int]:
    """Return what identifies a named network namespace; LabError when the name leads to the host's own network."""
    try:
        status = (NAMESPACES / namespace).stat()
    except OSError:
        raise LabError(f"network namespace {namespace} is not there; run `scripts/lab up`") from None
    found = status.st_dev, status.st_ino
    hosts = {network_of("self")}
    with contextlib.suppress(PermissionError):  # a sandbox may hide the machine's first process
        hosts.add(network_of(1))
    # A guest's `nft flush ruleset` in the host's network would open, or cut off, the machine you sit at.
    if found in hosts or found[0] != network_of("self")[0]:
        raise LabError(f"network namespace {namespace} is not a namespace of its own: refusing to start a guest in it")
    return found


def make_control(lab: Layout) -> None:
    """Make the control namespace with its bridge."""
    if (NAMESPACES / lab.control).exists():
        return
    run("ip", "netns", "add", lab.control)
    _batch(
        lab.control,
        "link set lo up",
        # Without an address of its own a bridge takes the lowest of its ports', and changes it as ports come and go.
        f"link add {BRIDGE} address 02:4d:45:53:48:01 type bridge",
        f"addr add {CONTROL_ADDRESS}/{PREFIX_BITS} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    )


def make_guest(lab: Layout, guest: Guest) -> None:
    """Make a guest's namespace, and the cable to the bridge."""
    namespace = lab.namespace(guest)
    if (NAMESPACES / namespace).exists():
        return
    run("ip", "netns", "add", namespace)
    _batch(
        lab.control,
        f"link add {guest.link} type veth peer name {GUEST_LINK} netns {namespace}",
        f"link set {guest.link} master {BRIDGE} up",
    )
    _batch(
        namespace,
        "link set lo up",
        f"addr add {guest.address}/{PREFIX_BITS} dev {GUEST_LINK}",
        f"link set {GUEST_LINK} up",
    )


def set_link(lab: Layout, guest: Guest, *, up: bool) -> None:
    """Plug a guest's cable in, or pull it."""
    run("ip", "-n", lab.control, "link", "set", guest.link, "up" if up else "down")


def link_is_up(lab: Layout, guest: Guest) -> bool:
    """Tell whether a guest's cable is plugged in."""
    done = run("ip", "-n", lab.control, "-o", "link", "show", guest.link, check=False)
    return done.returncode == 0 and ",UP" in done.stdout.partition(">")[0]


def shape(lab: Layout, guest: Guest, words: list[str]) -> None:
    """Delay, lose or limit what the bridge sends to a guest with `tc netem` words; none takes that away."""
    run("tc", "-n", lab.control, "qdisc", "del", "dev", guest.link, "root", check=False)
    if words:
        done = run("tc", "-n", lab.control, "qdisc", "add", "dev", guest.link, "root", "netem", *words, check=False)
        if "kind is unknown" in done.stderr:
            raise LabError("this kernel has no netem, so a cable is either up or down; `modprobe sch_netem` may help")
        if done.returncode:
            raise LabError(f"tc understands no netem {' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")


def names(lab: Layout) -> list[str]:
    """Return the namespaces of this lab that exist, whatever the inventory says today."""
    with contextlib.suppress(OSError):
        found = sorted(entry.name for entry in NAMESPACES.iterdir())
        return [name for name in found if name == lab.control or name.startswith(f"{lab.control}.")]
    return []


def pids(namespace: str) -> list[int]:
    """Return the processes in a namespace of the lab.

    None, when the name leads to the network that we are in: whoever ends these would end every process of the machine.
    """
    try:
        identity(namespace)
    except LabError:
        return []
    return [int(pid) for pid in run("ip", "netns", "pids", namespace, check=False).stdout.split()]


def remove(namespace: str) -> None:
    """Remove a namespace, and with it the cables in it."""
    run("ip", "netns", "del", namespace, check=False)


def _batch(namespace: str, *lines: str) -> None:
    run("ip", "-n", namespace, "-batch", "-", text="\n".join(lines) + "\n")
