"""mesh-worker: one worker of a region."""

import os
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
import zmq

from mesh.cli import living
from mesh.cli.shards import open_shard
from mesh.config.load import load, region_map_path
from mesh.config.region_map import region_map
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

#: READY is said once a broker has welcomed us, so that a restart of one worker after the other leaves the region
#: served; but not later than this, in seconds: a broker that is away must not keep its workers "activating" until
#: systemd gives up on them. The status line says `broker=away` then.
READY_PATIENCE_SECONDS = 3.0

app = typer.Typer(add_completion=False)


@app.command()
def worker(
    config: Annotated[Path, typer.Option("--config", "-c", help="The host's mesh.toml.", show_default=False)],
    instance: Annotated[str, typer.Option("--instance", "-i", help="Which worker of this host: 1, 2, ...")] = "1",
    service: Annotated[
        str | None, typer.Option(help="places, echo or sleep:MILLISECONDS instead of the configured one.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    check: living.CheckOption = False,
    _version: Annotated[bool, living.version_option("mesh-worker")] = False,
) -> None:
    """Run one worker until SIGTERM or SIGINT.

    It takes jobs from its region's broker and answers them from the shard of the region each job is about. It may
    start before the broker and survives its restarts. On SIGTERM it finishes what it has, and leaves.

    Exit codes: 0 after a drain, 1 failure, 2 usage, 78 wrong configuration.
    """
    log.setup(f"mesh-worker@{instance}", verbose=verbose)
    with lifecycle.complaints("mesh-worker"):
        settings = load(config)
        name = service or settings.worker.service
        if check:
            _check(settings, config, instance, name)
            print(f"{config}: mesh-worker can run with it")
        else:
            run(settings, config, instance, make_service(name, settings, config, instance))


def run(config: Config, file: Path, instance: str, service: Service) -> None:
    """Run a worker with any service; this is where to plug in your own."""
    context = zmq.Context()
    socket = sockets.dealer(context)
    sockets.connecting(socket, sockets.WORKER)
    sockets.connect(socket, config.broker.workers.replace("tcp://*", "tcp://127.0.0.1"), "broker.workers")
    core = WorkerCore(_settings(config, file, instance, service.name), monotonic())
    loop = Loop(core, {Link.LOCAL: socket}, log.line)
    runner = Runner(service, core, loop.wake)
    loop.run_job = runner.submit
    loop.on_wake(runner.collect)
    patient_until = monotonic() + READY_PATIENCE_SECONDS
    try:
        living.live(
            loop, config, lambda: _describe(core, instance), lambda: core.connected or monotonic() > patient_until
        )
    finally:
        runner.close()
        context.term()


def make_service(name: str, config: Config, file: Path, instance: str, *, check: bool = False) -> Service:
    """Return the service of that name, *check* without its secrets; raises `ConfigError` if there is none."""
    if name == "echo":
        return Echo()
    if name == "places":
        return _places(config, file, instance, check=check)
    kind, _, milliseconds = name.partition(":")
    try:
        if kind == "sleep":
            return Sleep(float(milliseconds))
    except ValueError:
        pass
    hint = "places, echo, or sleep:MILLISECONDS"
    raise ConfigError(f"there is no service {name!r}", field="service", hint=hint)


def _places(config: Config, file: Path, instance: str, *, check: bool) -> Service:
    # Only this service needs geometry and a store; the others start in a tenth of a second without.
    from mesh.jobs.places import Places  # noqa: PLC0415
    from mesh.regions import RegionMap  # noqa: PLC0415

    file = file.resolve()  # a shard is opened when it is first asked, and by then `current` may be another release
    regions = RegionMap.load(region_map_path(config, file))
    places = Places(f"{config.region}/{instance}", partial(open_shard, config, file, secrets=not check), regions)
    places.open(config.region)  # so that the first request does not wait for the driver to be imported
    return places


def _check(config: Config, file: Path, instance: str, service: str) -> None:
    """Do all that a start does before it listens, except reading secrets: those may come to the host later."""
    _settings(config, file, instance, make_service(service, config, file, instance, check=True).name)


def _describe(core: WorkerCore, instance: str) -> str:
    return f"instance={instance} broker={'connected' if core.connected else 'away'}"


def _settings(config: Config, file: Path, instance: str, service: str) -> WorkerSettings:
    return WorkerSettings(
        region=config.region,
        instance=instance,
        epoch=os.urandom(8).hex(),
        map_digest=map_digest(region_map(config, file)[0]),
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
