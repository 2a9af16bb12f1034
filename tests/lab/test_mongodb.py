"""The MongoDBs of the mesh on real hosts: who gets in, what survives, what is mended, backup and restore."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from nspawn_lab.layout import ROOT

from tests.lab.deployed import Deployed
from tests.lab.testbed import Testbed, layout_of

NE, SW, WORKERS_ONLY = "ne.example.net", "sw.example.net", "ne-w1.example.net"
NE_ADDRESS, PORT = "10.77.0.11", 27017
AROUND_AUSTIN = ["Austin", "University of Texas"]
AUSTIN, CONCORD = "geonames:4671654", "geonames:4933743"
PYTHON, CA = "/opt/mesh/current/venv/bin/python", "/etc/mongodb/ca.pem"


def secrets(mesh: Deployed) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(mesh.vault.read_text())
    return found


def nearest(mesh: Deployed, lon: float, lat: float) -> list[str]:
    """Return the names of the nearest two places, as the broker of ne has them."""
    found = mesh.client("nearest", "--lon", str(lon), "--lat", str(lat), "--limit", "2")
    return [place["properties"]["name"] for place in found["places"]]


def around_austin(mesh: Deployed) -> list[str]:
    return nearest(mesh, -97.74, 30.27)


def deeds(mesh: Deployed, name: str, *, host: str = NE, address: str = NE_ADDRESS, ca: str = CA) -> dict[str, str]:
    """Return what an account may do in the MongoDB of ne, asked from a host."""
    mesh.bed.write(host, "/root/deeds.py", (ROOT / "tests/lab/deeds.py").read_text())
    password = secrets(mesh).get(f"vault_mongodb_{name.removeprefix('mesh_')}_password", "")
    database = "admin" if name == "mesh_admin" else "mesh"
    account = json.dumps({"name": name, "password": password, "database": database})
    command = f"printf %s {shlex.quote(account)} | {PYTHON} /root/deeds.py {address} {PORT} {ca}"
    found: dict[str, str] = json.loads(mesh.bed.run(host, command).stdout)
    return found


# -- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("mesh_reader", {"find"}),
        ("mesh_writer", {"find", "write", "remove"}),
        ("mesh_schema", {"list indexes", "statistics"}),
    ],
)
def test_every_account_may_do_its_work_and_nothing_else(calm: Deployed, name: str, allowed: set[str]) -> None:
    """With the passwords of the vault, over the mesh address, from its own host and from another one of the mesh."""
    for host in (NE, SW):
        found = deeds(calm, name, host=host)
        assert {deed for deed, what in found.items() if what == "allowed"} == allowed
        assert set(found.values()) <= {"allowed", "refused"}


def test_without_an_account_nothing_is_allowed(calm: Deployed) -> None:
    """Not even to whoever is on the host itself; and without TLS there is no connection at all."""
    assert set(deeds(calm, "", address="127.0.0.1").values()) == {"refused"}
    assert set(deeds(calm, "mesh_reader", ca="none").values()) == {"ServerSelectionTimeoutError"}


def test_the_admin_does_not_come_over_the_network(calm: Deployed) -> None:
    """From another host of the mesh the right password is worth nothing; on its own host it is."""
    assert deeds(calm, "mesh_admin", host=SW)["find"] == "no login"
    assert deeds(calm, "mesh_admin")["users"] == "allowed"


def test_who_is_not_of_the_mesh_finds_no_port(calm: Deployed) -> None:
    """The firewall lets hosts of the mesh to MongoDB and nobody else; mongod listens there and on loopback."""
    knock = f"timeout 3 bash -c '</dev/tcp/{NE_ADDRESS}/{PORT}'"
    assert calm.bed.control("bash", "-c", knock, check=False).returncode != 0
    assert calm.bed.run(WORKERS_ONLY, knock, check=False).returncode == 0
    listening = calm.bed.run(NE, f"ss -Hltn 'sport = :{PORT}'").stdout
    assert sorted(line.split()[3] for line in listening.splitlines()) == [f"{NE_ADDRESS}:{PORT}", f"127.0.0.1:{PORT}"]
    assert calm.bed.run(WORKERS_ONLY, "pgrep mongod", check=False).returncode == 1


def test_secrets_are_where_they_belong(calm: Deployed) -> None:
    """Keyfile and key are mongod's alone; nothing secret is in anybody's arguments or environment."""
    found = calm.bed.run(NE, "stat -c '%a %U %n' /etc/mongodb/*").stdout.splitlines()
    assert found == [
        "644 root /etc/mongodb/ca.pem",
        "400 mongodb /etc/mongodb/keyfile",
        "400 mongodb /etc/mongodb/server.pem",
    ]
    shown = calm.bed.run(NE, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /etc/mongod.conf | tr '\\0' '\\n'").stdout
    assert "mongod" in shown
    assert [name for name, secret in secrets(calm).items() if secret in shown] == []


# -- what is as declared -----------------------------------------------------------------------------------------------


def test_the_indexes_are_exactly_those_declared(calm: Deployed) -> None:
    """None is missing, none is extra, none differs, and the rules are there; in every region."""
    command = (
        f"printf %s {secrets(calm)['vault_mongodb_schema_password']} | /opt/mesh/current/venv/bin/mesh-store"
        " ensure-indexes --check --json --config /etc/mesh/mesh.toml --username mesh_schema"
    )
    for host in calm.bed.hosts:
        if host != WORKERS_ONLY:
            said = json.loads(calm.bed.run(host, command).stdout)
            assert said == {"missing": [], "extra": [], "different": [], "validator": True}


# -- what survives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["power_off", "cut_power"])
def test_a_host_that_was_off_comes_back_with_everything(mesh: Deployed, how: str) -> None:
    """In an orderly way or with the plug pulled: mongod runs, places and accounts are there, and the mesh asks it."""
    getattr(mesh.bed, how)(SW)
    assert mesh.bed.start(SW) == []
    assert mesh.bed.run(SW, "systemctl is-active mongod").stdout.strip() == "active"
    mesh.bed.playbook("verify.yml")
    assert around_austin(mesh) == AROUND_AUSTIN


def test_a_mongod_that_crashes_is_started_again(mesh: Deployed) -> None:
    """The vendor's unit would leave it dead."""
    mesh.bed.run(SW, "systemctl kill --signal=KILL mongod")
    mesh.bed.run(
        SW, "for i in $(seq 60); do systemctl is-active --quiet mongod && exit; sleep 0.5; done; exit 1", timeout=60
    )
    mesh.bed.playbook("verify.yml")


