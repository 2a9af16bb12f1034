"""The role `mongodb` without a host: what its templates write, what it refuses, what it advises; defaults and specs."""

import datetime as dt
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parent.parent.parent
ROLE = ROOT / "ansible/roles/mongodb"
HOSTILE = [
    'a"b',
    "a\\b",
    "two\nlines",
    "k: v",
    "{x}",
    "[x]",
    "# no",
    "'",
    "東京",
    "- x",
    "&a *a",
    "%TAG",
    "\t",
    "~",
    "yes",
]


def _plugin() -> Any:
    spec = importlib.util.spec_from_file_location("mongodb_filters", ROOT / "ansible/filter_plugins/mongodb.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


filters = _plugin()


def _render(name: str, **changes: Any) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    given = {
        "mesh_address": "10.77.0.11", "mesh_region": "ne", "mongodb_port": 27017, "mongodb_replica_set": "",
        "mongodb_data_directory": "/var/lib/mongodb", "mongodb_configuration_directory": "/etc/mongodb",
        "mongodb_cache_gb": 1, "mongodb_memory_max": "2560M", "mongodb_oplog_mb": 0, "mongodb_parameters": {},
        "mongodb_version": "8.0", "mongodb_repository_url": "https://repo.mongodb.org/apt/debian",
    }  # fmt: skip
    return environment.from_string((ROOT / "templates" / name).read_text()).render(given | changes)


# -- templates ---------------------------------------------------------------------------------------------------------


def test_the_configuration_is_closed_from_the_first_start() -> None:
    """Accounts, keyfile, TLS and no way past them; on loopback and the mesh address only; named after the region."""
    written = yaml.safe_load(_render("mongod.conf.j2"))
    assert written["security"] == {
        "authorization": "enabled",
        "keyFile": "/etc/mongodb/keyfile",
        "javascriptEnabled": False,
    }
    assert written["setParameter"]["enableLocalhostAuthBypass"] is False
    assert written["setParameter"]["authenticationMechanisms"] == "SCRAM-SHA-256"
    assert written["net"]["bindIp"] == "127.0.0.1,10.77.0.11"
    assert "ipv6" not in written["net"]
    assert written["net"]["tls"]["mode"] == "requireTLS"
    assert written["replication"] == {"replSetName": "ne"}
    assert "processManagement" not in written, "systemd forks, mongod does not"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_stay_values(text: str) -> None:
    """No text can add a key or take one away."""
    plain = yaml.safe_load(_render("mongod.conf.j2"))
    written = yaml.safe_load(
        _render("mongod.conf.j2", mongodb_replica_set=text, mongodb_data_directory=text, mesh_address=text,
                mongodb_configuration_directory=text, mongodb_parameters={text: text})
    )  # fmt: skip
    assert written["replication"]["replSetName"] == written["storage"]["dbPath"] == text
    assert written["net"]["bindIp"] == f"127.0.0.1,{text}"
    assert written["security"]["keyFile"] == f"{text}/keyfile"
    assert written["setParameter"].pop(text) == text
    assert written["setParameter"] == plain["setParameter"]
    assert set(written) == set(plain)


def test_an_ipv6_address_is_listened_on() -> None:
    """Mongod does so only when told."""
    written = yaml.safe_load(_render("mongod.conf.j2", mesh_address="fd00::11"))
    assert (written["net"]["bindIp"], written["net"]["ipv6"]) == ("127.0.0.1,fd00::11", True)


def test_what_is_set_is_written() -> None:
    """Each variable ends up where MongoDB reads it."""
    written = yaml.safe_load(
        _render("mongod.conf.j2", mongodb_cache_gb="2.5", mongodb_oplog_mb=1000, mongodb_replica_set="other",
                mongodb_port=27018, mongodb_parameters={"diagnosticDataCollectionEnabled": False})
    )  # fmt: skip
    assert written["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"] == 2.5
    assert written["replication"] == {"replSetName": "other", "oplogSizeMB": 1000}
    assert written["net"]["port"] == 27018
    assert written["setParameter"]["diagnosticDataCollectionEnabled"] is False


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_unit_with_its_drop_in_is_what_systemd_takes(tmp_path: Path) -> None:
    """systemd-analyze finds nothing to say; the process is started again, and counts as started when it listens."""
    unit = tmp_path / "mongod.service"
    vendor = "[Unit]\nDescription=m\n[Service]\nExecStart=/bin/true --config /etc/mongod.conf\n"
    unit.write_text(vendor)
    drop_in = tmp_path / "mongod.service.d"
    drop_in.mkdir()
    text = _render("mongod.service.d.conf.j2")
    (drop_in / "10-mesh.conf").write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "mongod" in line]
    assert ours == []
    assert {"Restart=on-failure", "MemoryMax=2560M", "TimeoutStartSec=infinity"} <= set(text.splitlines())


