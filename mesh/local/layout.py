"""Where everything of a local mesh is: ports, files, and the configuration of each region's host."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from mesh.config.load import parse, shipped
from mesh.errors import ConfigError

#: In the order of their ports.
REGIONS = ("ne", "south", "mw", "sw", "ca")
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    workers: int = 2
    base_port: int = 5570
    #: `mongo` or `memory`; None for mongo where a mongod runs, else memory.
    store: str | None = None
    #: `us` or `none`.
    load: str = "us"
    #: Where the places stay; None for a directory that goes with the mesh.
    data: Path | None = None
    service: str = "places"
    mongod: Path | None = None


@dataclass(frozen=True)
class Layout:
    """The addresses and files of a mesh below one run-time directory."""

    directory: Path
    base_port: int

    @property
    def brokers(self) -> dict[str, str]:
        """Each region's endpoint."""
        return {region: f"tcp://{HOST}:{port}" for region, port in self.ports.items()}

    @property
    def ports(self) -> dict[str, int]:
        """Each region's port."""
        return {region: self.base_port + number for number, region in enumerate(REGIONS)}

    def config(self, region: str) -> Path:
        """Return where a region's mesh.toml is."""
        return self.directory / f"{region}.toml"

    def log(self, program: str) -> Path:
        """Return where a program's log lines go."""
        return self.directory / f"{program}.log"

    def socket(self, name: str) -> Path:
        """Return the path of a unix socket; those have 107 bytes at most, so the names are short."""
        return self.directory / name

    def write(self, shards: dict[str, str], service: str = "places") -> None:
        """Write and check the configuration of every region, given each shard's URI."""
        for region in REGIONS:
            text = render(self._variables(region, shards, service))
            parse(text, str(self.config(region)))
            self.config(region).write_text(text, encoding="utf-8")

    def _variables(self, region: str, shards: dict[str, str], service: str) -> dict[str, Any]:
        brokers = self.brokers
        return {
            "mesh_managed_by": "Written by mesh-local",
            "mesh_region": region,
            "mesh_broker_listen": brokers[region],
            "mesh_broker_workers": f"ipc://{self.socket(region + '.ipc')}",
            "mesh_worker_service": service,
            "mesh_peers": {name: {"endpoint": brokers[name]} for name in REGIONS if name != region},
            "mesh_shards": {name: {"uri": uri} for name, uri in shards.items()},
        }


def render(variables: dict[str, Any], template: str = "mesh.toml.j2") -> str:
    """Return one of the shipped templates with these variables, as Ansible would render it."""
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - TOML and units, not HTML
    )  # fmt: skip
    environment.filters["to_json"] = json.dumps  # Ansible's, for what TOML can hold
    source = shipped(f"templates/{template}").read_text(encoding="utf-8")
    text = environment.from_string(source).render(variables)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"a value is no text: half a character at {error.start}", file=template) from None
    return text


def check_ports(layout: Layout) -> None:
    """Raise `ConfigError` for the first port that a broker could not listen on."""
    last = layout.base_port + len(REGIONS) - 1
    if not 0 < layout.base_port <= last < 65536:
        raise ConfigError(f"ports {layout.base_port} to {last} do not exist", field="--base-port", hint="1 to 65531")
    for region, port in layout.ports.items():
        try:
            with socket.socket() as probe:
                # As ZeroMQ does: a port whose last connections are still fading is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((HOST, port))
                probe.listen(1)
        except OSError as error:
            reason = error.strerror or str(error)
            hint = "choose five free ports in a row with --base-port"
            raise ConfigError(f"port {port} for {region}: {reason}", field="--base-port", hint=hint) from None
