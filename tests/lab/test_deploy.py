"""site.yml on hosts: built from nothing, kept as it is, moved from release to release without a failed request."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from nspawn_lab.layout import ROOT

from tests.lab.deployed import HOME, Deployed
from tests.lab.figures import report

NE, SOUTH, MW, SW, CA, NE_W1 = (f"{name}.example.net" for name in ("ne", "south", "mw", "sw", "ca", "ne-w1"))
AROUND_AUSTIN = ["Austin", "University of Texas"]
AUSTIN = ("nearest", "--lon", "-97.74", "--lat", "30.27", "--limit", "2")
#: Requests a second in all, over the five brokers; the machine that runs the hosts also runs the playbook.
RATE = 200
TAGS = ("install", "configure", "run", "verify", "base", "firewall", "mesh", "mongodb", "mesh_services")


def assert_untouched(mesh: Deployed, before: dict[str, dict[str, str]], hosts: list[str]) -> None:
    """No process of these hosts was restarted."""
    assert {host: mesh.pids(host) for host in hosts} == {host: before[host] for host in hosts}


def all_pids(mesh: Deployed) -> dict[str, dict[str, str]]:
    return {host: mesh.pids(host) for host in mesh.bed.hosts}


# -- from nothing ------------------------------------------------------------------------------------------------------


def test_bare_hosts_can_be_looked_at(deployed: Deployed) -> None:
    """Check mode on hosts that have nothing says what it would do, shows no secret, and exits 0."""
    assert deployed.looked.returncode == 0
    assert set(deployed.looked.changed) == set(deployed.bed.hosts)


def test_one_run_builds_the_mesh(deployed: Deployed) -> None:
    """And the second one finds nothing to do on any host."""
    report("first converge", {"seconds": round(deployed.first.seconds, 1)})
    report("no-change converge", {"seconds": round(deployed.second.seconds, 1)})
    assert {host: counts["failed"] for host, counts in deployed.first.recap.items() if counts["failed"]} == {}
    assert deployed.second.changed == {}


def test_every_broker_answers_for_every_region(calm: Deployed) -> None:
    """Across hosts, with the places that were stored."""
    for host in calm.brokers:
        found = calm.client(*AUSTIN, broker=host)
        assert [place["properties"]["name"] for place in found["places"]] == AROUND_AUSTIN
        assert found["partial"] is False


def test_processes_say_what_they_were_started_with(calm: Deployed) -> None:
    """Release and fingerprint, on each host its own."""
    for host in calm.bed.hosts:
        for status in calm.statuses(host).values():
            fingerprint = calm.bed.read(host, "/etc/mesh/credentials/fingerprint").strip()
            assert status.startswith(f"release={calm.link(host)} fingerprint={fingerprint}")


# -- and nothing again -------------------------------------------------------------------------------------------------


def test_looking_shows_no_difference(calm: Deployed) -> None:
    """--check --diff on a converged mesh: nothing would change, and there is nothing to show."""
    run = calm.site("--check", "--diff")
    assert run.changed == {}
    assert "--- before" not in run.stdout


def test_each_tag_works_alone(calm: Deployed) -> None:
    """And finds nothing to do."""
    for tag in TAGS:
        assert calm.site("--tags", tag).changed == {}, tag


def test_verify_sees_drift_and_site_mends_it(mesh: Deployed) -> None:
    """Modes, units, rules, links, processes: each is named, nothing is changed by looking, the next run mends it."""
    assert mesh.bed.playbook("verify.yml").changed == {}
    run = mesh.bed.run
    run(SW, "chmod 0644 /etc/mesh/credentials/shard.ne.password")
    run(SW, "sed -i s/^MemoryMax=.*/MemoryMax=infinity/ /etc/systemd/system/mesh-broker.service")
    run(SW, "nft add rule inet mesh input tcp dport 4444 accept")
    run(CA, "rm /etc/mesh/mesh.toml; systemctl disable --now mesh-worker@2.service")
    seen = mesh.bed.playbook("verify.yml", check=False)
    assert seen.returncode != 0
    assert seen.changed == {}
    for said in (
        "/etc/mesh/credentials/shard.ne.password is root 0644, not root 0600",
        "unit mesh-broker.service was changed",
        "table inet mesh is not what /etc/nftables.d/mesh.nft says",
        "/etc/mesh/mesh.toml is missing",
        "mesh-worker@2.service is not started at boot",
    ):
        assert said in seen.stdout
    assert set(mesh.site().changed) == {SW, CA}
    assert mesh.bed.playbook("verify.yml").changed == {}


def test_a_reboot_brings_everything_back(mesh: Deployed) -> None:
    """Services, rules, links; and the next run has nothing to do."""
    mesh.bed.reboot(MW)
    mesh.wait()
    assert "policy drop" in mesh.bed.run(MW, "nft list table inet mesh").stdout
    assert mesh.site().changed == {}


def test_a_restart_of_each_broker_fails_no_request(calm: Deployed) -> None:
    """One after the other, while clients ask all of them for places of every region."""
    with calm.bed.load(calm.brokers, rate=RATE, require_all=True) as load:
        for host in calm.brokers:
            before = calm.pids(host)
            calm.bed.run(host, "systemctl restart mesh-broker")
            calm.wait()
            after = calm.pids(host)
            assert {unit for unit in after if after[unit] != before[unit]} == {"mesh-broker.service"}
        assert load.running
    report("restart of five brokers", load.report)
    assert load.report["failed"] == load.report["empty"] == load.report["partial"] == 0


# -- from release to release -------------------------------------------------------------------------------------------


def test_a_rollout_fails_no_request(mesh: Deployed) -> None:
    """Another release on every host, one after the other, while clients ask all brokers."""
    former = mesh.releases()
    with mesh.bed.load(mesh.brokers, rate=RATE, require_all=True) as load:
        run = mesh.with_options(mesh_broker_options={"grace": 9})
        assert load.running
    report("rollout", {"seconds": round(run.seconds, 1), **load.report})
    assert load.report["failed"] == 0
    assert load.report["empty"] == load.report["partial"] == 0
    now = mesh.releases()
    assert all(now[host] != former[host] for host in former)
    assert mesh.releases("previous") == former


def test_a_rollback_fails_no_request_and_brings_back_the_configuration(mesh: Deployed) -> None:
    """In one command; a second one goes forward again; and the next site.yml has its say."""
    former = mesh.releases()
    mesh.with_options(mesh_broker_options={"grace": 9})
    latter = mesh.releases()
    assert mesh.bed.run(NE, f"grep ^.grace {HOME}/current/mesh.toml").stdout.strip() == '"grace" = 9'
    with mesh.bed.load(mesh.brokers, rate=RATE, require_all=True) as load:
        run = mesh.bed.playbook("rollback.yml")
        assert load.running
    report("rollback", {"seconds": round(run.seconds, 1), **load.report})
    assert load.report["failed"] == load.report["empty"] == load.report["partial"] == 0
    assert mesh.releases() == former
    assert "grace" not in mesh.bed.read(NE, f"{HOME}/current/mesh.toml")
    assert mesh.site().changed == {}
    mesh.bed.playbook("rollback.yml")
    assert mesh.releases() == latter


def test_a_rollout_of_new_software_fails_no_request(mesh: Deployed, tmp_path: Path) -> None:
    """The software is installed beside the one at work, which is not starved meanwhile."""
    arguments = changed_source(mesh, tmp_path, "mesh/errors.py", "\n# a later version\n")
    with mesh.bed.load(mesh.brokers, rate=RATE / 2, require_all=True) as load:
        run = mesh.site(*arguments)
        assert load.running
    report("rollout of software", {"seconds": round(run.seconds, 1), **load.report})
    assert load.report["failed"] == load.report["empty"] == load.report["partial"] == 0
    assert len(mesh.bed.run(NE, f"ls {HOME}/venvs").stdout.split()) == 2


def test_a_release_that_does_not_serve_stops_at_the_first_host(mesh: Deployed) -> None:
    """All checks take it, its workers start, and yet questions have no answer: the host gets its former one back."""
    former, before = mesh.releases(), all_pids(mesh)
    run = mesh.with_options(check=False, mesh_worker_service="echo", mesh_services_gate_tries=3)
    assert run.returncode != 0
    [failed] = [host for host, counts in run.recap.items() if counts["failed"]]
    assert failed == NE
    assert f"Release {former[NE]} is back and answers." in run.stdout
    assert mesh.releases() == former
    assert mesh.link(NE, "previous") == ""
    assert_untouched(mesh, before, [host for host in mesh.bed.hosts if host != NE])
    assert all(status.startswith(f"release={former[NE]} ") for status in mesh.statuses(NE).values())
    mesh.client(*AUSTIN)
    assert mesh.site().changed == {}


def test_a_release_that_fails_its_smoke_test_goes_nowhere(mesh: Deployed, tmp_path: Path) -> None:
    """It is removed where it was installed, and nothing was restarted."""
    former, before = mesh.releases(), all_pids(mesh)
    arguments = changed_source(mesh, tmp_path, "mesh/cli/worker.py", "\nraise RuntimeError('a bad day')\n")
    run = mesh.site(*arguments, check=False)
    assert run.returncode != 0
    assert "a bad day" in run.stdout
    assert mesh.releases() == former
    assert_untouched(mesh, before, mesh.bed.hosts)
    for host in mesh.bed.hosts:
        assert len(mesh.bed.run(host, f"ls {HOME}/venvs").stdout.split()) == 1
    assert mesh.site().changed == {}


def test_a_rollout_that_stopped_half_way_is_rolled_back_where_it_went(mesh: Deployed) -> None:
    """Hosts that it did not reach have another former release, or none; they are left alone."""
    former = mesh.releases()
    mesh.site("--limit", f"{NE},{SW}", "-e", '{"mesh_broker_options": {"grace": 9}}')
    before = all_pids(mesh)
    mesh.bed.playbook("rollback.yml")
    assert mesh.releases() == former
    assert_untouched(mesh, before, [SOUTH, MW, CA, NE_W1])


def test_three_releases_are_kept(mesh: Deployed) -> None:
    """Of five, with the software they share."""
    for grace in (6, 7, 8, 9):
        mesh.site("--limit", MW, "-e", json.dumps({"mesh_broker_options": {"grace": grace}}))
    assert len(mesh.bed.run(MW, f"ls {HOME}/releases").stdout.split()) == 3
    assert len(mesh.bed.run(MW, f"ls {HOME}/venvs").stdout.split()) == 1


def test_workers_shrink_and_grow(mesh: Deployed) -> None:
    """4 -> 2 -> 3: what is too much is stopped and not started at boot, what stays is not restarted."""
    listing = "systemctl list-units --plain --no-legend --state=active 'mesh-worker@*' | cut -d' ' -f1"
    for count in (4, 2, 3):
        before = mesh.pids(SW)
        mesh.site("--limit", SW, "-e", f"mesh_workers_count={count}")
        wanted = [f"mesh-worker@{number}.service" for number in range(1, count + 1)]
        assert sorted(mesh.bed.run(SW, listing).stdout.split()) == wanted
        links = mesh.bed.run(SW, "ls /etc/systemd/system/mesh.target.wants").stdout.split()
        assert [name for name in links if "worker" in name] == wanted
        after = mesh.pids(SW)
        assert {name: after[name] for name in before if name in after} == {
            n: p for n, p in before.items() if n in after
        }


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"mesh_broker_options": {"queue": -1}}, "broker.queue: -1 is out of range"),
        ({"mesh_broker_options": {"queu": 1}}, "did you mean `queue`?"),
        ({"mesh_workers_count": "many"}, "argument 'mesh_workers_count'"),
        ({"vault_mongodb_writer_password": "CHANGE-ME"}, "mongodb_writer_password: missing, or still the example's"),
        ({"firewall_client_networks": ["10.0.0.1/8"]}, "'10.0.0.1/8' in the networks of clients is no network"),
        ({"base_disk_free_mb": 99_999_999}, "base_disk_free_mb wants 99999999"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_touched(calm: Deployed, variables: dict[str, Any], said: str) -> None:
    """In one sentence, with nothing changed on any host."""
    run = calm.with_options(check=False, **variables)
    assert run.returncode != 0
    assert said in run.stdout.replace('"', "'").replace("''", "'")
    assert run.changed == {}


def test_numbers_from_the_command_line_are_taken(calm: Deployed) -> None:
    """The trap: `-e name=4` gives a text, and Jinja neither compares nor counts with it."""
    numbers = (
        "base_disk_free_mb=10 base_clock_skew_seconds=50 firewall_revert_seconds=50 mesh_port=5570 mesh_workers_count=3"
        " mesh_releases_kept=2 mesh_watchdog_seconds=11 mesh_services_gate_tries=31 mesh_services_gate_delay_seconds=2"
        " mongodb_port=27017 mongodb_cache_gb=0.5 mongodb_oplog_mb=1001 mongodb_backups_kept=5"
        " mongodb_certificate_days=700"
    )
    assert calm.site("--check", *(word for number in numbers.split() for word in ("-e", number))).returncode == 0


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ({"ne2.example.net": {"mesh_region": "ne", "mesh_address": "10.77.0.99"}}, "are both brokers of region ne"),
        ({"pr.example.net": {"mesh_region": "pr", "mesh_address": "10.77.0.99"}}, "the region map has no polygon pr"),
        ({"sw.example.net": {"mesh_region": "sw", "mesh_address": "sw.example.net"}}, "is no address"),
    ],
)
def test_a_wrong_inventory_is_refused(calm: Deployed, tmp_path: Path, hosts: dict[str, Any], said: str) -> None:
    """A second broker of a region, a region without a polygon, an address that is none."""
    extra = {"mesh": {"children": {"mesh_brokers": {"hosts": hosts}}}}
    (tmp_path / "extra.yml").write_text(yaml.safe_dump(extra))
    (tmp_path / "regions.geojson").symlink_to(ROOT / "inventory/regions.geojson")
    sources = [ROOT / "inventory/lab.yml", calm.bed.layout.run / "inventory", tmp_path / "extra.yml"]
    words = [word for source in sources for word in ("-i", str(source))]
    # A host that does not exist is asked nothing: the inventory is read first.
    run = calm.site(*words, "--limit", NE, check=False)
    assert run.returncode != 0
    assert said in run.stdout
    assert run.changed == {}


def test_a_dead_peer_stops_a_rollout_and_is_mended_alone(mesh: Deployed) -> None:
    """A rollout would take a second region away; but the dead host itself may be started, and then all go on."""
    before = all_pids(mesh)
    mesh.bed.run(MW, "systemctl stop mesh-broker.socket mesh-broker.service")
    run = mesh.with_options(check=False, mesh_broker_options={"grace": 9})
    assert run.returncode != 0
    assert "no answer from the broker of mw; a rollout would take a second region away." in run.stdout
    assert run.changed == {}
    assert_untouched(mesh, before, [NE, SOUTH, SW, CA, NE_W1])
    assert set(mesh.site("--limit", MW).changed) == {MW}
    mesh.wait()
    assert set(mesh.site("--limit", NE, "-e", '{"mesh_broker_options": {"grace": 9}}').changed) == {NE}


def test_a_host_that_cannot_be_reached_stops_everything(mesh: Deployed) -> None:
    """Before anything is touched on the others."""
    with mesh.bed.unplugged(CA):
        run = mesh.with_options(check=False, mesh_broker_options={"grace": 9})
    assert run.returncode != 0
    assert run.changed == {}


def fill(mesh: Deployed, host: str, megabytes: int) -> None:
    """Give a host's software a disk of its own with so little left."""
    mesh.bed.run(
        host,
        f"mkdir -p /mnt/small && mount -t tmpfs -o size=2g none /mnt/small && cp -a {HOME}/. /mnt/small/ && "
        f"mount -o remount,size=$(( $(du -sm /mnt/small | cut -f1) + {megabytes} ))m /mnt/small && "
        f"mount --bind /mnt/small {HOME}",
    )


