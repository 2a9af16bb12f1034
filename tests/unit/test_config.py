"""mesh.config: what does not fit together is named, with what to write instead."""

from pathlib import Path
from typing import Any

import pytest

from mesh.cli import config as config_program
from mesh.config.load import digest, load, parse
from mesh.config.region_map import region_map
from mesh.config.schema import Config
from mesh.errors import ConfigError
from mesh.local.layout import render


def variables(shard: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return what describes a host of NE; *shard* changes the table of its shard."""
    return {
        "mesh_region": "ne",
        "mesh_broker_listen": "tcp://10.0.0.1:5570",
        "mesh_broker_workers": "ipc:///run/mesh/workers",
        "mesh_peers": {},
        "mesh_shards": {"ne": {"uri": "mongodb://10.0.0.1/?replicaSet=ne", **(shard or {})}},
        **changes,
    }


def configure(shard: dict[str, Any] | None = None, **changes: Any) -> Config:
    """Return the configuration of a host of NE."""
    return parse(render(variables(shard, **changes)))


def fault(shard: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return the complaint about a configuration."""
    with pytest.raises(ConfigError) as refused:
        configure(shard, **changes)
    return str(refused.value)


ACCOUNT = {"username": "mesh_writer", "password_credential": "shard.ne.password", "ca_file": "/etc/mesh/tls/ca.pem"}


def test_what_a_deployment_sets_is_kept() -> None:
    config = configure(ACCOUNT, mesh_release="0.1.0-abc", mesh_broker_workers_tcp="tcp://10.0.0.1:5571")
    shard = config.shards["ne"]
    assert (shard.username, shard.password_credential) == ("mesh_writer", "shard.ne.password")
    assert (config.mesh.release, config.broker.workers_tcp) == ("0.1.0-abc", "tcp://10.0.0.1:5571")


def test_without_it_all_is_as_before() -> None:
    config = configure()
    assert (config.mesh.release, config.broker.workers_tcp, config.shards["ne"].username) == ("", "", "")


@pytest.mark.parametrize("release", ["a b", "-x", "x\nSTATUS=y", "../x", "x" * 101])
def test_a_release_is_one_plain_word(release: str) -> None:
    """It goes into a path and into a status line."""
    assert "mesh.release: " in fault(mesh_release=release)


@pytest.mark.parametrize(
    "uri", ["mongodb://u:secret@10.0.0.1/", "mongodb://u:secret@10.0.0.1", "mongodb+srv://u:@h/?x=y"]
)
def test_a_password_in_the_file_is_refused(uri: str) -> None:
    """And the complaint, which ends up in the journal, does not repeat it."""
    text = fault({"uri": uri})
    assert "shards.ne.uri: holds a password" in text
    assert "password_credential" in text
    assert "secret@" not in text


def test_what_only_looks_like_a_password_is_none() -> None:
    for uri in ("mongodb://10.0.0.1:27017,10.0.0.2:27017/?x=a@b", "mongodb://[::1]:27017/", "memory:///run/a:b@c"):
        assert configure({"uri": uri}).shards["ne"].uri == uri


def test_an_account_has_a_name_and_a_credential() -> None:
    """One without the other would be refused by MongoDB, with fewer words."""
    assert "shards.ne.username: is of no use without password_credential" in fault({"username": "a"})
    assert "shards.ne.password_credential: is of no use without username" in fault({"password_credential": "a"})
    assert "the URI names a user, too" in fault(ACCOUNT | {"uri": "mongodb://other@10.0.0.1/"})
    assert "'../key' is no credential's name" in fault(ACCOUNT | {"password_credential": "../key"})


def test_only_mongodb_has_accounts() -> None:
    assert "only MongoDB has accounts" in fault(ACCOUNT | {"uri": "memory:///run/mesh/ne.store"})
    assert "shards.ne.ca_file: only MongoDB" in fault({"uri": "memory:", "ca_file": "/ca.pem"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh_broker_workers_tcp": "ipc:///x"}, "broker.workers_tcp: 'ipc:///x' is no endpoint"),
        ({"mesh_broker_workers_tcp": "tcp://10.0.0.1:0"}, "broker.workers_tcp: 'tcp://10.0.0.1:0' is no endpoint"),
        ({"mesh_broker_workers_tcp": "tcp://10.0.0.1:5570"}, "broker.workers_tcp: is where clients connect"),
        ({"mesh_broker_workers_tcp": "tcp://*:5570"}, "broker.workers_tcp: is where clients connect"),
        ({"mesh_broker_workers": "tcp://10.0.0.1:5570"}, "broker.workers: is where clients connect"),
        (
            {"mesh_broker_workers": "tcp://10.0.0.1:5571", "mesh_broker_workers_tcp": "tcp://0.0.0.0:5571"},
            "broker.workers_tcp: is the same as broker.workers",
        ),
        ({"mesh_broker_workers": "tcp://10.0.0.1"}, "broker.workers: 'tcp://10.0.0.1' is no endpoint"),
    ],
)
def test_the_sockets_of_a_broker_do_not_clash(changes: dict[str, str], words: str) -> None:
    """The second bind would fail, or, on one ZeroMQ socket, succeed and confuse."""
    assert words in fault(**changes)


def test_a_worker_only_host_names_its_regions_broker() -> None:
    """There `workers` is the broker's TCP address, and nobody listens."""
    config = configure(mesh_broker_workers="tcp://10.0.0.1:5571")
    assert config.broker.workers == "tcp://10.0.0.1:5571"


def test_check_looks_up_relative_paths_where_the_file_will_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ansible has a file checked before it is where it belongs; the region map is part of the check."""
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "map.geojson").write_text('{"features": [{"id": "ne"}]}')
    file = tmp_path / "candidate.toml"
    file.write_text(render(variables(mesh_region_map="map.geojson")))
    with pytest.raises(SystemExit) as refused:
        config_program.check(file)
    assert refused.value.code == 78
    assert "map.geojson: cannot be read" in capsys.readouterr().err
    config_program.check(file, tmp_path / "release")
    assert "OK (region ne" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", '{"features": 1}', '{"features": [{}]}', '{"features": [{"id": "sw"}]}'])
def test_check_refuses_a_map_that_does_not_fit(tmp_path: Path, content: str) -> None:
    (tmp_path / "map.geojson").write_text(content)
    (tmp_path / "mesh.toml").write_text(render(variables(mesh_region_map="map.geojson")))
    with pytest.raises(ConfigError, match=r"is no region map|no region 'ne'"):
        region_map(load(tmp_path / "mesh.toml"), tmp_path / "mesh.toml")


def test_the_digest_names_the_content(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("a")
    first = digest(file)
    file.write_text("b")
    assert len(first) == 12
    assert digest(file) != first
