"""The pure parts of scripts/lab: which hosts there are, whose process a pid is, what a recap says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nspawn_lab import cgroups, cli, control, image, keys, lifecycle
from nspawn_lab.layout import INVENTORY, ROOT, Guest, LabError, Layout, find, layout, read_guests
from nspawn_lab.processes import Record, children, descendants, enter, run, start_daemon, wait_until

from tests.lab.testbed import PlaybookRun, layout_of

NE = Guest("ne.example.net", "10.77.0.11", "ne")
NE_W1 = Guest("ne-w1.example.net", "10.77.0.21", "ne")
HOST = "{mesh_region: ne, mesh_address: %d}"
RECAP = """\
TASK [mesh : Say PLAY RECAP] ***
PLAY RECAP *********************************************************************
ca.example.net             : ok=17   changed=3    unreachable=0    failed=0    skipped=4    rescued=0    ignored=0
localhost                  : ok=1    changed=0    unreachable=0    failed=0    skipped=0    rescued=0    ignored=0
ne.example.net : ok=2 changed=0 unreachable=1 failed=1 skipped=0 rescued=0 ignored=0

"""


def inventory(directory: Path, text: str) -> Path:
    path = directory / "hosts.yml"
    path.write_text(text, encoding="utf-8")
    return path


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_the_lab_has_five_regions_and_a_host_with_workers_only():
    """The committed inventory is the one that the documentation speaks of, in its order."""
    guests = read_guests(INVENTORY)

    assert [guest.short for guest in guests] == ["ne", "south", "mw", "sw", "ca", "ne-w1"]
    assert [guest.region for guest in guests] == ["ne", "south", "mw", "sw", "ca", "ne"]
    assert guests[0] == NE


@pytest.mark.parametrize("name", ["ne", "NE", "ne.example.net", "10.77.0.11"])
def test_a_host_has_three_names(name: str):
    """A host is found by its first label, its name and its address."""
    assert find([NE_W1, NE], name) == NE


def test_a_host_that_is_not_there_is_answered_with_those_that_are():
    """A typo is answered with the choice."""
    with pytest.raises(LabError, match="no host 'new'; there are ne, ne-w1"):
        find([NE, NE_W1], "new")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "has no hosts"),
        ("mesh: {hosts: {a.example.net: {mesh_region: ne}}}", "a.example.net has no mesh_address"),
        ("mesh: {hosts: {a.example.net: }}", "has no mesh_address"),
        (f"m: {{hosts: {{a.x: {HOST % 1}, a.y: {HOST % 2}}}}}", "two hosts have a"),
        (f"m: {{hosts: {{a.x: {HOST % 1}, b.x: {HOST % 1}}}}}", "two hosts have 1"),
        ("mesh: [", "cannot read the inventory"),
    ],
)
def test_a_wrong_inventory_is_refused_with_its_fault(tmp_path: Path, text: str, hint: str):
    """What is missing or twice is named."""
    with pytest.raises(LabError, match=hint):
        read_guests(inventory(tmp_path, text))


def test_a_missing_inventory_is_refused(tmp_path: Path):
    """A wrong -i is an error of one line."""
    with pytest.raises(LabError, match="cannot read the inventory"):
        read_guests(tmp_path / "none.yml")


def test_a_cable_has_a_name_that_the_kernel_takes():
    """The names of network devices end after 15 characters."""
    assert NE_W1.link == "v-ne-w1"
    assert len(Guest("a-very-long-name-indeed.example.net", "10.77.0.9", "ne").link) == 15


# -- labs --------------------------------------------------------------------------------------------------------------


def test_labs_share_no_name(monkeypatch: pytest.MonkeyPatch):
    """Even where one lab's name starts with another's, none of their namespaces or directories meet."""
    monkeypatch.setenv("MESH_LAB", "mesh-lab-ne")
    other = layout()

    assert other.run != Layout().run
    assert other.control != Layout().namespace(NE)
    assert not other.control.startswith(f"{Layout().control}.")


@pytest.mark.parametrize("name", ["../x", "a.b", "A", "-x", "x" * 25])
def test_a_lab_needs_a_decent_name(monkeypatch: pytest.MonkeyPatch, name: str):
    """A name becomes a directory that is removed: nothing that leads elsewhere is taken."""
    monkeypatch.setenv("MESH_LAB", name)

    with pytest.raises(LabError, match="no name for a lab"):
        layout()


def test_tests_use_a_lab_of_their_own():
    """Neither a person's lab nor that of another checkout is touched by tests."""
    assert layout_of(Path("/a")) != layout_of(Path("/b"))
    assert layout_of(ROOT).name != Layout().name