def test_a_full_disk_is_seen_first(mesh: Deployed, tmp_path: Path) -> None:
    """And named."""
    fill(mesh, SW, 20)
    run = mesh.site(*changed_source(mesh, tmp_path, "mesh/errors.py", "\n# later\n"), check=False)
    assert run.returncode != 0
    assert "sw.example.net: only" in run.stdout
    assert "MiB are free at /opt/mesh; base_disk_free_mb wants 1024" in run.stdout
    assert run.changed == {}


def test_a_disk_that_fills_up_leaves_no_half_release(mesh: Deployed, tmp_path: Path) -> None:
    """What runs still runs, everywhere; with room again the next run goes on."""
    fill(mesh, SW, 60)
    former, before = mesh.releases(), all_pids(mesh)
    arguments = changed_source(mesh, tmp_path, "mesh/errors.py", "\n# later\n")
    run = mesh.site(*arguments, "-e", "base_disk_free_mb=10", check=False)
    assert run.returncode != 0
    assert "No space left on device" in run.stdout
    assert mesh.releases() == former
    assert_untouched(mesh, before, mesh.bed.hosts)
    assert len(mesh.bed.run(SW, f"ls {HOME}/venvs").stdout.split()) == 1
    mesh.bed.run(SW, "mount -o remount,size=2g /mnt/small")
    mesh.site("--limit", SW, *arguments)
    assert mesh.link(SW) != former[SW]