# -- what is refused ---------------------------------------------------------------------------------------------------


def _authority(days: int = 3650) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = (
        builder.not_valid_before(now).not_valid_after(now + dt.timedelta(days=days)).sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), key.private_bytes(*form).decode()


CERTIFICATE, KEY = _authority()
FOUND = {
    "version": "", "kernel": "6.1.0-13-amd64", "container": "none", "open_files": "64000",
    "host": {"thp_enabled": "always", "thp_defrag": "defer+madvise", "thp_max_ptes_none": "0", "swappiness": "1",
             "max_map_count": "262144", "filesystem": "xfs"},
}  # fmt: skip


def _faults(found: dict[str, Any] | None = None, secrets: dict[str, str] | None = None, **changes: Any) -> list[str]:
    plain = {f"{name}_password": f"a long password of {name}" for name in ("admin", "reader", "writer", "schema")}
    plain |= {"keyfile": "QUJDREVG", "ca_cert": CERTIFICATE, "ca_key": KEY}
    wanted = {
        "version": "8.0", "source": "vendor", "package_files": [], "port": 27017, "cache_gb": 1, "memory_max": "2560M",
        "paths": {"mongodb_data_directory": "/var/lib/mongodb"}, "replica_set": "ne", "members": ["10.77.0.11:27017"],
    }  # fmt: skip
    said: list[str] = filters.faults(FOUND | (found or {}), wanted | {"secrets": plain | (secrets or {})} | changes)
    return said


def test_what_is_right_is_not_refused() -> None:
    """Neither the defaults nor three members on IPv6."""
    assert _faults() == []
    assert _faults(secrets={"keyfile": "- b2xkIGtleQ==\n- bmV3IGtleQ==\n"}) == []
    assert _faults(members=["[fd00::1]:27017", "[fd00::2]:27017", "10.0.0.1:27017"], version="8.0.4") == []


@pytest.mark.parametrize(
    ("kernel", "version", "dies"),
    [
        ("6.18.44-fc-v669", "8.0", False),
        ("6.19.0", "8.0", True),
        ("6.19", "8.2.1", True),
        ("7.0.13-generic", "8.0", True),
        ("7.0.14", "8.0", False),
        ("7.1.0-rc1", "8.0", False),
        ("6.19.3", "7.0", False),
        ("6.1.0-13-amd64", "8.0", False),
    ],
)
def test_kernels_that_kill_8_are_refused(kernel: str, version: str, dies: bool) -> None:
    """From 6.19 up to 7.0.13, and only for 8.x."""
    assert any("SERVER-121912" in line for line in _faults({"kernel": kernel}, version=version)) is dies


@pytest.mark.parametrize(
    ("installed", "wanted", "refused"),
    [
        ("", "8.0", False),
        ("8.0.4", "8.0", False),
        ("7.0.12", "8.0", False),
        ("6.0.5", "8.0", True),
        ("8.0.4", "7.0", True),
        ("8.0.4", "8.2", False),
        ("8.2.1", "8.0", True),
    ],
)
def test_versions_are_not_skipped_and_not_gone_back(installed: str, wanted: str, refused: bool) -> None:
    """MongoDB upgrades from one major version to the next."""
    said = _faults({"version": installed}, version=wanted)
    assert any("next major version only" in line for line in said) is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "latest"}, "mongodb_version 'latest' is no version"),
        ({"version": "6.0"}, "the vendor has no MongoDB 6.0 for Debian 12"),
        ({"source": "package"}, "mongodb_package_files is empty"),
        ({"port": 70_000}, "mongodb_port 70000 is no port"),
        ({"cache_gb": 0.1}, "less than 0.25"),
        ({"memory_max": "1G\nUser=root"}, "is no size"),
        ({"memory_max": "50%"}, "is no size"),
        ({"paths": {"mongodb_data_directory": "/a b"}}, "mongodb_data_directory '/a b' is no plain absolute path"),
        ({"paths": {"mongodb_data_directory": "/x\n[Service]"}}, "is no plain absolute path"),
        ({"replica_set": "a/b"}, "no name for a replica set"),
        ({"members": ["10.0.0.1:1", "10.0.0.2:1"]}, "has 2 members"),
        ({"members": ["a.example.net:1"]}, "'a.example.net:1' of mongodb_replica_members is no address"),
        ({"members": ["10.0.0.1:1"] * 3}, "names a member twice"),
        ({"secrets": {"keyfile": "spaces are fine, commas not"}}, "mongodb_keyfile is not"),
        ({"secrets": {"keyfile": "- b2xkIGtleQ==\n- no, no"}}, "mongodb_keyfile is not"),
        ({"secrets": {"admin_password": "hunter2"}}, "mongodb_admin_password has less than 16 characters"),
        ({"secrets": {"reader_password": "a long password of writer"}}, "two MongoDB accounts have the same password"),
        ({"secrets": {"ca_key": _authority()[1]}}, "mesh_ca_key is not the key of mesh_ca_cert"),
        ({"secrets": {"ca_cert": "no"}}, "not a certificate and a key"),
    ],
)
def test_what_cannot_work_is_one_sentence_that_names_the_variable(changes: dict[str, Any], words: str) -> None:
    """And that has no secret in it."""
    said = " ".join(_faults(**changes))
    assert words in said
    assert "hunter2" not in said
    assert "a long password" not in said


