"""What the tests of whole meshes share: one real mesh for the session, and the logs of those whose test failed."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.local.layout import REGIONS, Options
from mesh.local.running import LocalMesh
from mesh.store.mongod import find_mongod
from tests.system.meshes import SmallMesh, free_ports


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Show the logs of the meshes that a failed test used."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, SmallMesh):
                report.sections.append(("logs of the mesh", value.logs()))
            elif isinstance(value, LocalMesh) and value.layout.directory.exists():
                logs = sorted(value.layout.directory.glob("*.log"))
                tails = (f"--- {log.name}\n{log.read_text(errors='replace')[-1000:]}" for log in logs)
                report.sections.append(("logs of the mesh", "\n".join(tails)))
    return report


@pytest.fixture(scope="session")
def real_mongod() -> None:
    """Without a mongod, skip on a laptop with the reason, and fail in CI."""
    try:
        find_mongod()
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def mesh(real_mongod: None) -> Iterator[LocalMesh]:
    """Run a mesh of five regions, two workers and a real mongod each, empty; tests leave it as they find it."""
    options = Options(base_port=free_ports(len(REGIONS)), store="mongo", load="none")
    with LocalMesh(options, print) as running:
        running.start()
        yield running


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory whose unix sockets have paths short enough for the kernel."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as path:
        yield Path(path)