def test_a_run_that_was_cut_short_is_continued(mesh: Deployed) -> None:
    """The trap of the lost handler: nothing was restarted, and the next run finds all files as they should be."""
    options = '{"mesh_broker_options": {"grace": 9}}'
    before = all_pids(mesh)
    mesh.site("-e", options, "--skip-tags", "run")
    assert_untouched(mesh, before, mesh.bed.hosts)
    # As if cut between flip and restart, on one host.
    name = mesh.bed.run(SW, f"ls -t {HOME}/releases | head -1").stdout.strip()
    mesh.bed.run(SW, f"ln -sfn releases/{name} {HOME}/current")
    assert set(mesh.site("-e", options).changed) == set(mesh.bed.hosts)
    for host in mesh.bed.hosts:
        assert all(status.startswith(f"release={mesh.link(host)} ") for status in mesh.statuses(host).values())
    assert mesh.site("-e", options).changed == {}


# -- firewall ----------------------------------------------------------------------------------------------------------


def test_rules_that_lock_us_out_are_taken_back(mesh: Deployed) -> None:
    """The connection at hand survives them, so only a new one shows it; then the former rules return by themselves."""
    rules = mesh.bed.read(CA, "/etc/nftables.d/mesh.nft")
    networks = '{"firewall_ssh_networks": ["192.0.2.0/24"], "firewall_revert_seconds": 15}'
    run = mesh.site("--limit", CA, "--tags", "firewall", "-e", networks, check=False)
    assert run.returncode != 0
    mesh.bed.run(
        CA, "for i in $(seq 30); do nft list set inet mesh ssh4 | grep -q 192.0.2 || exit 0; sleep 1; done; exit 1"
    )
    assert mesh.bed.read(CA, "/etc/nftables.d/mesh.nft") == rules
    assert mesh.site().changed == {}


