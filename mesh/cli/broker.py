"""mesh-broker: one region's broker."""

import os
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
import zmq

from mesh.cli import living
from mesh.config.load import digest, load
from mesh.config.region_map import region_map
from mesh.config.schema import Config
from mesh.core.actions import Link
from mesh.core.broker import BrokerCore
from mesh.core.settings import BrokerSettings
from mesh.errors import ConfigError
from mesh.model import map_digest
from mesh.service import activation, lifecycle, log
from mesh.transport import sockets
from mesh.transport.loop import Loop

app = typer.Typer(add_completion=False)


@app.command()
def broker(
    config: Annotated[Path, typer.Option("--config", "-c", help="The host's mesh.toml.", show_default=False)],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    check: living.CheckOption = False,
    _version: Annotated[bool, living.version_option("mesh-broker")] = False,
) -> None:
    """Run the broker of one region until SIGTERM or SIGINT.

    It gives work to its own workers first, forwards requests for another region's data to the broker that owns it,
    and spills to peers that have granted it room. On SIGTERM it refuses new work, finishes what it has, and leaves.

    Exit codes: 0 after a drain, 1 failure, 2 usage, 78 wrong configuration.
    """
    log.setup("mesh-broker", verbose=verbose)
    with lifecycle.complaints("mesh-broker"):
        settings = load(config)
        if check:
            _settings(settings, config)
            print(f"{config}: mesh-broker can run with it")
        else:
            run(settings, config)


def run(config: Config, file: Path) -> None:
    """Run the broker of a configuration."""
    context = zmq.Context()
    core = BrokerCore(_settings(config, file), monotonic())
    loop = Loop(core, _sockets(context, config), log.line)
    log.line("info", "listening", {"region": config.region, "clients": config.broker.listen, "pid": os.getpid()})
    try:
        # Its sockets are bound, so READY may be said at the first turn: whoever waits for us can connect.
        living.live(loop, config, lambda: _describe(core, config))
    finally:
        context.term()


def _describe(core: BrokerCore, config: Config) -> str:
    up = sum(peer.alive for peer in core.peers)
    draining = " draining" if core.jobs.draining else ""
    return f"peers={up}/{len(config.peers)} workers={len(core.jobs.workers)}{draining}"


def _settings(config: Config, file: Path) -> BrokerSettings:
    data, names = region_map(config, file)
    return BrokerSettings(
        region=config.region,
        regions=names,
        epoch=os.urandom(8).hex(),
        map_digest=map_digest(data),
        region_map=data,
        queue=config.broker.queue,
        window=config.broker.window,
        heartbeat=config.broker.heartbeat,
        liveness=config.broker.liveness,
        grace=config.broker.grace,
        software=version(living.PACKAGE),
        release=config.mesh.release,
        config_digest=digest(file),
    )


def _sockets(context: "zmq.Context[zmq.Socket[bytes]]", config: Config) -> dict[int, Any]:
    name = config.region.encode()
    front = sockets.router(context, routing_id=name)
    _listen(front, config.broker.listen)
    local = sockets.router(context)
    sockets.bind(local, config.broker.workers, "broker.workers")
    if config.broker.workers_tcp:
        sockets.bind(local, config.broker.workers_tcp, "broker.workers_tcp")
    back = sockets.router(context, routing_id=name)
    sockets.connecting(back, sockets.PEER)
    for peer, address in config.peers.items():
        sockets.connect(back, address.endpoint, f"peers.{peer}.endpoint")
    return {Link.FRONT: front, Link.BACK: back, Link.LOCAL: local}


def _listen(front: Any, endpoint: str) -> None:
    """Take over the socket that systemd holds, so that a restart refuses nobody; without one, bind as usual."""
    held = activation.listener("front")
    if held is None:
        sockets.bind(front, endpoint, "broker.listen")
        return
    if not held.fits(endpoint):
        hint = "make ListenStream= of mesh-broker.socket and broker.listen the same"
        raise ConfigError(f"is {endpoint}, but systemd listens on {held} for us", field="broker.listen", hint=hint)
    sockets.adopt(front, held.fd, endpoint, "broker.listen")


def main() -> None:
    """Run the program."""
    app(prog_name="mesh-broker")
