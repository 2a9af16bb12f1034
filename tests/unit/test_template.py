"""templates/mesh.toml.j2: whatever the variables hold, the file says the same, or is refused."""

from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import schema
from mesh.config.load import parse
from mesh.config.schema import Config
from mesh.errors import ConfigError
from mesh.local.layout import REGIONS, Layout, render

_NASTY = [
    'a"b',
    "a\\b",
    "a\\",
    "two\nlines",
    "tab\tbell\x07",
    "carriage\r\nreturn",
    "Köln",
    "東京",
    "'''",
    '"""',
    "# no comment",
    "{{ 7 * 7 }}{% if %}",
    "<&>'",
    "\x00\x1f\x7f\x85\u2028",
    "a]\n[mesh]\nregion = 'x",
    " ",
    "\x7f",
    "\U0001f30d\U0001f1fa\U0001f1f8",
]


def _variables(**changes: Any) -> dict[str, Any]:
    return {
        "mesh_region": "ne",
        "mesh_broker_listen": "tcp://127.0.0.1:5570",
        "mesh_broker_workers": "ipc:///run/mesh/ne.ipc",
        "mesh_peers": {"sw": {"endpoint": "tcp://127.0.0.1:5571"}},
        "mesh_shards": {"ne": {"uri": "mongodb://127.0.0.1:1"}, "sw": {"uri": "mongodb://127.0.0.1:2"}},
        **changes,
    }


def _configure(**changes: Any) -> Config:
    return parse(render(_variables(**changes)))


def _variables_with(text: str) -> dict[str, Any]:
    return _variables(
        mesh_managed_by="by a test\nregion = 'x'",
        mesh_region_map=text,
        mesh_broker_workers="ipc://" + text,
        mesh_shards={"ne": {"uri": text, "database": text}, "sw": {"uri": text}},
    )


def _config_with(text: str) -> Config:
    return parse(render(_variables_with(text)))


def _assert_holds(config: Config, text: str) -> None:
    ne = config.shards["ne"]
    assert (config.mesh.map, config.broker.workers, ne.uri, ne.database) == (text, "ipc://" + text, text, text)
    assert (config.region, list(config.peers), list(config.shards)) == ("ne", ["sw"], ["ne", "sw"])


@pytest.mark.parametrize("text", _NASTY)
def test_hostile_values_come_back_as_they_are(text: str) -> None:
    """Quotes, backslashes, line ends and other scripts stay what they are and where they are."""
    _assert_holds(_config_with(text), text)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_text_comes_back_as_it_is(text: str) -> None:
    """No text can change the meaning of the file, whatever alphabet it is written in."""
    _assert_holds(_config_with(text), text)


def test_half_a_character_is_refused() -> None:
    """A lone surrogate is in no encoding: an error that says so, not a file that nobody can read."""
    with pytest.raises(ConfigError, match="half a character"):
        _config_with("\ud83c")


@pytest.mark.parametrize("value", [None, {"a": 1}, float("nan"), float("inf")])
def test_what_toml_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        _configure(mesh_broker_options={"grace": value})


@pytest.mark.parametrize("key", [*_NASTY, "grace = 1\nqueue"])
def test_a_hostile_option_is_an_unknown_key(key: str) -> None:
    """It can neither end the line nor the table."""
    with pytest.raises(ConfigError, match="no such key"):
        _configure(mesh_broker_options={key: 1})


@pytest.mark.parametrize("name", [*_NASTY, "a.b", "UPPER", "ninechars", ""])
def test_a_hostile_region_name_is_refused(name: str) -> None:
    """A name can neither open another table nor add a key; the check of names refuses it."""
    with pytest.raises(ConfigError):
        _configure(mesh_peers={name: {"endpoint": "tcp://127.0.0.1:5571"}})
    with pytest.raises(ConfigError):
        _configure(mesh_region=name)


def test_an_undefined_variable_is_an_error() -> None:
    """A variable that Ansible forgot does not become an empty string."""
    variables = _variables()
    del variables["mesh_broker_listen"]
    with pytest.raises((jinja2.UndefinedError, TypeError), match="Undefined"):
        render(variables)
    del variables["mesh_peers"]
    with pytest.raises(jinja2.UndefinedError):
        render(variables | {"mesh_broker_listen": "tcp://127.0.0.1:5570"})


def test_every_key_of_the_configuration_can_be_set() -> None:
    """Whatever the schema knows, the template can write, with values other than the defaults."""
    shard = {"uri": "mongodb://a", "database": "o", "username": "u", "password_credential": "p", "ca_file": "/ca.pem"}
    options = {"queue": 7, "window": 3, "heartbeat": 0.5, "liveness": 9, "grace": 1.5}
    config = _configure(
        mesh_region_map="map.geojson",
        mesh_release="1.2.3-0123456789ab",
        mesh_broker_workers_tcp="tcp://127.0.0.1:5571",
        mesh_peers={"sw": {"endpoint": "tcp://127.0.0.1:5580"}},
        mesh_broker_options=options,
        mesh_worker_service="sleep:5",
        mesh_worker_slots=4,
        mesh_shards={"ne": shard, "sw": {"uri": "mongodb://b"}},
    )
    written = msgspec.to_builtins(config)
    for name, table in {"mesh": schema.Mesh, "broker": schema.Broker, "worker": schema.Worker}.items():
        for field in msgspec.structs.fields(table):
            assert written[name][field.name] != field.default, f"{name}.{field.name} was not set"
    assert written["peers"] == {"sw": {"endpoint": "tcp://127.0.0.1:5580"}}
    assert written["shards"]["ne"] == shard
    assert {field.name for field in msgspec.structs.fields(Config)} == {"mesh", "broker", "worker", "peers", "shards"}


def test_mesh_local_writes_a_configuration_for_every_region(tmp_path: Path) -> None:
    """Each region's file parses, listens on its own port, and knows the four others and all five shards."""
    layout = Layout(tmp_path, 7000)
    layout.write({region: f"memory:///{region}" for region in REGIONS})
    for number, region in enumerate(REGIONS):
        config = parse(layout.config(region).read_text())
        assert config.broker.listen == f"tcp://127.0.0.1:{7000 + number}"
        assert {region, *config.peers} == set(REGIONS) == set(config.shards)
