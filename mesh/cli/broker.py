"""mesh-broker: one region's broker."""

import os
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import msgspec
import typer
import zmq

from mesh.config.load import load, region_map_path
from mesh.config.schema import Config
from mesh.core.actions import Link
from mesh.core.broker import BrokerCore
from mesh.core.settings import BrokerSettings
from mesh.errors import ConfigError
from mesh.model import map_digest
from mesh.service import lifecycle, log
from mesh.transport import sockets
from mesh.transport.loop import Loop

app = typer.Typer(add_completion=False)


@app.command()
def broker(
    config: Annotated[Path, typer.Option("--config", "-c", help="The host's mesh.toml.", show_default=False)],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run the broker of one region until SIGTERM or SIGINT.

    It gives work to its own workers first, forwards requests for another region's data to the broker that owns it,
    and spills to peers that have granted it room. On SIGTERM it refuses new work, finishes what it has, and leaves.

    Exit codes: 0 after a drain, 1 failure, 2 usage, 78 wrong configuration.
    """
    log.setup("mesh-broker", verbose=verbose)
    with lifecycle.complaints("mesh-broker"):
        run(load(config), config)


def run(config: Config, file: Path) -> None:
    """Run the broker of a configuration."""
    context = zmq.Context()
    core = BrokerCore(_settings(config, file), monotonic())
    loop = Loop(core, _sockets(context, config), log.line)
    lifecycle.on_stop_signals(loop.request_drain)
    log.line("info", "listening", {"region": config.region, "clients": config.broker.listen, "pid": os.getpid()})
    try:
        loop.run()
    finally:
        context.term()


def _settings(config: Config, file: Path) -> BrokerSettings:
    data, names = _region_map(region_map_path(config, file))
    for name in (config.region, *config.peers):
        if name not in names:
            hint = f"the map has {', '.join(names)}"
            raise ConfigError(f"the region map has no region {name!r}", file=str(file), field="mesh.map", hint=hint)
    return BrokerSettings(
        region=config.region,
        regions=tuple(names),
        epoch=os.urandom(8).hex(),
        map_digest=map_digest(data),
        region_map=data,
        queue=config.broker.queue,
        window=config.broker.window,
        heartbeat=config.broker.heartbeat,
        liveness=config.broker.liveness,
        grace=config.broker.grace,
        software=version("regional-mesh"),
    )


def _region_map(path: Path) -> tuple[bytes, list[str]]:
    """Return the map's bytes and the regions in it; a broker needs no geometry, so it loads no geometry library."""
    try:
        data = path.read_bytes()
        names = [feature["id"] for feature in msgspec.json.decode(data)["features"]]
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path), hint="set mesh.map") from None
    except (msgspec.DecodeError, KeyError, TypeError):
        raise ConfigError("is no region map", file=str(path), hint="a GeoJSON FeatureCollection with ids") from None
    return data, names


def _sockets(context: "zmq.Context[zmq.Socket[bytes]]", config: Config) -> dict[int, Any]:
    name = config.region.encode()
    front = sockets.router(context, routing_id=name)
    sockets.bind(front, config.broker.listen, "broker.listen")
    local = sockets.router(context)
    sockets.bind(local, config.broker.workers, "broker.workers")
    back = sockets.router(context, routing_id=name)
    sockets.connecting(back)
    for peer, address in config.peers.items():
        sockets.connect(back, address.endpoint, f"peers.{peer}.endpoint")
    return {Link.FRONT: front, Link.BACK: back, Link.LOCAL: local}


def main() -> None:
    """Run the program."""
    app(prog_name="mesh-broker")
