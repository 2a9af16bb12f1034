"""What the types of a configuration cannot say: names, forms, ranges, and what must fit together."""

import re
from collections.abc import Iterator

from mesh.config.schema import Config, Shard
from mesh.errors import ConfigError

#: A key, what is wrong with its value, and what to do.
Fault = tuple[str, str, str | None]

_REGION = re.compile(r"[a-z0-9-]{1,8}")
_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9_.*-]+):(?P<port>[0-9]{1,5}|\*)")
#: A unix socket's path has 107 bytes at most; the kernel cuts longer ones or refuses them.
_LONGEST_IPC = 107
_SERVICE = re.compile(r"places|echo|sleep:\d+(\.\d+)?")
#: It goes into paths and status lines.
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}")
#: As in `mesh.service.credentials`.
_CREDENTIAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")

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


def _faults(config: Config) -> Iterator[Fault]:
    yield from _names(config)
    yield from _endpoints(config)
    yield from _workers(config)
    for name, shard in config.shards.items():
        yield from _shard(f"shards.{name}", shard)
    for key, (low, high, unit) in _RANGES.items():
        table, name = key.split(".")
        value = getattr(getattr(config, table), name)
        if not low <= value <= high:
            yield key, f"{value} is out of range", f"between {low} and {high} {unit}"
    if config.mesh.release and not _RELEASE.fullmatch(config.mesh.release):
        yield "mesh.release", f"{config.mesh.release!r} is no release", "letters, digits, dot, dash, + and ~"
    if not _SERVICE.fullmatch(config.worker.service):
        yield "worker.service", f"there is no service {config.worker.service!r}", "places, echo, or sleep:MILLISECONDS"


def _names(config: Config) -> Iterator[Fault]:
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


def _endpoints(config: Config) -> Iterator[Fault]:
    endpoints = {"broker.listen": config.broker.listen}
    endpoints |= {f"peers.{name}.endpoint": peer.endpoint for name, peer in config.peers.items()}
    for field, endpoint in endpoints.items():
        if not _is_tcp(endpoint):
            yield field, f"{endpoint!r} is no endpoint", "write tcp://ADDRESS:PORT"
    if len(set(endpoints.values())) < len(endpoints):
        yield "peers", "two brokers have the same endpoint", "each has its own address or port"


def _workers(config: Config) -> Iterator[Fault]:
    workers, tcp = config.broker.workers, config.broker.workers_tcp
    path = workers.removeprefix("ipc://")
    if workers.startswith("ipc://") and path:
        if len(path.encode()) > _LONGEST_IPC:
            yield "broker.workers", f"the path has {len(path.encode())} bytes, a unix socket's has {_LONGEST_IPC}", None
    elif not _is_tcp(workers):
        yield "broker.workers", f"{workers!r} is no endpoint", "write ipc:///PATH or tcp://ADDRESS:PORT"
    if tcp and not _is_tcp(tcp):
        yield "broker.workers_tcp", f"{tcp!r} is no endpoint", "write tcp://ADDRESS:PORT, or leave it out"
    for field, endpoint in {"broker.workers": workers, "broker.workers_tcp": tcp}.items():
        if _clash(endpoint, config.broker.listen):
            yield field, "is where clients connect, too", "workers need a port of their own"
    if _clash(tcp, workers):
        yield "broker.workers_tcp", "is the same as broker.workers", "leave one of them out"


def _shard(table: str, shard: Shard) -> Iterator[Fault]:
    user, at, _ = re.split("[/?]", shard.uri.partition("://")[2])[0].rpartition("@")
    if ":" in user:
        hint = "set username and password_credential, and put the password into that credential"
        yield f"{table}.uri", "holds a password, and this file is no place for one", hint
    elif at and shard.username:
        yield f"{table}.username", "the URI names a user, too", "take it out of the URI"
    if bool(shard.username) != bool(shard.password_credential):
        here, other = ("username", "password_credential") if shard.username else ("password_credential", "username")
        yield f"{table}.{here}", f"is of no use without {other}", f"add {other}, or leave both out"
    if shard.password_credential and not _CREDENTIAL.fullmatch(shard.password_credential):
        hint = "letters, digits, dot, dash and underscore"
        yield f"{table}.password_credential", f"{shard.password_credential!r} is no credential's name", hint
    if (shard.username or shard.ca_file) and not shard.uri.startswith(("mongodb://", "mongodb+srv://")):
        field = "username" if shard.username else "ca_file"
        yield f"{table}.{field}", "only MongoDB has accounts and certificates", "leave it out"


def _clash(one: str, other: str) -> bool:
    """Whether two TCP endpoints cannot both be bound on one host."""
    first, second = _TCP.fullmatch(one), _TCP.fullmatch(other)
    if first is None or second is None or first["port"] != second["port"] or first["port"] == "*":
        return False
    return first[1] == second[1] or not {first[1], second[1]}.isdisjoint({"*", "0.0.0.0", "[::]"})  # noqa: S104


def _is_tcp(endpoint: str) -> bool:
    match = _TCP.fullmatch(endpoint)
    return match is not None and (match["port"] == "*" or 0 < int(match["port"]) < 65536)
