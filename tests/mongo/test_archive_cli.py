"""mesh-store dump, restore, verify and provision as an operator runs them, against a mongod with accounts and TLS."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from secured import Secured

from mesh.store.accounts import ADMIN

pytestmark = [pytest.mark.mongo, pytest.mark.slow]
_PROGRAM = [sys.executable, "-c", "from mesh.cli.store import main; main()"]


def _run(*arguments: object, said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_PROGRAM, *map(str, arguments)], input=said, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | environment,
    )  # fmt: skip


def _shard(secured: Secured) -> list[object]:
    return ["--uri", secured.uri, "--region", "ne", "--ca-file", secured.ca_file]


def _as(secured: Secured, name: str) -> tuple[list[object], str]:
    options = ["--username", name, *(["--auth-database", "admin"] if name == ADMIN else [])]
    return [*_shard(secured), *options], secured.passwords[name] + "\n"


@pytest.fixture
def shard(secured: Secured) -> Secured:
    """Return the shard with its indexes, made by the schema account, and one place."""
    options, said = _as(secured, "mesh_schema")
    made = _run("ensure-indexes", *options, said=said)
    assert made.returncode == 0, made.stderr
    with secured.client("mesh_writer") as writer:
        writer.mesh.places.delete_many({})
        point = {"type": "Point", "coordinates": [-71.0, 42.0]}
        writer.mesh.places.insert_one({"_id": "a", "loc": point, "props": {"name": "one"}, "v": 1})
    return secured


def test_the_accounts_of_a_deployment_are_enough(shard: Secured, tmp_path: Path) -> None:
    """The reader dumps, the admin restores; `verify` needs no server; all of it without a secret in sight."""
    file = tmp_path / "ne.dump"
    options, said = _as(shard, "mesh_reader")
    dumped = _run("dump", file, *options, "--json", said=said)
    assert dumped.returncode == 0, dumped.stderr
    assert json.loads(dumped.stdout)["count"] == 1
    assert "verified 1 places of ne" in _run("verify", file).stdout
    options, said = _as(shard, ADMIN)
    assert _run("restore", file, *options, said=said).returncode == 1
    restored = _run("restore", file, *options, "--replace", said=said)
    assert restored.returncode == 0, restored.stderr
    assert "restored 1 places of ne" in restored.stdout
    options, said = _as(shard, "mesh_schema")
    check = _run("ensure-indexes", "--check", *options, "--json", said=said)
    assert (check.returncode, json.loads(check.stdout)["extra"]) == (0, [])


def test_a_reader_cannot_restore(shard: Secured, tmp_path: Path) -> None:
    """The account that backs up cannot destroy."""
    options, said = _as(shard, "mesh_reader")
    assert _run("dump", tmp_path / "ne.dump", *options, said=said).returncode == 0
    failed = _run("restore", tmp_path / "ne.dump", *options, "--replace", said=said)
    assert (failed.returncode, failed.stderr) == (1, "mesh-store: MongoDB: not authorized\n")
    with shard.client("mesh_reader") as reader:
        assert reader.mesh.places.count_documents({}) == 1


def test_the_configuration_of_the_host_says_where_and_as_whom(shard: Secured, tmp_path: Path) -> None:
    """With --config: the shard's URI, CA and writer account; with --username another account on the same shard."""
    config = tmp_path / "mesh.toml"
    config.write_text(f"""
        [mesh]
        region = "ne"
        [broker]
        listen = "tcp://127.0.0.1:5570"
        workers = "ipc:///run/mesh/workers"
        [shards.ne]
        uri = "{shard.uri}"
        username = "mesh_writer"
        password_credential = "shard.ne.password"
        ca_file = "{shard.ca_file}"
    """)
    (tmp_path / "shard.ne.password").write_text(shard.passwords["mesh_writer"])
    secrets = {"MESH_CREDENTIALS_DIRECTORY": str(tmp_path)}
    done = _run("dump", tmp_path / "one", "--config", config, **secrets)
    assert done.returncode == 0, done.stderr
    reader = _run("dump", tmp_path / "two", "--config", config, "--username", "mesh_reader",
                  said=shard.passwords["mesh_reader"])  # fmt: skip
    assert reader.returncode == 0, reader.stderr
    assert _run("dump", tmp_path / "three", "--config", config).returncode == 78


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [("", 78, "no password for mesh_reader"), ("wrong\n", 1, "MongoDB: authentication failed")],
)
def test_a_missing_and_a_wrong_password_are_told_apart(
    shard: Secured, tmp_path: Path, said: str, code: int, words: str
) -> None:
    """One line each; no file is made."""
    options, _ = _as(shard, "mesh_reader")
    failed = _run("dump", tmp_path / "ne.dump", *options, said=said)
    assert (failed.returncode, failed.stderr.count("\n")) == (code, 1)
    assert words in failed.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_dump_is_one_line(tmp_path: Path) -> None:
    """For verify as for restore, without a traceback."""
    file = tmp_path / "no.dump"
    file.write_text("hello")
    done = _run("verify", file)
    assert (done.returncode, done.stderr) == (1, f"mesh-store: {file}: this is no dump of places\n")
    assert "No such file" in _run("verify", tmp_path / "missing").stderr
    memory = _run("dump", tmp_path / "x", "--uri", "memory:", "--region", "ne")
    assert (memory.returncode, "MongoDB only" in memory.stderr) == (78, True)


def test_provision_says_what_was_different_and_nothing_secret(secured: Secured) -> None:
    """Nothing on a provisioned one; with another password the account; as JSON for a deployment."""
    assert _run("provision", said=secured.json()).stdout == "as it should be\n"
    other = secured.passwords | {"mesh_reader": "an0ther-pass"}
    check = _run("provision", "--check", "--json", said=secured.json(passwords=other))
    assert json.loads(check.stdout) == {"primary": True, "differences": ["account mesh_reader: has another password"]}
    wrong = _run("provision", said="{")
    assert (wrong.returncode, "standard input" in wrong.stderr) == (78, True)
    assert "an0ther" not in check.stdout + check.stderr
