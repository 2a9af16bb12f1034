"""The lab itself: what its hosts can do, what they cannot reach, and that nothing is left of it."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nspawn_lab import guests, lifecycle, network
from nspawn_lab.layout import ROOT, LabError
from nspawn_lab.processes import Record, children, descendants, wait_until

from tests.lab.testbed import Testbed, layout_of

#: What the mesh's units ask of systemd and of the kernel, all at once.
STRICT_UNIT = """
[Service]
Type=notify
NotifyAccess=all
DynamicUser=yes
LoadCredential=word:/root/word
ProtectSystem=strict
PrivateTmp=yes
NoNewPrivileges=yes
SystemCallFilter=~@mount
SystemCallErrorNumber=EPERM
MemoryMax=64M
ExecStart=/bin/sh -c 'cat $CREDENTIALS_DIRECTORY/word; id -u; touch /usr/x; unshare -m true; \
systemd-notify --ready; exec sleep 300'
"""
HUNGRY_UNIT = """
[Service]
MemoryMax=64M
MemorySwapMax=0
ExecStart=/usr/bin/python3 -c 'bytearray(200 << 20)'
"""
SILENT_UNIT = """
[Service]
Type=notify
NotifyAccess=all
WatchdogSec=1
ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 300'
"""
UNIT = "/etc/systemd/system/{}.service"


@pytest.fixture
def small_lab(able: None, tmp_path: Path) -> Iterator[Testbed]:
    """Return a lab of two hosts that a test may do anything to, not up yet."""
    inventory = tmp_path / "small.yml"
    inventory.write_text(
        "mesh: {hosts: {a.example.net: {mesh_region: ne, mesh_address: 10.77.0.11},"
        " b.example.net: {mesh_region: ca, mesh_address: 10.77.0.12}}}"
    )
    testbed = Testbed(layout_of(ROOT, "small"), inventory)
    testbed.down()
    yield testbed
    testbed.down()


def command(testbed: Testbed, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run scripts/lab for a lab."""
    return subprocess.run(
        [str(ROOT / "scripts/lab"), "-i", str(testbed.inventory), *words],
        env=os.environ | {"MESH_LAB": testbed.layout.name},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# -- what hosts are ----------------------------------------------------------------------------------------------------


def test_every_host_boots_without_a_failed_unit(lab: Testbed):
    """All hosts of the inventory run Debian 12 and are fully up."""
    assert dict.fromkeys(lab.hosts, "running") == {host: lab.state(host) for host in lab.hosts}

    assert "bookworm" in lab.read("ne", "/etc/os-release")


def test_hosts_differ_where_hosts_differ(lab: Testbed):
    """No two hosts share a machine id, a host key or a name."""
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/hostname"):
        assert len(lab.hosts) == len({lab.read(host, path) for host in lab.hosts})


def test_ssh_needs_no_options_and_trusts_the_right_host_only(lab: Testbed):
    """In the control namespace plain ssh gets in by name and by address, and refuses a host with another key."""
    for name in ("ne.example.net", "10.77.0.11"):
        assert lab.control("ssh", f"root@{name}", "hostname").stdout == "ne\n"

    refused = lab.control("ssh", "-o", "HostKeyAlias=ca.example.net", "root@ne.example.net", "true", check=False)

    assert refused.returncode == 255
    assert "verification failed" in refused.stderr.lower()


def test_ansible_reaches_every_host(lab: Testbed):
    """Ansible's own ping works with the inventory as it is."""
    done = lab.control("ansible", "mesh", "-m", "ping")

    assert len(lab.hosts) == done.stdout.count("SUCCESS")


def test_what_the_units_need_works(lab: Testbed):
    """Credentials, dynamic users, read-only trees and system call filters are enforced in hosts."""
    lab.write("ne", "/root/word", "sesame\n")
    lab.write("ne", UNIT.format("strict"), STRICT_UNIT)
    try:
        lab.run("ne", "systemctl daemon-reload && systemctl start strict")
        said = lab.run("ne", "journalctl -u strict -o cat --no-pager").stdout
    finally:
        lab.run("ne", f"systemctl stop strict; rm /root/word {UNIT.format('strict')}; systemctl daemon-reload")

    assert "sesame" in said
    assert re.search(r"^6\d{4}$", said, re.MULTILINE), "no dynamic user"
    assert "Read-only file system" in said
    assert "unshare failed: Operation not permitted" in said


def test_memory_limits_are_enforced(lab: Testbed):
    """A unit that takes more than its MemoryMax is killed: without cgroups writable at boot it would not be."""
    lab.write("ne", UNIT.format("hungry"), HUNGRY_UNIT)
    try:
        lab.run("ne", "systemctl daemon-reload; systemctl start --wait hungry", check=False)
        result = lab.run("ne", "systemctl show -P Result hungry").stdout.strip()
    finally:
        lab.run("ne", f"systemctl reset-failed hungry; rm {UNIT.format('hungry')}; systemctl daemon-reload")

    assert result in {"signal", "oom-kill"}


def test_the_watchdog_bites(lab: Testbed):
    """A unit that does not feed its watchdog is killed."""
    lab.write("ne", UNIT.format("silent"), SILENT_UNIT)
    try:
        lab.run("ne", "systemctl daemon-reload; systemctl start silent")
        show = "systemctl show -P Result silent"
        wait_until(lambda: "watchdog" in lab.run("ne", show).stdout, 10)
        result = lab.run("ne", show).stdout.strip()
    finally:
        lab.run("ne", f"systemctl reset-failed silent; rm {UNIT.format('silent')}; systemctl daemon-reload")

    assert result == "watchdog"


def test_a_unit_may_lock_memory(lab: Testbed):
    """As on a real host, within LimitMEMLOCK; nspawn alone forbids it, and a mongod with TLS then aborts."""
    program = "import ctypes, sys; b = bytes(4096); sys.exit(-ctypes.CDLL(None).mlock(b, 4096))"
    lab.run("ne", f"systemd-run --quiet --wait --collect -p LimitMEMLOCK=64K python3 -c '{program}'")


def test_a_host_has_its_own_firewall(lab: Testbed):
    """A rule set of one host is not another's, nor this machine's."""
    lab.run("ne", "nft add table inet lab_test")
    try:
        others = [lab.run(host, "nft list tables").stdout for host in lab.hosts[1:]]
        ours = subprocess.run(["ip", "netns", "exec", lab.layout.control, "true"], check=False).returncode
    finally:
        lab.run("ne", "nft delete table inet lab_test")

    assert not any("lab_test" in tables for tables in others)
    assert ours == 0


# -- power and cables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["power_off", "cut_power", "inside"])
def test_a_reboot_keeps_what_was_written(lab: Testbed, way: str):
    """Files survive an orderly shutdown, a pulled plug and a reboot that the host itself asked for."""
    lab.run("sw", f"echo {way} >/root/kept")
    before = lab.boot_id("sw")
    if way == "inside":
        lab.run("sw", "systemctl reboot")
        assert wait_until(lambda: lab.boot_id("sw") not in {"", before}, 30)
    else:
        getattr(lab, way)("sw")
        assert lab.state("sw") == "off"

    assert lab.start("sw") == []

    assert f"{way}\n" == lab.read("sw", "/root/kept")
    assert lab.boot_id("sw") != before
    assert lab.control("ssh", "root@sw.example.net", "hostname").stdout == "sw\n"


def test_a_pulled_cable_cuts_off_one_host_only(lab: Testbed):
    """Without its link a host is not reachable from others, and with it again it is."""
    ask = "timeout 2 bash -c 'exec 3<>/dev/tcp/{}/22 && head -c 3 <&3'"
    with lab.unplugged("ca"):
        assert lab.run("ne", ask.format("10.77.0.15"), check=False).returncode != 0
        assert lab.run("ne", ask.format("10.77.0.12")).stdout == "SSH"

    assert wait_until(lambda: lab.run("ne", ask.format("10.77.0.15"), check=False).stdout == "SSH", 10)


def test_hosts_reach_the_lab_and_nothing_else(lab: Testbed):
    """From a host there is a way to its own network only: not to this machine's addresses, not to the internet."""
    devices = lab.run("ne", "ip -br link").stdout
    routes = lab.run("ne", "ip route; ip -6 route show default").stdout
    outside = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    addresses = [a for a in re.findall(r"inet ([\d.]+)", outside) if not a.startswith("127.")]

    assert {"lo", "mesh0"} == {line.split("@")[0].split()[0] for line in devices.splitlines()}
    assert routes.split()[0] == "10.77.0.0/24"
    assert len(routes.splitlines()) == 1
    for address in [*addresses, "1.1.1.1", "2606:4700::1111"]:
        assert "unreachable" in lab.run("ne", f"ip route get {address}", check=False).stderr
    assert "200" in lab.run("ne", FETCH).stdout


FETCH = "python3 -c \"import urllib.request as u; print(u.urlopen('http://10.77.0.1:8077/', timeout=5).status)\""


def test_the_control_namespace_has_no_way_out(lab: Testbed):
    """What runs beside the hosts, such as a playbook, cannot reach the internet either."""
    assert "unreachable" in lab.control("ip", "route", "get", "1.1.1.1", check=False).stderr


# -- coming and going --------------------------------------------------------------------------------------------------


def test_up_twice_is_up_once(small_lab: Testbed):
    """A second `up` starts nothing, and one after a power failure starts that host only, with its files."""
    assert command(small_lab, "up").returncode == 0
    small_lab.write("a", "/root/kept", "kept")
    small_lab.cut_power("a")
    second = Record.read(small_lab.layout.state(small_lab.guest("b")) / "supervisor.json")

    again = command(small_lab, "up")

    assert "2 hosts are up, 1 of them started" in again.stderr
    assert small_lab.read("a", "/root/kept") == "kept"
    assert second == Record.read(small_lab.layout.state(small_lab.guest("b")) / "supervisor.json")


def test_status_is_for_programs_too(small_lab: Testbed):
    """`status --json` names every host with its state and its failed units, `off` before and after."""
    command(small_lab, "up")
    small_lab.run("a", "systemd-run -q --unit broken false; sleep 0.3", check=False)

    states = {h["host"]: h for h in json.loads(command(small_lab, "status", "--json").stdout)["hosts"]}
    command(small_lab, "down")
    after = json.loads(command(small_lab, "status", "--json").stdout)["hosts"]

    assert (states["a.example.net"]["state"], states["a.example.net"]["failed"]) == ("degraded", ["broken.service"])
    assert states["b.example.net"]["state"] == "running"
    assert [host["state"] for host in after] == ["off", "off"]


def test_down_leaves_nothing(small_lab: Testbed):
    """After `down` there is no mount, namespace, process, group or file of the lab."""
    small_lab.up()
    assert lifecycle.leftovers(small_lab.layout)

    done = command(small_lab, "down")

    assert (done.returncode, lifecycle.leftovers(small_lab.layout)) == (0, []), done.stderr


@pytest.mark.parametrize("lost", [False, True], ids=["with records", "without records"])
def test_down_cleans_up_after_a_lab_that_was_killed(small_lab: Testbed, lost: bool):
    """Whatever was killed in whatever order, `down` finds the rest, by names where the records are gone."""
    small_lab.up()
    first, second = (guests.supervisor(small_lab.layout, guest) for guest in small_lab.guests)
    assert first
    assert second
    os.kill(first.pid, signal.SIGKILL)  # its nspawn lives on, without anybody to start it again
    for nspawn in children(second.pid):
        os.kill(nspawn, signal.SIGKILL)
    loitering = subprocess.Popen(["ip", "netns", "exec", small_lab.layout.control, "sleep", "1000"])
    if lost:
        for record in small_lab.layout.run.rglob("*.json"):
            record.unlink()

    left = small_lab.down()

    assert left == []
    assert loitering.wait(5) == -signal.SIGKILL


def test_up_repairs_a_lab_that_was_killed(small_lab: Testbed):
    """`up` alone gets a lab going again whose processes are gone."""
    small_lab.up()
    for guest in small_lab.guests:
        record = guests.supervisor(small_lab.layout, guest)
        assert record
        for pid in [record.pid, *descendants(record.pid)]:
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda record=record: not record.alive, 5)

    small_lab.up()

    assert [small_lab.state(host) for host in small_lab.hosts] == ["running", "running"]


