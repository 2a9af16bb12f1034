"""The decisions of the playbooks, which are filters: what differs, what to do on a host, what must not reach one."""

import hashlib
import json
from typing import Any

import pytest
import yaml
from shapely.geometry import Point, shape

from tests.deploy.load import ROOT, load

names = load("ansible/filter_plugins/mesh.py")
services = load("ansible/filter_plugins/mesh_services.py")

RELEASE, FINGERPRINT = "0.1.0+gabc-0123456789ab", "fedcba987654"
UNITS = {
    "mesh.target": "[Unit]\n",
    "mesh-broker.socket": "[Socket]\n",
    "mesh-broker.service": "b\n",
    "mesh-worker@.service": "w\n",
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def wanted(**changes: Any) -> dict[str, Any]:
    return {
        "home": "/opt/mesh",
        "release": RELEASE,
        "fingerprint": FINGERPRINT,
        "broker": True,
        "listen": "10.77.0.11:5570",
        "workers": 2,
        "units": {},
        **changes,
    }


def running(status: str = f"release={RELEASE} fingerprint={FINGERPRINT} own=0") -> dict[str, Any]:
    """Return what the probe says of a host where all is as wanted."""
    workers = ["mesh-worker@1.service", "mesh-worker@2.service"]
    state = {name: {"ActiveState": "active", "StatusText": status} for name in ["mesh-broker.service", *workers]}
    state |= {name: {"ActiveState": "active", "StatusText": ""} for name in ["mesh.target", "mesh-broker.socket"]}
    paths = {f"/opt/mesh/releases/{RELEASE}/units/{name}": {"sha256": sha(text)} for name, text in UNITS.items()}
    paths |= {f"/etc/systemd/system/{name}": {"sha256": sha(t), "kind": "file"} for name, t in UNITS.items()}
    paths["/opt/mesh/current"] = {"kind": "link", "target": f"releases/{RELEASE}"}
    paths["/opt/mesh/previous"] = {"kind": "link", "target": "releases/former"}
    return {
        "units": state,
        "paths": paths,
        "enabled": [*state],
        "listening": ["10.77.0.11:5570"],
        "rollout": "2026-11-25T00:00:00Z",
    }


# -- what to do on a host ---------------------------------------------------------------------------------------------


def test_a_host_that_is_as_wanted_has_nothing_to_do() -> None:
    """Whether the units are taken from the release on the host or from what was just rendered."""
    assert services.todo(running(), wanted())["why"] == []
    assert services.todo(running(), wanted(units=UNITS))["why"] == []


def test_a_process_that_was_not_restarted_is_seen() -> None:
    """The trap: a run wrote everything, its restart failed, and the next run found nothing changed."""
    found = running()
    found["units"]["mesh-worker@2.service"]["StatusText"] = "release=former fingerprint=fedcba987654 own=0"
    todo = services.todo(found, wanted())
    assert (todo["why"], todo["workers"], todo["broker"]) == (["workers"], ["mesh-worker@2.service"], False)


@pytest.mark.parametrize("status", ["", f"release={RELEASE} fingerprint={FINGERPRINT}0", f"release={RELEASE}"])
def test_only_the_whole_status_counts(status: str) -> None:
    """Neither an empty status nor one that merely begins alike is the wanted one."""
    assert services.todo(running(status), wanted())["broker"]


def test_a_changed_secret_restarts_all() -> None:
    """The fingerprint covers secrets, so those that run with the old ones differ."""
    todo = services.todo(running(), wanted(fingerprint="000000000000"))
    assert todo["broker"]
    assert len(todo["workers"]) == 2
    assert not todo["flip"]


def test_workers_shrink_and_grow() -> None:
    """4 -> 2 disables the surplus, also of workers that are enabled and not running; 2 -> 3 starts only the third."""
    found = running()
    found["enabled"] += ["mesh-worker@4.service"]
    found["units"]["mesh-worker@3.service"] = {"ActiveState": "failed"}
    todo = services.todo(found, wanted())
    assert (todo["why"], todo["disable"]) == (["disable"], ["mesh-worker@3.service", "mesh-worker@4.service"])
    todo = services.todo(running(), wanted(workers=3))
    assert (todo["enable"], todo["workers"]) == (["mesh-worker@3.service"], ["mesh-worker@3.service"])


def test_a_unit_changed_by_hand_is_put_back() -> None:
    """And what may run with it is restarted."""
    found = running()
    found["paths"]["/etc/systemd/system/mesh-broker.service"]["sha256"] = sha("edited")
    todo = services.todo(found, wanted())
    assert (todo["units"], todo["reload"], todo["broker"]) == (["mesh-broker.service"], True, True)


def test_a_unit_that_is_too_much_is_seen_and_others_are_left_alone() -> None:
    """A host that has become one for workers only; units of other programs whose names begin with mesh are not ours."""
    found = running()
    found["paths"]["/etc/systemd/system/meshlab.service"] = {"kind": "file", "sha256": ""}
    only_workers = {name: UNITS[name] for name in ("mesh.target", "mesh-worker@.service")}
    todo = services.todo(found, wanted(broker=False, units=only_workers))
    assert todo["surplus_units"] == ["mesh-broker.service", "mesh-broker.socket"]


def test_a_socket_at_a_former_address_is_opened_anew() -> None:
    """It is active and its unit is right, and yet nothing listens where it should."""
    assert services.todo(running() | {"listening": ["10.77.0.99:5570"]}, wanted())["socket"]


def test_a_virgin_host_has_everything_to_do() -> None:
    """And nothing that serves anybody."""
    found = {"units": {}, "paths": {}, "enabled": [], "listening": [], "rollout": ""}
    todo = services.todo(found, wanted(units=UNITS))
    assert todo["former"] == ""
    assert not todo["running"]
    assert set(todo["why"]) >= {"units", "flip", "enable", "socket", "target", "broker", "workers"}
    assert services.before(found, "/opt/mesh") == {"release": "", "previous": "", "rollout": "", "workers": 0}


def test_what_the_way_back_leads_to() -> None:
    """The plan whose result the host is now."""
    plan = {"release": RELEASE, "previous": "former", "rollout": "2026-11-25T00:00:00Z", "workers": 2}
    assert services.before(running(), "/opt/mesh") == plan


def test_hosts_that_serve_nobody_go_first_and_hosts_with_workers_only_last() -> None:
    """A bad release then shows where nobody is hurt."""

    def host(name: str, group: str, *, running: bool, why: list[str]) -> dict[str, Any]:
        todo = {"running": running, "why": why}
        return {"inventory_hostname": name, "group_names": ["mesh", group], "_mesh_services_todo": todo}

    hosts = [
        host("ne-w1", "mesh_workers", running=True, why=["workers"]),
        host("ne", "mesh_brokers", running=True, why=["broker"]),
        host("mw", "mesh_brokers", running=True, why=[]),
        host("sw", "mesh_brokers", running=False, why=["broker"]),
    ]
    assert services.lineup(hosts) == ["sw", "ne", "ne-w1"]


def test_silent_peers() -> None:
    """Both directions count; regions that never had a mesh do not; an answer that is none says nothing of anybody."""
    peers = [
        {"region": "sw", "serving": "open", "asking": "open"},
        {"region": "mw", "serving": "open", "asking": "new"},
        {"region": "ca", "serving": "new", "asking": "new"},
    ]
    assert services.silent_peers(json.dumps({"peers": peers}), ["ca"]) == ["mw"]
    assert services.silent_peers("", []) == ["?"]


def test_drift_names_what_differs() -> None:
    """For people, and without a word where nothing does."""
    assert services.drift(services.todo(running(), wanted()), wanted()) == []
    found = running("release=former fingerprint=x")
    found["paths"]["/opt/mesh/current"]["target"] = "releases/former"
    said = services.drift(services.todo(found, wanted()), wanted())
    assert said[0] == f"release former is current, not {RELEASE}"
    assert len(said) == 4


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_release_is_named_after_all_that_it_is() -> None:
    """Software, configuration, map and units; and where one ends, so that nothing can move from one to the next."""
    one = names.release_id("1+g1", "digest", "toml", "map", {"mesh.target": "t"})
    assert one.startswith("1+g1-")
    assert len(one) == len("1+g1-") + 12
    assert one == names.release_id("1+g1", "digest", "toml", "map", {"mesh.target": "t"})
    others = [
        ("digest", "toml", "map", {}),
        ("digest", "tom", "lmap", {"mesh.target": "t"}),
        ("digest", "toml", "map2", {}),
    ]
    assert len({one, *(names.release_id("1+g1", *parts) for parts in others)}) == 4


def test_a_fingerprint_covers_secrets_by_digest() -> None:
    """The order in which they are listed does not matter, a changed one does."""
    assert names.fingerprint("r", {"a": "1", "b": "2"}) == names.fingerprint("r", {"b": "2", "a": "1"})
    assert names.fingerprint("r", {"a": "1"}) != names.fingerprint("r", {"a": "2"})
    assert names.fingerprint("r", {}) != names.fingerprint("q", {})


# -- what differs -----------------------------------------------------------------------------------------------------


def test_differing_files() -> None:
    """Content, mode and owner of files; mode of directories; targets of links."""
    items = [
        {"path": "/d", "mode": "0755"},
        {"path": "/f", "mode": "0600", "content": "x"},
        {"path": "/l", "target": "/t"},
    ]
    there = {
        "/d": {"kind": "directory", "mode": "0755", "owner": "root"},
        "/f": {"kind": "file", "mode": "0600", "owner": "root", "sha256": sha("x")},
        "/l": {"kind": "link", "target": "/t"},
    }
    assert names.differing(items, there) == []
    for path, change in [
        ("/d", {"mode": "0777"}),
        ("/d", {"kind": "file"}),
        ("/f", {"sha256": ""}),
        ("/f", {"owner": "mesh"}),
        ("/l", {"target": "/u"}),
    ]:
        changed = {**there, path: {**there[path], **change}}
        assert [item["path"] for item in names.differing(items, changed)] == [path]
        assert names.drift(names.differing(items, changed), changed)[0].startswith(path)
    assert len(names.differing(items, {})) == 3


def test_drift_never_says_what_is_in_a_file() -> None:
    """Some are secrets."""
    item = {"path": "/etc/mesh/credentials/x", "mode": "0600", "content": "hunter2"}
    said = names.drift([item], {item["path"]: {"kind": "file", "mode": "0600", "owner": "root", "sha256": "0"}})
    assert said == ["/etc/mesh/credentials/x was changed"]


# -- what must not reach a host ---------------------------------------------------------------------------------------


def host(name: str, region: str, address: str) -> dict[str, str]:
    return {"inventory_hostname": name, "mesh_region": region, "mesh_address": address}


NE, SW = host("ne", "ne", "10.0.0.1"), host("sw", "sw", "10.0.0.2")


def faults(brokers: list[Any], workers: list[Any], polygons: str = "ne sw") -> list[str]:
    return names.inventory_faults(brokers, brokers + workers, polygons.split())


@pytest.mark.parametrize(
    ("brokers", "workers", "said"),
    [
        ([NE, host("ne2", "ne", "10.0.0.3")], [], "ne2 and ne are both brokers of region ne; a region has one."),
        ([NE, host("x", "x", "10.0.0.3")], [], "x: the region map has no polygon x; it has ne, sw."),
        ([NE, host("sw", "sw", "10.0.0.1")], [], "sw and ne have the same mesh_address 10.0.0.1."),
        ([NE, host("sw", "sw", "0.0.0.0")], [], "sw: mesh_address 0.0.0.0 cannot be reached by the other hosts."),
        ([NE, host("sw", "sw", "sw.example.net")], [], "sw: mesh_address 'sw.example.net' is no address"),
        ([NE, host("sw", "sw", "")], [], "sw: mesh_address '' is no address"),
        ([NE], [host("w1", "sw", "10.0.0.9")], "w1: mesh_region is 'sw', and no host of mesh_brokers has it."),
        ([NE, {"inventory_hostname": "q"}], [], "q: mesh_region is '', and no host of mesh_brokers has it."),
    ],
)
def test_a_wrong_inventory_is_refused_in_a_sentence(brokers: list[Any], workers: list[Any], said: str) -> None:
    """Each names the host and what is wrong."""
    assert any(fault.startswith(said) for fault in faults(brokers, workers))


def test_a_right_inventory_is_taken() -> None:
    """Also one with hosts for workers only, and IPv6."""
    assert faults([NE, SW], [host("w", "ne", "fd00::9")]) == []


def test_a_further_region_is_one_host_and_one_polygon() -> None:
    """Nothing else has to be said anywhere."""
    geojson = json.loads((ROOT / "inventory/regions.geojson").read_text())
    square = [[[-66, 18], [-65, 18], [-65, 19], [-66, 19], [-66, 18]]]
    geojson["features"].append({"type": "Feature", "id": "pr", "geometry": {"type": "Polygon", "coordinates": square}})
    inventory = yaml.safe_load((ROOT / "inventory/hosts.yml").read_text())["mesh"]["children"]["mesh_brokers"]["hosts"]
    inventory["pr.example.net"] = {"mesh_region": "pr", "mesh_address": "192.0.2.16"}
    hosts = [{"inventory_hostname": name, **values} for name, values in inventory.items()]
    points = names.region_points(json.dumps(geojson))
    assert names.inventory_faults(hosts, hosts, points) == []
    assert points["pr"]["lon"] == pytest.approx(-65.5)


@pytest.mark.parametrize("inventory", ["hosts.yml", "lab.yml"])
def test_our_own_inventories_are_right(inventory: str) -> None:
    """Names, regions and addresses."""
    groups = yaml.safe_load((ROOT / "inventory" / inventory).read_text())["mesh"]["children"]
    brokers, workers = (
        [{"inventory_hostname": name, **values} for name, values in (groups[group]["hosts"] or {}).items()]
        for group in ("mesh_brokers", "mesh_workers")
    )
    assert names.inventory_faults(brokers, brokers + workers, ["ne", "south", "mw", "sw", "ca"]) == []


def test_weak_secrets_are_named_and_not_shown() -> None:
    """Missing, empty, still the example's, or no text at all."""
    secrets = {"a": "CHANGE-ME", "b": "", "c": None, "d": " \n", "e": "s3cret"}
    assert names.weak_secrets(secrets, "CHANGE-ME") == ["a", "b", "c", "d"]


def test_a_configuration_is_refused_in_the_programs_own_words() -> None:
    """Before it is on any host."""
    text = '[mesh]\nregion = "ne"\n[broker]\nlisten = "tcp://10.0.0.1:5570"\nworkers = "ipc:///run/mesh/w"\nqueu = 3\n'
    assert "did you mean `queue`?" in names.config_fault(text)
    assert names.config_fault(text.replace("queu = 3", 'queue = 3\n[worker]\nservice = "echo"')) == ""


# -- what the map and the inventory say -------------------------------------------------------------------------------


def test_points_are_well_inside_their_regions() -> None:
    """At least 50 km from every border, where no other region can be nearer."""
    text = (ROOT / "inventory/regions.geojson").read_text()
    for feature in json.loads(text)["features"]:
        point = Point(*names.region_points(text)[feature["id"]].values())
        polygon = shape(feature["geometry"])
        assert polygon.contains(point)
        assert polygon.boundary.distance(point) > 0.5


def test_shards() -> None:
    """One host each by default; the members of a set, each with its port, where the inventory has more."""
    shards = names.shards(
        [
            NE,
            SW
            | {
                "mongodb_replica_members": ["10.0.0.2", "10.0.0.1:27018", "fd00::1"],
                "mongodb_replica_set": "rs",
                "mongodb_port": 27019,
            },
        ],
        "mesh",
        "mesh_writer",
        "/ca",
    )
    assert shards["ne"]["uri"] == "mongodb://10.0.0.1:27017/?replicaSet=ne"
    assert shards["sw"]["uri"] == "mongodb://10.0.0.2:27019,10.0.0.1:27018,[fd00::1]:27019/?replicaSet=rs"
    assert shards["sw"]["password_credential"] == "shard.sw.password"


def test_peers_and_ports() -> None:
    """All but oneself; IPv6 in brackets."""
    assert names.peers({"ne": "10.0.0.1", "sw": "fd00::1"}, "ne", 5570) == {"sw": {"endpoint": "tcp://[fd00::1]:5570"}}


def test_networks() -> None:
    """Wrong ones are named; sets are sorted and kept apart by family, so that a rule text depends on nothing else."""
    sets = [
        {"name": "peers", "networks": ["10.0.0.2", "fd00::1", "10.0.0.1"]},
        {"name": "ssh", "networks": ["10.0.0.0/8"]},
    ]
    assert names.network_faults(sets) == []
    assert names.nft_sets(sets)[0]["elements"] == ["10.0.0.1/32", "10.0.0.2/32"]
    assert names.network_faults([{"name": "ssh", "networks": ["10.0.0.1/8", "any"]}]) == [
        "'10.0.0.1/8' in the networks of ssh is no network.",
        "'any' in the networks of ssh is no network.",
    ]