def test_a_ca_that_ends_soon_is_refused_now() -> None:
    """Everything it signed ends with it."""
    certificate, key = _authority(days=30)
    assert "mesh_ca_cert ends on" in _faults(secrets={"ca_cert": certificate, "ca_key": key})[0]


# -- what is advised ---------------------------------------------------------------------------------------------------


def test_a_host_as_mongodb_wants_it_is_no_news() -> None:
    """Huge pages on for 8.0, off for 7.0; nothing is asked of a container, which cannot change them."""
    assert filters.advice(FOUND, "8.0") == []
    off = {"thp_enabled": "never", "thp_defrag": "never"}
    assert filters.advice(FOUND | {"host": FOUND["host"] | off}, "7.0.12") == []
    assert filters.advice(FOUND | {"host": FOUND["host"] | {"swappiness": "60"}, "container": "docker"}, "8.0") == []


@pytest.mark.parametrize(
    ("version", "host", "words"),
    [
        ("8.0", {"thp_enabled": "never"}, "enabled is 'never' and should be 'always'"),
        ("7.0", {"thp_enabled": "always", "thp_defrag": "never"}, "enabled is 'always' and should be 'never'"),
        ("8.0", {"swappiness": "60"}, "vm.swappiness is 60 and should be 1"),
        ("8.0", {"max_map_count": "65530"}, "vm.max_map_count is 65530 and should be 128000"),
        ("8.0", {"filesystem": "ext2/ext3"}, "the data is on ext2/ext3"),
    ],
)
def test_what_could_be_better_is_said(version: str, host: dict[str, str], words: str) -> None:
    """What it is, and what it should be."""
    assert words in " ".join(filters.advice(FOUND | {"host": FOUND["host"] | host}, version))


def test_a_process_with_too_few_files_is_said() -> None:
    """A unit of one's own may have lost the vendor's limit."""
    assert filters.advice(FOUND | {"open_files": "1024"}, "8.0") == ["mongod may open 1024 files and should 64000."]


def test_what_is_set_at_boot_is_what_is_advised() -> None:
    """The files say for each version what the check looks for."""
    new, old = ({each["path"]: each["content"] for each in filters.tuning(version)} for version in ("8.0.4", "7.0"))
    assert "transparent_hugepage/enabled - - - - always\n" in new["/etc/tmpfiles.d/60-mongodb.conf"]
    assert "transparent_hugepage/enabled - - - - never\n" in old["/etc/tmpfiles.d/60-mongodb.conf"]
    assert "vm.max_map_count = 128000\n" in new["/etc/sysctl.d/60-mongodb.conf"]


# -- members and versions ----------------------------------------------------------------------------------------------


def test_members_are_as_the_regions_broker_has_them() -> None:
    """All hosts of a region agree, whichever of them says what; ports and IPv6 included."""
    brokers = [
        {
            "mesh_region": "ne",
            "mesh_address": "10.0.0.1",
            "mongodb_replica_members": ["10.0.0.1", "fd00::2", "10.0.0.3:99"],
        },
        {"mesh_region": "sw", "mesh_address": "10.0.0.4"},
        {"mesh_region": "ca", "mesh_address": "10.0.0.5", "mongodb_port": 27018, "mongodb_replica_members": []},
    ]
    assert filters.members(brokers, "ne", 27017) == ["10.0.0.1:27017", "[fd00::2]:27017", "10.0.0.3:99"]
    assert filters.members(brokers, "sw", 27017) == ["10.0.0.4:27017"]
    assert filters.members(brokers, "ca", 27017) == ["10.0.0.5:27018"]
    assert filters.members(brokers, "mw", 27017) == []


@pytest.mark.parametrize(
    ("installed", "wanted", "outdated"),
    [
        ("", "8.0", True),
        ("8.0.4", "8.0", False),
        ("8.0.4", "8.0.4", False),
        ("8.0.4", "8.0.5", True),
        ("8.0.40", "8.0.4", True),
        ("6.0.5", "8.0", True),
    ],
)
def test_a_series_is_content_with_any_release_of_it(installed: str, wanted: str, outdated: bool) -> None:
    """A release is not."""
    assert filters.outdated(installed, wanted) is outdated


