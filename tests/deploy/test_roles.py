"""What holds for every role and playbook, without a host."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.load import ANSIBLE, ROLES, ROOT

PLAYBOOKS = sorted(path.name for path in ANSIBLE.glob("*.yml"))
# In ansible-core 2.19, a task's variables are read from the files that Ansible finds, so it has to be run to know.
ENVIRONMENT = os.environ | {"ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def specs(role: str) -> dict[str, Any]:
    found: dict[str, Any] = read(ANSIBLE / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    return found


def playbook(*arguments: str, text: str = "", directory: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run ansible-playbook in ansible/, on a playbook of ours or on *text*."""
    words = [str(Path(sys.executable).with_name("ansible-playbook")), *arguments]
    if text:
        assert directory
        (directory / "play.yml").write_text(text)
        words.append(str(directory / "play.yml"))
    environment = ENVIRONMENT | {"ANSIBLE_HOME": str(directory)} if directory else ENVIRONMENT
    return subprocess.run(
        words, cwd=ANSIBLE, env=environment, capture_output=True, text=True, check=False, timeout=50,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


# -- contracts of roles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_specs_are_the_defaults(role: str) -> None:
    """What may be set is what has a default, and the spec says the same value; what has none is required."""
    defaults = read(ANSIBLE / "roles" / role / "defaults/main.yml")
    options = specs(role)["main"]["options"]
    stated = {name: option["default"] for name, option in options.items() if "default" in option}
    assert stated == defaults
    for name in options.keys() - defaults.keys():
        assert options[name].get("required") or "no default" in str(options[name]["description"]), name


@pytest.mark.parametrize("role", ROLES)
def test_specs_explain_every_option_and_hold_for_preflight(role: str) -> None:
    """A wrong value is refused where nothing was touched yet, so preflight takes the same options."""
    assert specs(role)["preflight"]["options"] == specs(role)["main"]["options"]
    for name, option in specs(role)["main"]["options"].items():
        assert {"type", "description"} <= option.keys(), name
        assert re.fullmatch(r"[a-z_]+", name), "a name with anything else names no variable, and validates nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "variable", "value"),
    [
        ("base", "base_disk_free_mb", "much"),
        ("firewall", "firewall_ssh_port", "ssh"),
        ("mesh", "mesh_port", "front"),
        ("mesh_services", "mesh_workers_count", "some"),
        ("mongodb", "mongodb_port", "x"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_done(tmp_path: Path, role: str, variable: str, value: str) -> None:
    """A spec that checks nothing looks like one that does; so each refuses something."""
    text = f"""
- hosts: mesh
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: {role}
        tasks_from: preflight
"""
    values = {"mesh_region": "ne", "mesh_address": "10.0.0.1", variable: value}
    groups = {"mesh": {"children": {"mesh_brokers": {"hosts": {"localhost": values}}}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups))
    done = playbook("-i", str(tmp_path / "hosts.yml"), text=text, directory=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"argument '{variable}'" in done.stdout.replace('"', "'")
    assert "changed=0" in done.stdout


# -- form --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(PLAYBOOKS) - {"roll.yml"}))
def test_playbooks_are_understood(tmp_path: Path, name: str) -> None:
    """By Ansible, with both inventories."""
    for inventory in ("hosts.yml", "lab.yml"):
        done = playbook("--syntax-check", "-i", f"../inventory/{inventory}", name, directory=tmp_path)
        assert done.returncode == 0, done.stderr


def test_nothing_is_too_long() -> None:
    """A task file has 120 lines at most, a playbook 80."""
    long = [path for path in ANSIBLE.glob("roles/*/tasks/*.yml") if len(path.read_text().splitlines()) > 120]
    long += [path for path in ANSIBLE.glob("*.yml") if len(path.read_text().splitlines()) > 80]
    assert long == []


def test_every_role_has_what_a_role_has() -> None:
    """A README for people, and the lists that Ansible and ansible-lint read."""
    for role in ROLES:
        for part in (
            "README.md",
            "defaults/main.yml",
            "meta/main.yml",
            "meta/argument_specs.yml",
            "tasks/preflight.yml",
        ):
            assert (ANSIBLE / "roles" / role / part).exists(), f"{role}/{part}"


def tasks_of(path: Path) -> list[dict[str, Any]]:
    def flat(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        inner = [task for each in tasks for key in ("block", "rescue", "always") for task in each.get(key, [])]
        return tasks + flat(inner) if inner else tasks

    return flat(read(path) or [])


def test_no_change_depends_on_a_handler() -> None:
    """The trap: a handler that failed, or never ran, is not run again; so there are none at all."""
    assert list(ANSIBLE.glob("roles/*/handlers")) == []
    notifying = [path for path in ANSIBLE.glob("roles/*/tasks/*.yml") for task in tasks_of(path) if "notify" in task]
    assert notifying == []


def test_files_with_secrets_show_neither_content_nor_difference() -> None:
    """The trap: --diff prints what a template or a file holds, unless it is told not to; -vvv prints arguments."""
    for path in ANSIBLE.glob("roles/*/tasks/*.yml"):
        for task in tasks_of(path):
            if re.search(r"_secret_files|_password\b|keyfile", json.dumps(task.get("mesh_files", {}))):
                assert task["no_log"] is True, task["name"]
                assert task["diff"] is False, task["name"]


def test_nobody_flushes_the_rules_of_others() -> None:
    """The trap: the firewall has other owners, and Debian's nftables.conf begins with `flush ruleset`."""
    for path in [*ANSIBLE.glob("roles/*/tasks/*.yml"), ROOT / "templates/mesh.nft.j2"]:
        text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
        assert "flush" not in text, path
        for task in tasks_of(path) if path.suffix == ".yml" else []:
            service = task.get("ansible.builtin.systemd_service", {})
            assert not (service.get("name") == "nftables.service" and "state" in service), path


def test_systemctl_patterns_are_not_given_to_the_module() -> None:
    """The trap: systemd_service takes no patterns."""
    for path in ANSIBLE.glob("roles/*/tasks/*.yml"):
        for task in tasks_of(path):
            assert "*" not in str(task.get("ansible.builtin.systemd_service", {}).get("name", "")), path


def test_a_rollout_stops_at_the_first_failure() -> None:
    """The trap: max_fail_percentage has to be exceeded, so only 0 means the first."""
    [play] = read(ANSIBLE / "roll.yml")
    assert (play["serial"], play["max_fail_percentage"], play["any_errors_fatal"]) == (1, 0, True)


@pytest.mark.parametrize("path", ["base/files/probe.py", "mongodb/files/probe.py"])
def test_probes_run_on_a_host_that_is_then_refused(path: str) -> None:
    """With a Python that is too old for anything else, they still have to say so."""
    ast.parse((ANSIBLE / "roles" / path).read_text(), feature_version=(3, 7))


# -- inventory ---------------------------------------------------------------------------------------------------------


def test_every_secret_of_the_inventory_is_in_the_example() -> None:
    """The example is read, too: a secret that vault.yml lacks is CHANGE-ME there, and is refused by its name."""
    directory = ROOT / "inventory/group_vars/all"
    example = read(directory / "vault.example.yml")
    used = set(re.findall(r"\bvault_\w+", (directory / "main.yml").read_text())) - {"vault_"}
    assert used == set(example)
    assert set(example.values()) == {"CHANGE-ME"}


def test_no_secret_stands_outside_the_vault() -> None:
    """group_vars map names, and nothing else in the inventory mentions a vault_ variable."""
    for path in (ROOT / "inventory").rglob("*.yml"):
        if path.name not in {"main.yml", "vault.example.yml", "vault.yml"}:
            assert "vault_" not in path.read_text(), path
