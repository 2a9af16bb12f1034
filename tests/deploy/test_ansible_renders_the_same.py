"""mesh-local and Ansible render one template; what they write must not differ by a byte."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.config.load import shipped
from mesh.local.layout import render

pytestmark = pytest.mark.slow

HOSTILE = "q\"b\\n\n\r\t\x07\x7f '''# <&> K\u00f6ln \u6771\u4eac \U0001f30d ]\n[mesh]"
VARIABLES = {
    "mesh_region": "ne",
    "mesh_region_map": HOSTILE,
    "mesh_release": "1.2.3-0123456789ab",
    "mesh_broker_listen": "tcp://10.77.0.11:5570",
    "mesh_broker_workers": "ipc:///run/mesh/workers",
    "mesh_broker_workers_tcp": "tcp://10.77.0.11:5571",
    "mesh_broker_options": {"queue": 7, "grace": 1.5, HOSTILE: [True, HOSTILE]},
    "mesh_worker_slots": 2,
    "mesh_peers": {"sw": {"endpoint": "tcp://10.77.0.14:5570"}, HOSTILE: {"endpoint": HOSTILE}},
}
SHARDS = {
    "ne": {"uri": HOSTILE, "username": HOSTILE, "password_credential": "shard.ne.password", "ca_file": "/ca.pem"},
    "sw": {"uri": "mongodb://10.77.0.14/", "database": HOSTILE, "username": ""},
}
PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Render
      ansible.builtin.template:
        src: "{{ templates }}/{{ item }}.j2"
        dest: "{{ to }}/{{ item }}"
        mode: "0600"
      loop: "{{ names }}"
"""
UNITS = ("mesh-broker.service", "mesh-worker@.service", "mesh-broker.socket", "mesh.target", "mesh.slice")
UNIT_VARIABLES = {
    "mesh_home": "/opt/mesh",
    "mesh_user": "mesh",
    "mesh_address": "fd00::11",
    "mesh_port": 5570,
    "mesh_watchdog_seconds": 10,
    "mesh_broker_memory_max": "1G",
    "mesh_worker_memory_max": "1500M",
}


def ansible(directory: Path, names: tuple[str, ...], variables: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Render templates with ansible-playbook; without it, skip on a laptop with the reason, and fail in CI."""
    program = shutil.which("ansible-playbook", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None and os.environ.get("CI") != "true":
        pytest.skip("ansible-playbook is not installed")
    assert program
    (directory / "play.yml").write_text(PLAYBOOK)
    extra = {**variables, "names": names, "templates": str(shipped("templates")), "to": str(directory)}
    (directory / "variables.json").write_text(json.dumps(extra))
    return subprocess.run(
        [program, "-i", "localhost,", "-e", f"@{directory}/variables.json", directory / "play.yml"],
        capture_output=True, text=True, timeout=50, check=False,
        env=os.environ | {"ANSIBLE_PYTHON_INTERPRETER": sys.executable, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def test_ansible_writes_the_same_bytes(tmp_path: Path) -> None:
    """With Ansible's own defaults for templates, and values that try to break out of the file."""
    variables = {**VARIABLES, **UNIT_VARIABLES}
    names = ("mesh.toml", *UNITS)
    done = ansible(tmp_path, names, variables | {"mesh_shards": SHARDS})
    assert done.returncode == 0, done.stdout + done.stderr
    for name in names:
        assert (tmp_path / name).read_bytes().decode() == render(variables | {"mesh_shards": SHARDS}, f"{name}.j2")


def test_ansible_refuses_the_same_values(tmp_path: Path) -> None:
    """The role fails and names the variable; nothing is written."""
    variables = {**VARIABLES, **UNIT_VARIABLES, "mesh_shards": SHARDS, "mesh_user": "mesh\nAmbientCapabilities=~"}
    done = ansible(tmp_path, ("mesh-broker.service",), variables)
    assert done.returncode != 0
    assert "mesh_user may only have letters" in done.stdout + done.stderr
    assert not (tmp_path / "mesh-broker.service").exists()
