"""What the types of a configuration cannot say: names, forms, ranges, and what must fit together."""

import re
from collections.abc import Iterator

from mesh.config.schema import Config
from mesh.errors import ConfigError

_REGION = re.compile(r"[a-z0-9-]{1,8}")
_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9_.*-]+):(?P<port>\d{1,5}|\*)")
#: A unix socket's path has 107 bytes at most; the kernel cuts longer ones or refuses them.
_LONGEST_IPC = 107
_SERVICE = re.compile(r"places|echo|sleep:\d+(\.\d+)?")

#: key -> (lowest, highest, why)
_RANGES: dict[str, tuple[float, float, str]] = {
    "broker.queue": (1, 1_000_000, "jobs"),
    "broker.window": (1, 10_000, "jobs"),
    "broker.heartbeat": (0.01, 60, "seconds"),
    "broker.liveness": (2, 100, "heartbeats"),
    "broker.grace": (0, 3600, "seconds"),
    "worker.slots": (1, 1_000, "jobs"),
}


def check(config: Config, file: str) -> None:
    """Raise `ConfigError` for the first thing that is wrong."""
    for field, message, hint in _faults(config):
        raise ConfigError(message, file=file, field=field, hint=hint)


def _faults(config: Config) -> Iterator[tuple[str, str, str | None]]:
    yield from _names(config)
    yield from _endpoints(config)
    for key, (low, high, unit) in _RANGES.items():
        table, name = key.split(".")
        value = getattr(getattr(config, table), name)
        if not low <= value <= high:
            yield key, f"{value} is out of range", f"between {low} and {high} {unit}"
    if not _SERVICE.fullmatch(config.worker.service):
        yield "worker.service", f"there is no service {config.worker.service!r}", "places, echo, or sleep:MILLISECONDS"


def _names(config: Config) -> Iterator[tuple[str, str, str | None]]:
    named = {"mesh.region": config.region} | {f"{table}.{name}": name for table in ("peers", "shards")
                                              for name in getattr(config, table)}  # fmt: skip
    for field, name in named.items():
        if not _REGION.fullmatch(name):
            yield field, f"{name!r} is no region name", "one to eight of a-z, 0-9 and -"
    if config.region in config.peers:
        yield f"peers.{config.region}", "a broker is no peer of itself", "remove this table"
    if config.worker.service == "places":
        for name in (config.region, *config.peers):
            if name not in config.shards:
                yield f"shards.{name}", "is missing: its workers could not read that region", f"add [shards.{name}]"


def _endpoints(config: Config) -> Iterator[tuple[str, str, str | None]]:
    endpoints = {"broker.listen": config.broker.listen}
    endpoints |= {f"peers.{name}.endpoint": peer.endpoint for name, peer in config.peers.items()}
    for field, endpoint in endpoints.items():
        match = _TCP.fullmatch(endpoint)
        if match is None or (match["port"] != "*" and not 0 < int(match["port"]) < 65536):
            yield field, f"{endpoint!r} is no endpoint", "write tcp://ADDRESS:PORT"
    workers = config.broker.workers
    path = workers.removeprefix("ipc://")
    if workers.startswith("ipc://") and path:
        if len(path.encode()) > _LONGEST_IPC:
            yield "broker.workers", f"the path has {len(path.encode())} bytes, a unix socket's has {_LONGEST_IPC}", None
    elif not _TCP.fullmatch(workers):
        yield "broker.workers", f"{workers!r} is no endpoint", "write ipc:///PATH or tcp://ADDRESS:PORT"
    if len(set(endpoints.values())) < len(endpoints):
        yield "peers", "two brokers have the same endpoint", "each has its own address or port"
