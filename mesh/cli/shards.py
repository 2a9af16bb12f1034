"""From a shard's table in mesh.toml to its store, with the secret from where secrets are."""

from pathlib import Path

from mesh.config.schema import Config
from mesh.errors import ConfigError
from mesh.service import credentials
from mesh.store.access import ANYBODY, Access
from mesh.store.base import Store
from mesh.store.open import open_store


def open_shard(config: Config, file: str | Path, region: str, *, secrets: bool = True) -> Store:
    """Return the store of a region; it connects when first used. `ConfigError` names what is missing for it.

    Without *secrets* it cannot be asked anything that needs an account.
    """
    shard = config.shards.get(region)
    if shard is None:
        known = ", ".join(config.shards) or "none"
        raise ConfigError(f"no shard for region {region}", file=str(file), field="shards", hint=f"there are: {known}")
    account = access(config, file, region) if secrets else ANYBODY
    return open_store(shard.uri, region, shard.database, account)


def access(config: Config, file: str | Path, region: str, *, secrets: bool = True) -> Access:
    """Return as whom a region's shard is asked; without *secrets*, as nobody, but over the same kind of connection."""
    shard = config.shards[region]
    ca_file = str(Path(file).resolve().parent / shard.ca_file) if shard.ca_file else ""
    if not secrets:
        return Access(ca_file=ca_file)
    password = credentials.read(shard.password_credential) if shard.password_credential else ""
    return Access(shard.username, password, ca_file)
