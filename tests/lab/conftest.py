"""What tests on hosts share: one lab for the session, and the journals of its hosts when a test failed."""

import os
from collections.abc import Iterator

import pytest
from nspawn_lab import lifecycle
from nspawn_lab.layout import ROOT

from tests.lab.deployed import Deployed, deploy
from tests.lab.figures import lines
from tests.lab.testbed import Testbed, layout_of

#: Seconds for a test; the first one also waits for the image to be built.
TIMEOUT = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory, and give it time for playbooks."""
    for item in items:
        if item.path.is_relative_to(ROOT / "tests/lab"):
            item.add_marker(pytest.mark.lab)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Show what the hosts wrote when a test failed."""
    report = yield
    values = getattr(item, "funcargs", {}).values()
    testbeds = [v.bed if isinstance(v, Deployed) else v for v in values if isinstance(v, Testbed | Deployed)]
    if report.failed and testbeds:
        for host in testbeds[0].hosts:
            report.sections.append((f"journal of {host}", testbeds[0].journal(host)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    if lines():
        terminalreporter.section("figures of the lab")
        for line in lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def able() -> None:
    """Skip on a machine that cannot run a lab, with the reason; fail in CI."""
    if reason := lifecycle.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def lab(able: None) -> Iterator[Testbed]:
    """Run the hosts of inventory/lab.yml, bare at first; tests leave them running."""
    testbed = Testbed(layout_of(ROOT))
    testbed.down()
    try:
        testbed.up()
        yield testbed
    finally:
        left = testbed.down()
    assert left == []


@pytest.fixture
def bare_lab(lab: Testbed) -> Testbed:
    """Return the lab with hosts that nothing was ever done to."""
    lab.renew()
    return lab


@pytest.fixture(scope="session")
def deployed(able: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Deploy the mesh to a lab of its own, once, with the places of the United States."""
    bed = Testbed(layout_of(ROOT, "deploy"))
    try:
        yield deploy(bed, tmp_path_factory.mktemp("deployed"))
    finally:
        left = [] if os.environ.get("MESH_KEEP_LAB") == "1" else bed.down()
    assert left == []


@pytest.fixture
def calm(deployed: Deployed) -> Deployed:
    """Return the mesh as it was when it had just been deployed, for a test that leaves it so."""
    deployed.renew()
    return deployed


@pytest.fixture
def mesh(calm: Deployed) -> Deployed:
    """Return the mesh as it was when it had just been deployed, for a test that changes it."""
    calm.fresh = False
    return calm
