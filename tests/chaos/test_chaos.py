"""A short run of the real thing: a whole mesh, broken again and again, keeps its promises."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ConfigError
from mesh.store.mongod import find_mongod
from tests.chaos.hosts import unshare
from tests.system.meshes import free_ports

CI = os.environ.get("CI") == "true"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def able() -> None:
    """Without a mongod, skip on a laptop with the reason, and fail in CI; there network and disks must break, too."""
    try:
        find_mongod()
    except ConfigError as error:
        if CI:
            raise
        pytest.skip(str(error))
    assert unshare() or not CI, "root, unshare, nsenter, ip, mount and /dev/net/tun are needed"


def chaos(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the harness; return its exit code, its report and what it showed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--json", "--base-port", str(free_ports(15)), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.mongo
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("able")
def test_nothing_acknowledged_is_lost_whatever_dies():
    """Half a minute of faults, processes and network: no promise is broken, and nobody is stuck.

    Rates and times are no part of this: a machine that tests something else at the same time has its own.
    """
    code, told, shown = chaos("--minutes", "0.5", "--rate", "60", "--seed", "4", "--workers", "1")

    assert (code, told["good"]) == (0, True), shown
    assert len(told["schedule"]) >= 4
    assert told["checked"]["acknowledged"] > 100
    assert told["requests"]["all"]["asked"] > 1700
    if unshare():
        assert told["lacking"].keys() <= {"clock step"}, "a compiler is not everywhere"
    assert not Path(told["directory"]).exists()
