"""Accounts and certificates of a shard, with a real mongod that has both."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

from mesh.cli.shards import open_shard
from mesh.config.load import load
from mesh.errors import ConfigError, StoreError, StoreUnavailable
from mesh.local.layout import render
from mesh.model import Count
from mesh.store.access import Access
from mesh.store.mongo import MongoStore
from mesh.store.mongod import Mongod

pytestmark = pytest.mark.mongo
DATABASE, PASSWORD = "guarded", 'p@s:s/w"o%rd ä'


class SecureMongod(Mongod):
    """A mongod that also speaks TLS."""

    def _command(self, binary: Path, data: Path) -> list[str]:
        pem = str(self.directory.parent / "server.pem")
        return [*super()._command(binary, data), "--tlsMode", "preferTLS", "--tlsCertificateKeyFile", pem]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with `server.pem`, which is its own CA, and a CA of somebody else."""
    directory = tmp_path_factory.mktemp("tls")
    for name in ("server", "other"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", directory / "key", "-out", directory / "cert"],
            check=True, capture_output=True,
        )  # fmt: skip
        (directory / f"{name}.pem").write_text((directory / "key").read_text() + (directory / "cert").read_text())
    return directory


@pytest.fixture(scope="module")
def guarded(certificates: Path, request: pytest.FixtureRequest) -> Iterator[Mongod]:
    """Run a mongod with TLS and an account in the database."""
    request.getfixturevalue("mongod")  # skips or fails where there is none
    running = SecureMongod(certificates / "data")
    try:
        running.wait()
        with MongoClient(running.uri) as client:
            roles = [{"role": "readWrite", "db": DATABASE}]
            client[DATABASE].command(
                "createUser", "mesh_writer", pwd=PASSWORD, roles=roles, mechanisms=["SCRAM-SHA-256"]
            )
        yield running
    finally:
        running.kill()


def count(mongod: Mongod, access: Access) -> int:
    store = MongoStore(mongod.uri, "NE", DATABASE, access)
    try:
        return store.count(Count())
    finally:
        store.close()


def test_the_account_of_the_database_over_tls(guarded: Mongod, certificates: Path) -> None:
    """Whatever characters the password has."""
    assert count(guarded, Access("mesh_writer", PASSWORD, str(certificates / "server.pem"))) == 0


def test_a_wrong_password_is_refused_and_stays_secret(guarded: Mongod) -> None:
    """By the server's word for it, which does not repeat the password; nor does a representation."""
    access = Access("mesh_writer", "wr0ng")
    with pytest.raises(StoreError, match="authentication failed") as refused:
        count(guarded, access)
    assert "wr0ng" not in repr(refused.value) + repr(access)


def test_a_server_of_another_authority_is_not_talked_to(guarded: Mongod, certificates: Path) -> None:
    """The password does not leave for it."""
    with pytest.raises(StoreUnavailable):
        count(guarded, Access("mesh_writer", PASSWORD, str(certificates / "other.pem")))


def test_certificates_that_are_not_there_are_named(guarded: Mongod, tmp_path: Path) -> None:
    """At the first use, with the path."""
    with pytest.raises(ConfigError, match=r"nowhere\.pem: ca_file: cannot be read: no such file"):
        count(guarded, Access(ca_file="/nowhere.pem"))
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ConfigError):
        count(guarded, Access(ca_file=str(tmp_path / "empty.pem")))


@pytest.fixture
def configured(guarded: Mongod, certificates: Path, tmp_path: Path) -> Path:
    """Return a mesh.toml whose shard has an account and certificates, beside the credential it names."""
    (tmp_path / "ca.pem").write_text((certificates / "server.pem").read_text())
    (tmp_path / "shard.ne.password").write_text(PASSWORD + "\n")
    shard = {
        "uri": guarded.uri, "database": DATABASE, "username": "mesh_writer",
        "password_credential": "shard.ne.password", "ca_file": "ca.pem",
    }  # fmt: skip
    file = tmp_path / "mesh.toml"
    file.write_text(
        render({
            "mesh_region": "ne", "mesh_broker_listen": "tcp://127.0.0.1:5570", "mesh_broker_workers": "ipc:///x",
            "mesh_peers": {}, "mesh_shards": {"ne": shard},
        })
    )  # fmt: skip
    return file


def test_a_worker_takes_its_secret_from_where_secrets_are(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the certificates from beside the configuration, if their path is relative."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv("MESH_CREDENTIALS_DIRECTORY", str(configured.parent))
    store = open_shard(load(configured), configured, "ne")
    assert store.count(Count()) == 0
    store.close()
    with pytest.raises(ConfigError, match="no shard for region sw"):
        open_shard(load(configured), configured, "sw")
    monkeypatch.delenv("MESH_CREDENTIALS_DIRECTORY")
    with pytest.raises(ConfigError, match=r"shard\.ne\.password"):
        open_shard(load(configured), configured, "ne")


def test_mesh_store_does_the_same(configured: Path) -> None:
    """With --config it asks as the account the host's workers have."""
    code = "from mesh.cli.store import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "stats", "--config", configured], capture_output=True, text=True, check=False,
        env=os.environ | {"MESH_CREDENTIALS_DIRECTORY": str(configured.parent)}, timeout=30,
    )  # fmt: skip
    assert "code 26" in done.stderr or done.returncode == 0, done.stderr  # there is no collection yet
