"""mesh-worker: one worker of a region."""

import os
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
import zmq

from mesh.config.load import load, region_map_path
from mesh.config.schema import Config
from mesh.core.actions import Link
from mesh.core.settings import WorkerSettings
from mesh.core.worker import WorkerCore
from mesh.errors import ConfigError
from mesh.jobs.base import Service
from mesh.jobs.drills import Echo, Sleep
from mesh.jobs.runner import Runner
from mesh.model import map_digest
from mesh.service import lifecycle, log
from mesh.transport import sockets
from mesh.transport.loop import Loop

app = typer.Typer(add_completion=False)


@app.command()
def worker(
    config: Annotated[Path, typer.Option("--config", "-c", help="The host's mesh.toml.", show_default=False)],
    instance: Annotated[str, typer.Option("--instance", "-i", help="Which worker of this host: 1, 2, ...")] = "1",
    service: Annotated[
        str | None, typer.Option(help="places, echo or sleep:MILLISECONDS instead of the configured one.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run one worker until SIGTERM or SIGINT.

    It takes jobs from its region's broker and answers them from the shard of the region each job is about. It may
    start before the broker and survives its restarts. On SIGTERM it finishes what it has, and leaves.

    Exit codes: 0 after a drain, 1 failure, 2 usage, 78 wrong configuration.
    """
    log.setup(f"mesh-worker@{instance}", verbose=verbose)
    with lifecycle.complaints("mesh-worker"):
        settings = load(config)
        run(settings, config, instance, make_service(service or settings.worker.service, settings, config, instance))


def run(config: Config, file: Path, instance: str, service: Service) -> None:
    """Run a worker with any service; this is where to plug in your own."""
    context = zmq.Context()
    socket = sockets.dealer(context)
    sockets.connecting(socket)
    sockets.connect(socket, config.broker.workers.replace("tcp://*", "tcp://127.0.0.1"), "broker.workers")
    core = WorkerCore(_settings(config, file, instance, service.name), monotonic())
    loop = Loop(core, {Link.LOCAL: socket}, log.line)
    runner = Runner(service, core, loop.wake)
    loop.run_job = runner.submit
    loop.on_wake(runner.collect)
    lifecycle.on_stop_signals(loop.request_drain)
    try:
        loop.run()
    finally:
        runner.close()
        context.term()


def make_service(name: str, config: Config, file: Path, instance: str) -> Service:
    """Return the service of that name; raises `ConfigError` for one that does not exist."""
    if name == "echo":
        return Echo()
    if name == "places":
        return _places(config, file, instance)
    kind, _, milliseconds = name.partition(":")
    try:
        if kind == "sleep":
            return Sleep(float(milliseconds))
    except ValueError:
        pass
    hint = "places, echo, or sleep:MILLISECONDS"
    raise ConfigError(f"there is no service {name!r}", field="service", hint=hint)


def _places(config: Config, file: Path, instance: str) -> Service:
    # Only this service needs geometry and a store; the others start in a tenth of a second without.
    from mesh.jobs.places import Places  # noqa: PLC0415
    from mesh.regions import RegionMap  # noqa: PLC0415
    from mesh.store.base import Store  # noqa: PLC0415
    from mesh.store.open import open_store  # noqa: PLC0415

    def open_shard(region: str) -> Store:
        shard = config.shards.get(region)
        if shard is None:
            raise ConfigError(f"no shard is configured for {region}", field=f"shards.{region}")
        return open_store(shard.uri, region, shard.database)

    regions = RegionMap.load(region_map_path(config, file))
    places = Places(f"{config.region}/{instance}", open_shard, regions)
    places.open(config.region)  # so that the first request does not wait for the driver to be imported
    return places


def _settings(config: Config, file: Path, instance: str, service: str) -> WorkerSettings:
    return WorkerSettings(
        region=config.region,
        instance=instance,
        epoch=os.urandom(8).hex(),
        map_digest=map_digest(region_map_path(config, file).read_bytes()),
        service=service,
        slots=config.worker.slots,
        window=max(config.broker.window, config.worker.slots),
        heartbeat=config.broker.heartbeat,
        liveness=config.broker.liveness,
        grace=config.broker.grace,
    )


def main() -> None:
    """Run the program."""
    app(prog_name="mesh-worker")
