"""templates/*.service, .socket, .target, .slice: they say what was meant, and systemd itself thinks well of them."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest

from mesh.local.layout import render

VARIABLES: dict[str, Any] = {
    "mesh_home": "/opt/mesh",
    "mesh_user": "mesh",
    "mesh_address": "10.77.0.11",
    "mesh_port": 5570,
    "mesh_watchdog_seconds": 10,
    "mesh_broker_memory_max": "1G",
    "mesh_worker_memory_max": "1500M",
    "mesh_shards": {
        "ne": {"uri": "mongodb://10.77.0.11:27017/", "password_credential": "shard.ne.password"},
        "sw": {"uri": "mongodb://10.77.0.14:27017/", "password_credential": "shard.sw.password"},
        "ca": {"uri": "memory:"},
    },
}
SERVICES = ("mesh-broker.service", "mesh-worker@.service")
UNITS = (*SERVICES, "mesh-broker.socket", "mesh.target", "mesh.slice")
#: What systemd-analyze security may say at most, times ten.
WORST_SCORE = 15


def unit(name: str, **changes: Any) -> str:
    return render(VARIABLES | changes, f"{name}.j2")


def settings(text: str) -> list[tuple[str, str]]:
    """Return the settings of a unit in order; a setting may stand more than once."""
    joined = text.replace("\\\n", "")
    pairs = (line.partition("=") for line in joined.splitlines() if "=" in line and not line.startswith("#"))
    return [(key, value) for key, _, value in pairs]


def values(name: str, key: str, **changes: Any) -> list[str]:
    return [value for found, value in settings(unit(name, **changes)) if found == key]


def analyze(*arguments: object, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; without it, skip on a laptop with the reason, and fail in CI."""
    if shutil.which("systemd-analyze") is None and os.environ.get("CI") != "true":
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{directory}:"},
    )  # fmt: skip


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a directory with all units, whose programs exist."""
    programs = tmp_path / "opt" / "current" / "venv" / "bin"
    programs.mkdir(parents=True)
    for program in ("mesh-broker", "mesh-worker"):
        (programs / program).write_text("#!/bin/sh\n")
        (programs / program).chmod(0o755)
    units = tmp_path / "units"
    units.mkdir()
    for name in UNITS:
        # An account that every system has, since systemd looks it up.
        (units / name).write_text(unit(name, mesh_home=str(tmp_path / "opt"), mesh_user="daemon"))
    return units


# -- what systemd says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_every_line(installed: Path, name: str) -> None:
    """No unknown setting, no missing program, no dangling dependency: not one word of complaint about our units."""
    path = installed / name.replace("@.", "@1.")
    if not path.exists():
        path.symlink_to(installed / name)
    done = analyze("verify", "--man=no", path, directory=installed)
    ours = [line for line in done.stderr.splitlines() if "mesh" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_hardened(installed: Path, name: str) -> None:
    """The score is 1.5 or better (a plain unit has 9.6)."""
    path = installed / name.replace("@.", "@1.")
    if not path.exists():
        path.symlink_to(installed / name)
    done = analyze("security", "--offline=true", f"--threshold={WORST_SCORE}", "--no-pager", path, directory=installed)
    assert done.returncode == 0, done.stdout + done.stderr


# -- what was meant ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_what_libzmq_needs_is_allowed(name: str) -> None:
    """Without AF_NETLINK it aborts at its first bind, without sched_setscheduler at its first socket; order counts."""
    assert "AF_NETLINK" in values(name, "RestrictAddressFamilies")[0].split()
    assert values(name, "SystemCallFilter") == ["@system-service", "~@privileged @resources", "sched_setscheduler"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_comes_back_unless_its_configuration_is_wrong(name: str) -> None:
    expected = {
        "Type": "notify", "Restart": "always", "RestartSec": "1", "StartLimitIntervalSec": "0",
        "RestartPreventExitStatus": "78", "KillMode": "mixed", "WatchdogSec": "10", "PartOf": "mesh.target",
        "WantedBy": "mesh.target", "Slice": "mesh.slice",
    }  # fmt: skip
    assert expected.items() <= dict(settings(unit(name))).items()


@pytest.mark.parametrize("name", SERVICES)
def test_a_drain_ends_before_systemd_loses_patience(name: str) -> None:
    """The default grace is 10 s, and closing the sockets takes up to one more."""
    assert int(values(name, "TimeoutStopSec")[0]) >= 20


def test_workers_outlive_their_broker() -> None:
    """Any stronger bond would stop them with it."""
    assert "mesh-broker.service" in values("mesh-worker@.service", "Wants")[0].split()
    assert "mesh-broker.service" in values("mesh-worker@.service", "After")[0].split()
    text = unit("mesh-worker@.service")
    assert not re.search(r"^(Requires|BindsTo|Requisite|Upholds|ConsistsOf)=", text, re.MULTILINE)


def test_both_services_are_hardened_alike() -> None:
    """The templates repeat these lines, for a template that includes another is hard to render elsewhere."""
    first, second = (unit(name).partition("# A test keeps")[2].partition("[Install]")[0] for name in SERVICES)
    assert first == second
    assert "ProtectSystem=strict" in first


def test_secrets_come_as_credentials_and_only_to_workers() -> None:
    """One for each shard that has one, none of them to the broker, which has no account anywhere."""
    mark = "fingerprint:/etc/mesh/credentials/fingerprint"
    assert values("mesh-broker.service", "LoadCredential") == [mark]
    assert values("mesh-worker@.service", "LoadCredential") == [
        mark,
        "shard.ne.password:/etc/mesh/credentials/shard.ne.password",
        "shard.sw.password:/etc/mesh/credentials/shard.sw.password",
    ]


def test_programs_are_the_console_scripts_of_the_current_release() -> None:
    """Run as `python -m`, a process would load modules of the next release as soon as `current` points to it."""
    home = "/opt/mesh/current"
    assert values("mesh-broker.service", "ExecStart") == [f"{home}/venv/bin/mesh-broker --config {home}/mesh.toml"]
    (worker,) = values("mesh-worker@.service", "ExecStart")
    assert worker.split() == f"{home}/venv/bin/mesh-worker --config {home}/mesh.toml --instance %i".split()


def test_the_socket_has_the_name_the_broker_looks_for() -> None:
    assert values("mesh-broker.socket", "FileDescriptorName") == ["front"]
    assert values("mesh-broker.socket", "ListenStream") == ["10.77.0.11:5570"]
    assert values("mesh-broker.socket", "ListenStream", mesh_address="fd00::11") == ["[fd00::11]:5570"]


def test_a_wrong_configuration_takes_the_socket_along() -> None:
    """Or each connection that waits in it would start the broker again, whatever RestartPreventExitStatus says."""
    (command,) = values("mesh-broker.service", "ExecStopPost")
    assert command.startswith("+/bin/sh -c ")
    assert '"$$EXIT_STATUS" != 78 ||' in command


# -- hostile values ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "a b",
    "a\nUser=root",
    "a\\",
    "%h",
    "$HOME",
    '"',
    "'",
    ";",
    "#",
    "a=b",
    "é",
    "\x7f",
    "",
    "a\x00",
    "/opt/{{ x }}",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mesh-broker.service", "mesh_home"),
        ("mesh-broker.service", "mesh_user"),
        ("mesh-broker.service", "mesh_watchdog_seconds"),
        ("mesh-broker.service", "mesh_broker_memory_max"),
        ("mesh-worker@.service", "mesh_home"),
        ("mesh-worker@.service", "mesh_user"),
        ("mesh-worker@.service", "mesh_watchdog_seconds"),
        ("mesh-worker@.service", "mesh_worker_memory_max"),
        ("mesh-broker.socket", "mesh_address"),
        ("mesh-broker.socket", "mesh_port"),
    ],
)
def test_a_value_that_could_be_more_than_a_word_is_refused(name: str, key: str, value: str) -> None:
    """By name, while the file is written, not by what systemd makes of it later."""
    with pytest.raises(jinja2.UndefinedError, match=f"{key} may only have"):
        unit(name, **{key: value})


@pytest.mark.parametrize("value", [value for value in HOSTILE if value])
def test_a_hostile_credential_is_refused(value: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match="password_credential may only have"):
        unit("mesh-worker@.service", mesh_shards={"ne": {"uri": "x", "password_credential": value}})


@pytest.mark.parametrize("name", [*SERVICES, "mesh-broker.socket"])
def test_a_forgotten_variable_is_an_error(name: str) -> None:
    """And never an empty setting."""
    for key in VARIABLES:
        if key in jinja2.Environment().from_string(unit(name)).render() or key not in _used_by(name):
            continue
        rest = {other: value for other, value in VARIABLES.items() if other != key}
        with pytest.raises(jinja2.UndefinedError):
            render(rest, f"{name}.j2")


def _used_by(name: str) -> str:
    from mesh.config.load import shipped  # noqa: PLC0415

    return shipped(f"templates/{name}.j2").read_text()