def test_down_ends_no_process_that_only_has_a_recorded_number(small_lab: Testbed):
    """A pid that was used again belongs to somebody else."""
    with subprocess.Popen(["sleep", "1000"]) as innocent:
        stale = Record(innocent.pid, 1)
        stale.write(small_lab.layout.run / "guests/a/supervisor.json")
        stale.write(small_lab.layout.run / "repository.json")

        assert small_lab.down() == []

        assert innocent.poll() is None
        innocent.kill()


def test_no_host_starts_on_this_machines_network(small_lab: Testbed):
    """A namespace that leads to the network we are in is refused before anything runs in it."""
    small_lab.up()
    guest = small_lab.guest("a")
    small_lab.cut_power("a")
    namespace = small_lab.layout.namespace(guest)
    network.remove(namespace)
    file = network.NAMESPACES / namespace
    file.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", str(file)], check=True)

    with pytest.raises(LabError, match="refusing"):
        guests.start(small_lab.layout, guest)

    assert guests.supervisor(small_lab.layout, guest) is None


def test_down_never_ends_what_runs_on_this_machines_network(small_lab: Testbed):
    """A name of the lab's that leads to our own network makes nobody there a process of the lab."""
    namespace = small_lab.layout.namespace(small_lab.guest("a"))
    file = network.NAMESPACES / namespace
    file.parent.mkdir(exist_ok=True)
    file.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", str(file)], check=True)

    assert network.pids(namespace) == []  # before `down`, which would end us too

    assert small_lab.down() == []
    assert not file.exists()


