"""Running programs beside the guests, in the control namespace: playbooks, clients, ssh."""

import os
from pathlib import Path

from nspawn_lab import network
from nspawn_lab.layout import INVENTORY, ROOT, LabError, Layout
from nspawn_lab.processes import run

WHEELHOUSE = ROOT / "scripts/wheelhouse"
SECRETS = ROOT / "scripts/secrets"
PYTHON = ROOT / ".venv/bin/python"
PLAYBOOK = ROOT / ".venv/bin/ansible-playbook"


def command(lab: Layout, words: list[str], inventory: Path = INVENTORY) -> tuple[list[str], dict[str, str]]:
    """Return how to run a program in the control namespace: its words and its environment.

    Ansible finds the lab's inventory without being told, and beside it the lab's own secrets. Names and ssh come from
    /etc/netns, by `ip netns exec`.
    """
    network.identity(lab.control)
    environment = dict(os.environ)
    environment["PATH"] = f"{ROOT / '.venv/bin'}:{environment.get('PATH', os.defpath)}"
    environment["ANSIBLE_INVENTORY"] = f"{inventory.resolve()},{_secrets(lab)}"
    # Another lab's hosts have the same addresses: an ssh connection left open to those must not be found by this one.
    environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(lab.run / "ssh/open")
    environment["MESH_LAB"] = lab.name
    return ["ip", "netns", "exec", lab.control, *words], environment


def make_secrets(lab: Layout) -> None:
    """Make passwords and a CA for this lab, once, where Ansible looks for them after the inventory's own."""
    vault = _secrets(lab) / "group_vars/all/vault.yml"
    vault.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Ansible takes a directory for an inventory only if there is one in it.
    (_secrets(lab) / "none.yml").write_text("all: {}\n", encoding="ascii")
    if SECRETS.exists() and PLAYBOOK.exists() and not vault.exists():
        run(PYTHON, SECRETS, "init", "--out", vault)


def prepare_playbook(lab: Layout) -> None:
    """See that a playbook has what it cannot get in the control namespace: Ansible itself, secrets, wheels."""
    if not (ROOT / "ansible/site.yml").exists():
        raise LabError("there is no ansible/site.yml to deploy")
    if not PLAYBOOK.exists():
        raise LabError("there is no Ansible in .venv: run `make .venv/.dev`, or .venv/bin/pip install -e '.[deploy]'")
    network.identity(lab.control)
    make_secrets(lab)
    if WHEELHOUSE.exists():
        run(PYTHON, WHEELHOUSE)


def _secrets(lab: Layout) -> Path:
    return lab.run / "inventory"
