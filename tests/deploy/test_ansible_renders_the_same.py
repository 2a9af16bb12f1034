"""mesh-local and Ansible render one template; what they write must not differ by a byte."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
    "mesh_shards": {
        "ne": {"uri": HOSTILE, "username": HOSTILE, "password_credential": "shard.ne.password", "ca_file": "/ca.pem"},
        "sw": {"uri": "mongodb://10.77.0.14/", "database": HOSTILE, "username": ""},
    },
}
PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Render
      ansible.builtin.template:
        src: "{{ template }}"
        dest: "{{ to }}"
        mode: "0600"
"""


def ansible(*arguments: str) -> None:
    """Run ansible-playbook; without it, skip on a laptop with the reason, and fail in CI."""
    program = shutil.which("ansible-playbook", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None and os.environ.get("CI") != "true":
        pytest.skip("ansible-playbook is not installed")
    assert program
    done = subprocess.run(
        [program, "-i", "localhost,", *arguments], capture_output=True, text=True, timeout=50, check=False,
        env=os.environ | {"ANSIBLE_PYTHON_INTERPRETER": sys.executable, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_ansible_writes_the_same_bytes(tmp_path: Path) -> None:
    """With Ansible's own defaults for templates, and values that try to break out of the file."""
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    extra = {**VARIABLES, "template": str(shipped("templates/mesh.toml.j2")), "to": str(tmp_path / "mesh.toml")}
    (tmp_path / "variables.json").write_text(json.dumps(extra))
    ansible("-e", f"@{tmp_path}/variables.json", str(tmp_path / "play.yml"))
    assert (tmp_path / "mesh.toml").read_bytes().decode() == render(VARIABLES)