# -- defaults and specs ------------------------------------------------------------------------------------------------


def test_defaults_and_specs_are_the_same() -> None:
    """What has a default is described with the same default; what is described without one is required."""
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]
    options = specs["main"]["options"]
    assert {name: option["default"] for name, option in options.items() if not option.get("required")} == defaults
    assert {name for name, option in options.items() if option.get("required")} == {"mesh_region", "mesh_address"}
    assert all(option["description"] for option in options.values())


def test_every_secret_of_the_role_is_in_the_example_and_made_by_the_script(tmp_path: Path) -> None:
    """What the role asks for, what group_vars map, and what scripts/secrets writes, is one list."""
    asked = set(yaml.safe_load((ROLE / "vars/main.yml").read_text())["_mongodb_secrets"])
    mapped = yaml.safe_load((ROOT / "inventory/group_vars/all/main.yml").read_text())
    assert {name: mapped.get(name) for name in asked} == {name: f"{{{{ vault_{name} }}}}" for name in asked}
    made = yaml.safe_load(_secrets(tmp_path / "vault.yml").read_text())
    assert {f"vault_{name}" for name in asked} == set(made)
    assert set(yaml.safe_load((ROOT / "inventory/group_vars/all/vault.example.yml").read_text())) == set(made)


def test_task_files_stay_small() -> None:
    """120 lines at most, as everywhere here."""
    sizes = {path.name: len(path.read_text().splitlines()) for path in (ROLE / "tasks").iterdir()}
    assert max(sizes.values()) <= 120, sizes


def test_tasks_with_secrets_hide_them() -> None:
    """Whoever writes a secret or passes one on has no_log; a file with one shows no difference either."""
    secret = re.compile(r"_mongodb_secret_files|_mongodb_provision\b|_password|mesh_ca_key")
    for path in (ROLE / "tasks").glob("*.yml"):
        for task in _tasks(yaml.safe_load(path.read_text())):
            body = {key: value for key, value in task.items() if key not in {"when", "block", "always", "vars"}}
            if secret.search(json.dumps(body)):
                assert task.get("no_log") is True, f"{path.name}: {task['name']}"
                assert "mesh_files" not in task or task.get("diff") is False, f"{path.name}: {task['name']}"


def _tasks(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    inner = [each for task in tasks for part in ("block", "rescue", "always") for each in _tasks(task.get(part, []))]
    return [*tasks, *inner]


# -- scripts/secrets ---------------------------------------------------------------------------------------------------


def _secrets(out: Path) -> Path:
    subprocess.run([sys.executable, ROOT / "scripts/secrets", "init", "--out", out], check=True, capture_output=True)
    return out


def test_secrets_are_strong_private_and_never_overwritten(tmp_path: Path) -> None:
    """Mode 0600, nothing twice, accepted by the role; a second run refuses, and so does a link."""
    out = _secrets(tmp_path / "vault.yml")
    assert out.stat().st_mode & 0o777 == 0o600
    made = {name.removeprefix("vault_"): value for name, value in yaml.safe_load(out.read_text()).items()}
    named = {name.removeprefix("mongodb_").removeprefix("mesh_"): value for name, value in made.items()}
    assert _faults(secrets=named) == []
    assert len(set(made.values())) == len(made)
    before = out.read_text()
    command = [sys.executable, ROOT / "scripts/secrets", "init", "--out", out]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, "left alone" in again.stderr, out.read_text()) == (1, True, before)
    (tmp_path / "link.yml").symlink_to(tmp_path / "elsewhere.yml")
    linked = subprocess.run([sys.executable, ROOT / "scripts/secrets", "init", "--out", tmp_path / "link.yml"],
                            capture_output=True, check=False)  # fmt: skip
    assert (linked.returncode, (tmp_path / "elsewhere.yml").exists()) == (1, False)


def test_secrets_of_two_meshes_have_nothing_in_common(tmp_path: Path) -> None:
    """Random, all of them."""
    one, two = (yaml.safe_load(_secrets(tmp_path / name).read_text()) for name in ("one.yml", "two.yml"))
    assert not set(one.values()) & set(two.values())


def test_a_vault_is_read_by_ansible_as_it_was_written(tmp_path: Path) -> None:
    """ansible-vault takes it and gives it back."""
    program = shutil.which("ansible-vault", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("ansible is not installed")
    out = _secrets(tmp_path / "vault.yml")
    before, key = out.read_text(), tmp_path / "key"
    key.write_text("a password")
    subprocess.run([program, "encrypt", "--vault-password-file", key, out], check=True, capture_output=True)
    assert out.read_text().startswith("$ANSIBLE_VAULT")
    shown = subprocess.run(
        [program, "view", "--vault-password-file", key, out], check=True, capture_output=True, text=True
    )
    assert shown.stdout.strip() == before.strip()
