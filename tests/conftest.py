"""What several test directories share: one real mongod for the whole session."""

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A shell that starts CI in the background has SIGINT ignored, and all children inherit that: Ctrl-C tests would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A shared machine is slow at times; how long an example takes is no property of the code.
hypothesis.settings.register_profile(
    "mesh", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("mesh")
pytest.register_assert_rewrite("mesh.testing.store_contract")

from mesh.errors import ConfigError  # noqa: E402 - after the registration above
from mesh.store.mongo import MongoStore  # noqa: E402
from mesh.store.mongod import Mongod, find_mongod  # noqa: E402


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """Run a mongod; without one, skip on a laptop with the reason, and fail in CI."""
    try:
        find_mongod()
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    running = Mongod(tmp_path_factory.mktemp("mongod"))
    try:
        yield running.wait()
    finally:
        running.kill()  # nobody needs its data, so nobody waits for it to be tidy


@pytest.fixture(scope="session")
def shared_mongo_store(mongod: Mongod) -> Iterator[MongoStore]:
    """Keep one connected store of the region NE, since creating its indexes takes a second; use `mongo_store`."""
    store = MongoStore(mongod.uri, "NE", f"test_{uuid.uuid4().hex[:8]}")
    store.ensure_indexes()
    yield store
    store.close()


@pytest.fixture
def mongo_store(shared_mongo_store: MongoStore) -> MongoStore:
    """Return an empty store in the session's mongod."""
    shared_mongo_store._collection().delete_many({})
    return shared_mongo_store


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a path for a unix socket that fits into 108 bytes."""
    return tmp_path_factory.mktemp("s") / "s"