def test_hosts_files_have_every_host():
    """Everybody finds everybody by both names, and the control node."""
    lines = keys.hosts_file([NE, NE_W1]).splitlines()

    assert "127.0.0.1 localhost" in lines
    assert "10.77.0.21 ne-w1.example.net ne-w1" in lines
    assert any(line.startswith("10.77.0.1 ") for line in lines)


def test_the_image_is_cached_by_its_recipe(monkeypatch: pytest.MonkeyPatch):
    """Another package or another file is another image."""
    before = image.digest()
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "cowsay"))
    more = image.digest()
    monkeypatch.setitem(image.FILES, "etc/motd", "hello")

    assert len({before, more, image.digest()}) == 3


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_record_is_of_one_process_and_not_of_its_number(tmp_path: Path):
    """A pid that was given to another process is not ours to end."""
    with subprocess.Popen(["sleep", "60"]) as process:
        mine = Record.of(process.pid)
        assert mine
        mine.write(tmp_path / "record.json")
        other = Record(mine.pid, mine.start - 1)

        assert (mine.alive, other.alive) == (True, False)
        other.end()
        assert process.poll() is None
        read = Record.read(tmp_path / "record.json")
        assert read == mine
        read.end()

        assert process.wait(10) == -9
        assert not mine.alive


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pid": "x", "start": 1}'])
def test_a_broken_record_is_none(tmp_path: Path, text: str):
    """A lab killed in the middle of a write leaves half a record, and `down` works all the same."""
    (tmp_path / "record.json").write_text(text)

    assert Record.read(tmp_path / "record.json") is None
    assert Record.read(tmp_path / "missing.json") is None


def test_a_process_that_waits_to_be_reaped_is_not_alive():
    """A zombie has a number and a start time, and is gone all the same."""
    process = subprocess.Popen(["true"])
    record = wait_until(lambda: Record.of(process.pid) is None, 10)

    assert record
    process.wait()


def test_a_daemon_is_nobodys_child_and_writes_its_log(tmp_path: Path):
    """What `up` starts outlives it, in a session of its own."""
    record = start_daemon(["sh", "-c", "echo hello; exec sleep 60"], tmp_path / "a/log")
    try:
        assert wait_until(lambda: os.getsid(record.pid) == record.pid, 10)
        assert record.pid not in children(os.getpid())
        assert wait_until(lambda: (tmp_path / "a/log").read_text() == "hello\n", 10)
    finally:
        record.end()
    assert wait_until(lambda: not record.alive, 10)


def test_descendants_are_children_and_theirs():
    """Everything below a process is found."""
    with subprocess.Popen(["sh", "-c", "sh -c 'sleep 60 & wait' & wait"]) as process:
        try:
            assert wait_until(lambda: len(list(descendants(process.pid))) == 2, 10)
        finally:
            for pid in list(descendants(process.pid)):
                os.kill(pid, 9)
            process.kill()


def test_a_failed_command_says_what_it_said():
    """The error has the command and its last words."""
    with pytest.raises(LabError, match=r"`sh -c .*` failed: no such thing"):
        run("sh", "-c", "echo something; echo no such thing >&2; exit 3")
    assert run("false", check=False).returncode == 1


def test_nothing_of_this_machines_environment_enters_a_host():
    """PATH, proxies and locale of the machine stay outside: a host has its own."""
    words = enter(42, ["printenv"])

    assert words[words.index("env") + 1] == "-i"
    assert "-n" in words[: words.index("env")], "not without its network"


def test_the_number_of_a_process_elsewhere_is_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel shows a process of another pid namespace as 0, which to kill() means the caller's own group."""
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    (tmp_path / "memory/mesh-lab/ne").mkdir(parents=True)
    (tmp_path / "memory/cgroup.procs").touch()
    (tmp_path / "memory/mesh-lab/ne/cgroup.procs").write_text("0\n17\n")

    assert cgroups.pids(Layout(), "ne") == {17}