def test_only_the_mesh_reaches_what_is_the_meshs(calm: Deployed) -> None:
    """From elsewhere neither MongoDB nor the workers' port answers; between hosts of the mesh they do."""

    def reaches(address: str, port: int, host: str = "") -> bool:
        command = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"
        if host:
            return calm.bed.run(host, command, check=False).returncode == 0
        return calm.bed.control("bash", "-c", command, check=False).returncode == 0

    assert [reaches("10.77.0.11", port) for port in (5570, 22, 27017, 5571)] == [True, True, False, False]
    assert reaches("10.77.0.11", 27017, SW)
    assert not reaches("10.77.0.11", 5571, SW)
    assert reaches("10.77.0.11", 5571, NE_W1)


def test_tables_of_others_survive(mesh: Deployed) -> None:
    """A changed rule replaces our table and no other."""
    mesh.bed.run(SW, "nft add table ip docker; nft add chain ip docker forward")
    assert set(mesh.site("--limit", SW, "-e", '{"firewall_open_tcp_ports": [9100]}').changed) == {SW}
    assert "chain forward" in mesh.bed.run(SW, "nft list table ip docker").stdout
    assert "9100" in mesh.bed.run(SW, "nft list table inet mesh").stdout


def test_a_run_for_one_host_keeps_the_others_in_its_sets(calm: Deployed) -> None:
    """The trap: sets filled from facts, which a limited run does not have, would be empty."""
    assert calm.site("--limit", NE).changed == {}
    for guest in calm.bed.guests:
        calm.bed.run(NE, f"nft get element inet mesh peers4 '{{ {guest.address} }}'")


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_no_output_holds_a_secret(mesh: Deployed) -> None:
    """With -vvv --diff, on a mesh where every secret file has to be written anew; and files are 0600, root's."""
    secrets = yaml.safe_load(mesh.vault.read_text())
    for host in (NE, NE_W1):
        mesh.bed.run(host, "rm /etc/mesh/credentials/* /etc/mesh/tls/ca.pem; rm -f /etc/mongodb/keyfile")
    run = mesh.site("-vvv", "--diff", "--limit", f"{NE},{NE_W1}")
    for name, secret in secrets.items():
        if name != "vault_mesh_ca_cert":
            longest = max(secret.split(), key=len)
            assert longest not in run.stdout + run.stderr, name
    shown = mesh.bed.run(NE, "stat -c '%a %U:%G' /etc/mesh/credentials /etc/mesh/credentials/*").stdout.split("\n")
    assert set(filter(None, shown)) == {"700 root:root", "600 root:root"}
    # Nothing in arguments, environment or configuration of what runs.
    everything = mesh.bed.run(
        NE, f"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ {HOME}/current/mesh.toml /etc/mongod.conf | tr '\\0' '\\n'"
    ).stdout
    assert not [name for name, secret in secrets.items() if max(secret.split(), key=len) in everything]


