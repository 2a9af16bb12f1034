"""Which guests there are, and where everything of a lab is kept."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "inventory/lab.yml"
CACHE = Path("/var/cache/mesh-lab")
CONTROL_ADDRESS = "10.77.0.1"
PREFIX_BITS = 24
REPOSITORY_PORT = 8077
NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")


class LabError(Exception):
    """What is wrong and how to put it right, in one line."""


@dataclass(frozen=True)
class Guest:
    """A host of the inventory."""

    host: str
    address: str
    region: str

    @property
    def short(self) -> str:
        """Return the first label of the name: `ne` of `ne.example.net`."""
        return self.host.partition(".")[0]

    @property
    def link(self) -> str:
        """Return the bridge's end of the guest's cable; the kernel takes 15 characters."""
        return f"v-{self.short}"[:15]


@dataclass(frozen=True)
class Layout:
    """Names and directories of one lab; two labs share nothing but the cached image."""

    name: str = "mesh-lab"

    @property
    def run(self) -> Path:
        """Return where records, keys, consoles and mounted guests are."""
        return Path("/run") / self.name

    @property
    def var(self) -> Path:
        """Return where guests' writes are kept: on disk, a mongod in memory would be a lot of it."""
        return Path("/var/lib") / self.name

    @property
    def etc(self) -> Path:
        """Return what `ip netns exec` binds over /etc in the control namespace."""
        return Path("/etc/netns") / self.name

    @property
    def control(self) -> str:
        """Return the name of the namespace with the bridge."""
        return self.name

    def namespace(self, guest: Guest) -> str:
        """Return the name of a guest's network namespace."""
        return f"{self.name}.{guest.short}"  # a lab has no dot in its name, so no two labs meet here

    def state(self, guest: Guest) -> Path:
        """Return the directory of a guest's record, console and root."""
        return self.run / "guests" / guest.short

    def root(self, guest: Guest) -> Path:
        """Return where a guest's file system is mounted."""
        return self.state(guest) / "root"


def layout() -> Layout:
    """Return the lab that $MESH_LAB names, `mesh-lab` without it."""
    name = os.environ.get("MESH_LAB") or "mesh-lab"
    if not NAME.fullmatch(name):
        raise LabError(f"MESH_LAB={name!r} is no name for a lab: up to 24 of a-z, 0-9 and -, a letter first")
    return Layout(name)


def read_guests(path: Path = INVENTORY) -> list[Guest]:
    """Return the hosts of an inventory file that have an address, in its order, brokers before workers."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise LabError(f"cannot read the inventory {path}: {error}") from None
    hosts = {name: values for group in _groups(document) for name, values in (group.get("hosts") or {}).items()}
    guests = [_guest(name, values or {}, path) for name, values in hosts.items()]
    _refuse_doubles(guests, path)
    return guests


def find(guests: list[Guest], name: str) -> Guest:
    """Return the guest called `ne`, `ne.example.net` or 10.77.0.11."""
    for guest in guests:
        if name.lower() in {guest.host, guest.short, guest.address}:
            return guest
    raise LabError(f"no host {name!r}; there are {', '.join(g.short for g in guests)}")


def _groups(document: Any) -> Iterator[dict[str, Any]]:
    for group in (document or {}).values():
        if isinstance(group, dict):
            yield group
            yield from _groups(group.get("children"))


def _guest(host: str, values: dict[str, Any], path: Path) -> Guest:
    try:
        return Guest(host, values["mesh_address"], values["mesh_region"])
    except KeyError as error:
        raise LabError(f"{path}: {host} has no {error.args[0]}; write it beside the host's name") from None


def _refuse_doubles(guests: list[Guest], path: Path) -> None:
    for field in ("short", "address"):
        seen: set[str] = set()
        for guest in guests:
            value = getattr(guest, field)
            if value in seen:
                raise LabError(f"{path}: two hosts have {value}")
            seen.add(value)
    if not guests:
        raise LabError(f"{path} has no hosts")