def test_a_cpuset_is_filled_from_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A new cpuset of cgroup v1 is empty and would refuse every process."""
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    for group, cpus in ((".", "0-1\n"), ("mesh-lab", "\n"), ("mesh-lab/ne", "\n")):
        directory = tmp_path / "cpuset" / group
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").touch()
        (directory / "cpuset.cpus").write_text(cpus)
        (directory / "cpuset.mems").write_text("0\n")

    assert cgroups.make(Layout(), "ne", 1 << 30) == [tmp_path / "cpuset/mesh-lab/ne/cgroup.procs"]
    assert (tmp_path / "cpuset/mesh-lab/ne/cpuset.cpus").read_text() == "0-1\n"


# -- the command line --------------------------------------------------------------------------------------------------


def test_a_machine_without_the_programs_is_told_how_to_get_them(monkeypatch: pytest.MonkeyPatch):
    """One line with the packages to install."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool in {"ssh", "ssh-keygen", "debootstrap"} else tool)

    assert lifecycle.missing().endswith("apt-get install debootstrap openssh-client")


def test_only_root_can_make_hosts(monkeypatch: pytest.MonkeyPatch):
    """Whoever is not root is told so, before anything else is looked at."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert "root" in lifecycle.missing()


def test_every_command_has_help():
    """`scripts/lab COMMAND --help` says what the command does, and the first page names them all."""
    done = subprocess.run([ROOT / "scripts/lab", "--help"], capture_output=True, text=True, check=True)

    for name, function in cli._COMMANDS.items():
        assert name in done.stdout
        assert function.__doc__


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["exec", "--", "mesh-client", "--broker", "ne", "-i"], ["mesh-client", "--broker", "ne", "-i"]),
        (["deploy", "-e", "mesh_workers_count=3"], ["-e", "mesh_workers_count=3"]),
        (["-i", "lab.yml", "deploy", "--limit", "ne"], ["--limit", "ne"]),
        (["ssh", "ne", "journalctl", "-u", "mesh-broker"], ["journalctl", "-u", "mesh-broker"]),
        (["deploy"], []),
    ],
)
def test_words_after_a_command_are_passed_on(words: list[str], passed: list[str]):
    """Options of what is run are not taken for the lab's."""
    assert cli.parsed(words).words == passed


def test_a_playbook_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`deploy` without playbooks, or without Ansible, says what to do."""
    monkeypatch.setattr(control, "ROOT", tmp_path)
    monkeypatch.setattr(control, "PLAYBOOK", tmp_path / "ansible-playbook")
    with pytest.raises(LabError, match=r"no ansible/site\.yml"):
        control.prepare_playbook(Layout())
    (tmp_path / "ansible").mkdir()
    (tmp_path / "ansible/site.yml").touch()
    with pytest.raises(LabError, match=r"pip install -e"):
        control.prepare_playbook(Layout())


# -- what tests read ---------------------------------------------------------------------------------------------------


def test_a_recap_is_read_for_each_host():
    """The counts of PLAY RECAP, and who changed."""
    ran = PlaybookRun("ansible-playbook", 2, RECAP, "", 1.0)

    assert ran.recap["ne.example.net"]["unreachable"] == 1
    assert ran.recap["ca.example.net"]["ok"] == 17
    assert ran.changed == {"ca.example.net": 3}


def test_a_playbook_that_died_early_has_no_recap():
    """A syntax error leaves nobody with counts, and the check shows what was said."""
    ran = PlaybookRun("ansible-playbook", 4, "ERROR! syntax", "", 1.0)

    assert ran.recap == {}
    with pytest.raises(AssertionError, match="ERROR! syntax"):
        ran.check()


def test_status_needs_no_rights(tmp_path: Path):
    """Anybody may ask what runs; without a lab everything is off."""
    path = inventory(tmp_path, "mesh: {hosts: {a.example.net: {mesh_region: ne, mesh_address: 10.77.0.11}}}")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/lab", "-i", path, "status", "--json"],
        env=os.environ | {"MESH_LAB": "no-such-lab"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert [host["state"] for host in json.loads(done.stdout)["hosts"]] == ["off"]
