"""What several files here share: a mongod with accounts, keyfile and TLS, provisioned once."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from secured import Authority, Secured


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Return a CA."""
    return Authority()


@pytest.fixture(scope="session")
def secured(mongod: object, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Run a shard as a deployment makes it; *mongod* is asked for only so that what it needs is there."""
    running = Secured(tmp_path_factory.mktemp("secured"), authority)
    try:
        running.provision()
        yield running
    finally:
        running.stop()