# -- what is mended ----------------------------------------------------------------------------------------------------


def _pid(mesh: Deployed, host: str) -> str:
    return mesh.bed.run(host, "systemctl show -p MainPID --value mongod").stdout.strip()


def test_what_was_changed_by_hand_is_undone(mesh: Deployed) -> None:
    """A configuration that somebody edited and started is written anew, and mongod restarted; other hosts' are not."""
    before = _pid(mesh, NE)
    mesh.bed.run(SW, "sed -i 's/cacheSizeGB: .*/cacheSizeGB: 0.5/' /etc/mongod.conf && systemctl restart mongod")
    during = _pid(mesh, SW)
    assert set(mesh.site().changed) == {SW}
    assert (_pid(mesh, SW) != during, _pid(mesh, NE)) == (True, before)
    assert mesh.site().changed == {}


def test_a_restart_that_was_lost_is_made_up_for(mesh: Deployed) -> None:
    """The configuration was written by a run that ended there; the next one sees that mongod runs with another."""
    mesh.site("--tags", "configure", "-e", "mongodb_oplog_mb=1000")
    before = {host: _pid(mesh, host) for host in (NE, SW)}
    mesh.site("-e", "mongodb_oplog_mb=1000")
    after = {host: _pid(mesh, host) for host in (NE, SW)}
    assert all(before[host] != after[host] for host in before)


