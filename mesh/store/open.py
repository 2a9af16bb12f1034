"""From a shard's URI to a store that fits it."""

from urllib.parse import urlsplit

from mesh.errors import ConfigError
from mesh.store.access import ANYBODY, Access
from mesh.store.base import Store

_HINT = "mongodb://host/?replicaSet=name, memory:///run/mesh/store.sock, or memory: for this process alone"


def open_store(uri: str, region: str, database: str = "mesh", access: Access = ANYBODY) -> Store:
    """Return the store of *region* at *uri*; it connects when first used.

    `mongodb://` and `mongodb+srv://` are MongoDB, with the account and certificates of *access*; `memory://` with an
    absolute path is a memory store served there (see `mesh-store serve`), `memory:` is an empty one in this process.
    """
    # Each branch imports its own: pymongo takes longer to import than a memory mesh takes to start.
    scheme = uri.partition(":")[0]
    if scheme in {"mongodb", "mongodb+srv"}:
        from mesh.store.mongo import MongoStore  # noqa: PLC0415

        return MongoStore(uri, region, database, access)
    if uri == "memory:":
        from mesh.store.memory import MemoryStore  # noqa: PLC0415

        return MemoryStore(region)
    if scheme == "memory":
        from mesh.store.served import ServedStore  # noqa: PLC0415

        return ServedStore(_socket_path(uri), region)
    raise ConfigError("not a store", field="uri", hint=_HINT)


def _socket_path(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.netloc or not parts.path.startswith("/"):
        raise ConfigError("memory:// needs an absolute path, so three slashes", field="uri", hint=_HINT)
    return parts.path