# -- and away ----------------------------------------------------------------------------------------------------------


def test_uninstall_asks_first_and_keeps_the_places(mesh: Deployed) -> None:
    """Nothing of the mesh is left but MongoDB's data; with a first run again, the places are there."""
    assert mesh.bed.playbook("uninstall.yml", check=False).returncode != 0
    mesh.client(*AUSTIN)
    mesh.bed.playbook("uninstall.yml", "-e", "mesh_uninstall=yes")
    for host in mesh.bed.hosts:
        left = "ls -d /opt/mesh /etc/mesh /etc/systemd/system/mesh* /etc/nftables.d/mesh.nft; id mesh"
        assert mesh.bed.run(host, f"({left}) 2>/dev/null; pgrep -f '[m]esh-' || true").stdout == ""
        assert "mesh" not in mesh.bed.run(host, "nft list tables").stdout
    mesh.site()
    mesh.wait()
    assert [place["properties"]["name"] for place in mesh.client(*AUSTIN)["places"]] == AROUND_AUSTIN


# -- helpers -----------------------------------------------------------------------------------------------------------


def changed_source(mesh: Deployed, directory: Path, file: str, more: str) -> list[str]:
    """Return the arguments for a build of this tree with something appended to a file."""
    source = directory / "source"
    for name in ("mesh", "templates", "inventory"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    (source / file).write_text((source / file).read_text() + more)
    wheels = directory / "wheelhouse"
    if not wheels.exists():  # the dependencies' wheels are the same, and the control namespace reaches no index
        wheels.mkdir()
        for path in (ROOT / "build/wheelhouse").glob("wheels-*"):
            shutil.copytree(path, wheels / path.name)
    return ["-e", f"mesh_source={source}", "-e", f"mesh_wheelhouse={wheels}"]