def test_a_certificate_is_replaced_before_it_ends_and_without_a_restart(mesh: Deployed) -> None:
    """Mongod serves the new one, in the same process."""
    shown = f"openssl s_client -connect {NE_ADDRESS}:{PORT} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    pid, serial = _pid(mesh, NE), mesh.bed.run(NE, shown).stdout
    mesh.site("--limit", NE, "--tags", "mongodb", "-e", "mongodb_certificate_renew_days=729")
    assert mesh.bed.run(NE, shown).stdout == serial, "it is good for 730 days"
    mesh.site("--limit", NE, "--tags", "mongodb", "-e", "mongodb_certificate_renew_days=731")
    assert mesh.bed.run(NE, shown).stdout != serial
    assert _pid(mesh, NE) == pid


def test_a_password_changed_in_the_vault_takes_effect_and_shows_nowhere(mesh: Deployed) -> None:
    """The new one opens and the old one does not; what the run said, as loud as it can, has neither in it."""
    held, text = secrets(mesh), mesh.vault.read_text()
    before = held["vault_mongodb_reader_password"]
    assert deeds(mesh, "mesh_reader")["find"] == "allowed"
    try:
        mesh.vault.write_text(yaml.safe_dump(held | {"vault_mongodb_reader_password": f"new-{before}"}))
        run = mesh.site("-vvv", "--diff")
        assert deeds(mesh, "mesh_reader")["find"] == "allowed"
        assert before not in run.stdout + run.stderr
    finally:
        mesh.vault.write_text(text)
    assert deeds(mesh, "mesh_reader")["find"] == "no login"


