"""Running programs beside the guests, in the control namespace: playbooks, clients, ssh."""

import os
import subprocess
from pathlib import Path

from nspawn_lab import network
from nspawn_lab.layout import INVENTORY, ROOT, LabError, Layout

WHEELHOUSE = ROOT / "scripts/wheelhouse"


def command(lab: Layout, words: list[str], inventory: Path = INVENTORY) -> tuple[list[str], dict[str, str]]:
    """Return how to run a program in the control namespace: its words and its environment.

    Ansible finds the lab's inventory without being told. Names and ssh come from /etc/netns, by `ip netns exec`.
    """
    network.identity(lab.control)
    environment = dict(os.environ)
    environment["PATH"] = f"{ROOT / '.venv/bin'}:{environment.get('PATH', os.defpath)}"
    environment["ANSIBLE_INVENTORY"] = f"{inventory.resolve()}"
    # Another lab's hosts have the same addresses: an ssh connection left open to those must not be found by this one.
    environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(lab.run / "ssh/open")
    environment["MESH_LAB"] = lab.name
    return ["ip", "netns", "exec", lab.control, *words], environment


def prepare_playbook() -> None:
    """See that a playbook has what it needs from outside, since it runs where there is no internet: Ansible, wheels."""
    if not (ROOT / "ansible/site.yml").exists():
        raise LabError("there is no ansible/site.yml to deploy")
    if not (ROOT / ".venv/bin/ansible-playbook").exists():
        raise LabError("there is no Ansible in .venv: run `make .venv/.dev`, or .venv/bin/pip install -e '.[deploy]'")
    if WHEELHOUSE.exists() and (code := subprocess.run([str(WHEELHOUSE)], cwd=ROOT, check=False).returncode):
        raise LabError(f"scripts/wheelhouse left with {code}; the hosts need its wheels")