def test_a_saved_state_comes_back(small_lab: Testbed):
    """After `restore` every host has the disk of `save`: what was written, changed and removed since then is undone."""
    small_lab.up()
    identity = small_lab.read("a", "/etc/machine-id")
    small_lab.run("a", "echo first >/root/kept; rm /etc/motd; mkdir /root/d; touch /root/d/x")
    small_lab.save("one")
    small_lab.run("a", "echo second >/root/kept; rm -r /root/d; touch /etc/motd")
    small_lab.save("two")
    small_lab.run("a", "echo third >/root/kept")

    small_lab.restore("two")
    second = small_lab.read("a", "/root/kept")
    small_lab.restore("one")

    assert second == "second\n"
    assert small_lab.run("a", "cat /root/kept; ls /root/d; ls /etc/motd; true").stdout == "first\nx\n"
    assert small_lab.read("a", "/etc/machine-id") == identity
    assert small_lab.control("ssh", "root@a.example.net", "hostname").stdout == "a\n"
    assert (small_lab.saved("one"), small_lab.saved("two")) == (True, False)
    with pytest.raises(LabError, match="no saved state 'two'; there is one"):
        small_lab.restore("two")
    assert small_lab.state("a") == "running", "a wrong name stops nothing"


def test_two_labs_run_side_by_side(lab: Testbed, small_lab: Testbed):
    """Another lab with the same addresses is another world."""
    small_lab.up()

    assert small_lab.control("ssh", "root@10.77.0.11", "hostname").stdout == "a\n"
    assert lab.control("ssh", "root@10.77.0.11", "hostname").stdout == "ne\n"
    small_lab.down()
    assert lab.state("ne") == "running"


def test_what_a_user_gets_wrong_is_said_in_one_line(small_lab: Testbed):
    """A host that is not there, a lab that is not up: exit code 1 and what to do, no traceback."""
    for words, hint in (
        (["ssh", "nowhere"], "there are a, b"),
        (["exec", "--", "true"], "scripts/lab up"),
        (["start", "a"], "up"),
    ):
        done = command(small_lab, *words)

        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert hint in done.stderr