# -- what stops before anything is touched -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("mongodb_cache_gb=0.1", "mongodb_cache_gb 0.1 is less than 0.25"),
        ("mongodb_version=4.4", "MongoDB 6.0 is installed and goes to the next major version only, not to 4.4"),
        ("mongodb_memory_max='1G\\nUser=root'", "mongodb_memory_max"),
        ("mongodb_keyfile=short!", "mongodb_keyfile is not 6 to 1024 characters of base64"),
        ("mongodb_admin_password=hunter2", "mongodb_admin_password has less than 16 characters"),
        ("mongodb_admin_password=CHANGE-ME", "mongodb_admin_password: missing, or still the example's"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_touched(calm: Deployed, variable: str, words: str) -> None:
    """One sentence that names the variable; no host is changed."""
    run = calm.site("-e", variable, check=False)
    assert run.returncode != 0
    assert words in " ".join(run.stdout.split())
    assert run.changed == {}


# -- backup and restore ------------------------------------------------------------------------------------------------


def test_a_backup_can_be_restored(mesh: Deployed, tmp_path: Path) -> None:
    """What was lost comes back, other regions stay as they are, and nothing happens without the region's name."""
    arguments = ["-e", f"mongodb_backup_directory={tmp_path}"]
    mesh.bed.playbook("backup.yml", *arguments)
    (dump,) = (tmp_path / "sw").glob("sw-*.dump")
    assert dump.stat().st_mode & 0o777 == 0o600
    mesh.client("delete", AUSTIN)
    mesh.client("delete", CONCORD)
    arguments += ["-e", f"mongodb_restore_file={dump}"]
    refused = mesh.bed.playbook("restore.yml", *arguments, check=False)
    assert (refused.returncode, refused.changed) == (2, {})
    assert "add -e mongodb_restore_confirm=sw" in " ".join(refused.stdout.split())
    assert around_austin(mesh)[0] == AROUND_AUSTIN[1]
    mesh.bed.playbook("restore.yml", *arguments, "-e", "mongodb_restore_confirm=sw")
    assert around_austin(mesh) == AROUND_AUSTIN
    assert nearest(mesh, -71.35, 42.46)[0] == "West Concord", "ne is as it was, without Concord"
    assert len([*(tmp_path / "sw").glob("sw-*.dump")]) == 2, "what was replaced is backed up first"
    mesh.bed.playbook("verify.yml")


def test_only_the_latest_backups_are_kept(mesh: Deployed, tmp_path: Path) -> None:
    """The oldest go when a new one has arrived whole."""
    arguments = ["-e", f"mongodb_backup_directory={tmp_path}", "-e", "mongodb_backups_kept=2"]
    directory = tmp_path / "sw"
    directory.mkdir()
    for day in ("20240101", "20240102"):
        (directory / f"sw-{day}T000000Z.dump").write_text("old")
    mesh.bed.playbook("backup.yml", "--limit", SW, *arguments)
    names = sorted(path.name for path in directory.iterdir())
    assert len(names) == 2
    assert names[0] == "sw-20240102T000000Z.dump"
    assert re.fullmatch(r"sw-20\d{6}T\d{6}Z\.dump", names[1])


def place(id_: str, name: str, lon: float, lat: float) -> str:
    return json.dumps({"id": id_, "lon": lon, "lat": lat, "properties": {"name": name}})


# -- three members -----------------------------------------------------------------------------------------------------

TRIO = """
all:
  vars: {ansible_user: root, ansible_host: "{{ mesh_address }}", ansible_python_interpreter: /usr/bin/python3}
mesh:
  children:
    mesh_brokers:
      hosts:
        ne.example.net:
          mesh_region: ne
          mesh_address: 10.77.0.11
          mongodb_replica_members: [10.77.0.11, 10.77.0.21, 10.77.0.22]
    mesh_workers:
      hosts:
        ne-w1.example.net: {mesh_region: ne, mesh_address: 10.77.0.21}
        ne-w2.example.net: {mesh_region: ne, mesh_address: 10.77.0.22}
  vars:
    mongodb_source: mirror
    mongodb_version: "6.0"
    mongodb_repository_url: http://10.77.0.1:8077/
    mongodb_repository_key: http://10.77.0.1:8077/server-6.0.asc
    mongodb_cache_gb: 0.25
"""


@pytest.fixture(scope="module")
def trio(able: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Deploy one region whose MongoDB has three members on three hosts."""
    directory = tmp_path_factory.mktemp("trio")
    inventory = directory / "trio.yml"
    inventory.write_text(TRIO)
    for name in ("group_vars", "regions.geojson"):
        (directory / name).symlink_to(ROOT / "inventory" / name)
    bed = Testbed(layout_of(ROOT, "trio"), inventory)
    bed.down()
    try:
        bed.up()
        first = bed.playbook("site.yml")
        made = Deployed(bed, first, first, bed.playbook("site.yml"))
        made.client("insert", place("ne:1", "Boston", -71.06, 42.36))
        yield made
    finally:
        bed.down()


def test_three_members_survive_one(trio: Deployed) -> None:
    """The primary is stopped: another one is elected, and the region still answers and takes writes."""
    assert trio.second.changed == {}
    trio.site()  # takes back what another test of these hosts changed
    trio.bed.run(NE, "systemctl stop mongod")
    trio.client("--timeout", "60", "insert", place("ne:2", "Concord", -71.35, 42.46))
    assert nearest(trio, -71.35, 42.46) == ["Concord", "Boston"]
    assert set(trio.site().changed) == {NE}
    assert trio.site().changed == {}


_WRITER = """
import json, pathlib, sys, time
from mesh import Client
from mesh.errors import MeshError
written, errors = 0, []
with Client("ne.example.net:5570", timeout=20) as mesh:
    while not pathlib.Path(sys.argv[1]).exists():
        try:
            mesh.upsert({"id": "ne:3", "lon": -78.88, "lat": 42.89, "properties": {"name": "Buffalo", "n": written}})
            written += 1
        except MeshError as error:
            errors.append(str(error))
        time.sleep(0.05)
print(json.dumps({"written": written, "errors": errors}))
"""


def test_three_members_are_restarted_one_after_the_other(trio: Deployed, tmp_path: Path) -> None:
    """A changed configuration reaches all three while there is always a majority: a write waits, and is not refused."""
    stop = tmp_path / "stop"
    with ThreadPoolExecutor() as threads:
        writing = threads.submit(trio.bed.control, sys.executable, "-c", _WRITER, stop, timeout=600)
        try:
            run = trio.site("-e", "mongodb_oplog_mb=1001")
        finally:
            stop.touch()
        report = json.loads(writing.result().check().stdout)
    assert set(run.changed) == set(trio.bed.hosts)
    assert report["errors"] == []
    assert report["written"] > 50
