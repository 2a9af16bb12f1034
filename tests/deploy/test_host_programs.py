"""What the playbooks run on hosts and on the control node: probe, prune, mesh_files, wheelhouse, firewall."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jinja2
import pytest
from packaging.requirements import Requirement

from tests.deploy.load import ANSIBLE, ROOT, load

wheelhouse = load("scripts/wheelhouse")
filters = load("ansible/filter_plugins/mesh.py")
REQUEST = {
    "home": "/nonexistent/mesh",
    "user": "root",
    "packages": ["no-such-package"],
    "space": ["/nonexistent/mesh", "/"],
    "globs": [],
    "units": [],
    "firewall": "/nonexistent.nft",
    "journald": "/nonexistent.conf",
}


def run(path: str, *arguments: str) -> str:
    words = [sys.executable, "-I", str(ANSIBLE / path), *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


# -- probe -------------------------------------------------------------------------------------------------------------


def test_the_probe_reports_and_changes_nothing(tmp_path: Path) -> None:
    """Files by digest and mode, links by target, directories, and what is not there by its absence."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    answer = json.loads(run("roles/base/files/probe.py", json.dumps(REQUEST | {"globs": [f"{tmp_path}/*", "/no/*"]})))
    assert sorted(tmp_path.rglob("*")) == before
    file = answer["paths"][f"{tmp_path}/file"]
    assert (file["kind"], file["mode"], len(file["sha256"])) == ("file", "0640", 64)
    assert answer["paths"][f"{tmp_path}/link"] == {"kind": "link", "target": "nowhere"}
    assert answer["missing_packages"] == ["no-such-package"]
    assert answer["user"] is True
    assert answer["free_mb"]["/nonexistent/mesh"] == answer["free_mb"]["/"]
    assert answer["releases"] == answer["venvs"] == []


# -- prune -------------------------------------------------------------------------------------------------------------


def release(home: Path, name: str, venv: str, age: float | None) -> None:
    (home / "releases" / name).mkdir(parents=True)
    (home / "releases" / name / "venv").symlink_to(home / "venvs" / venv)
    (home / "venvs" / venv).mkdir(parents=True, exist_ok=True)
    if age is not None:
        (home / "releases" / name / ".complete").touch()
        os.utime(home / "releases" / name / ".complete", (age, age))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_pruning_keeps_what_is_needed(tmp_path: Path) -> None:
    """Current and previous whatever their age, the newest, and the software that a process was started from."""
    home, proc = tmp_path / "mesh", tmp_path / "proc"
    for age, name in enumerate(["r1", "r2", "r3", "r4", "r5"], 1):
        release(home, name, f"aaaaaaaaaaa{age}", age)
    release(home, "half", "bbbbbbbbbbbb", None)
    (home / "current").symlink_to("releases/r2")
    (home / "previous").symlink_to("releases/r1")
    (proc / "77").mkdir(parents=True)
    (proc / "77/cmdline").write_bytes(f"{home}/venvs/aaaaaaaaaaa3/bin/python3\0mesh-worker\0".encode())
    removed = run("roles/mesh_services/files/prune.py", str(home), "3", str(proc)).split()
    assert names_in(home / "releases") == ["r1", "r2", "r5"]
    assert names_in(home / "venvs") == [f"aaaaaaaaaaa{n}" for n in (1, 2, 3, 5)]
    assert f"{home}/releases/half" in removed
    assert run("roles/mesh_services/files/prune.py", str(home), "3", str(proc)) == ""


def test_pruning_never_removes_current_and_previous_for_a_count(tmp_path: Path) -> None:
    """Not even if only one is to be kept."""
    for age, name in enumerate(["r1", "r2", "r3"], 1):
        release(tmp_path, name, "aaaaaaaaaaaa", age)
    (tmp_path / "current").symlink_to("releases/r1")
    (tmp_path / "previous").symlink_to("releases/r2")
    run("roles/mesh_services/files/prune.py", str(tmp_path), "1", str(tmp_path / "venvs"))
    assert names_in(tmp_path / "releases") == ["r1", "r2"]


# -- mesh_files --------------------------------------------------------------------------------------------------------


def mesh_files(files: list[dict[str, Any]], directory: Path, *options: str) -> dict[str, Any]:
    """Run the module once on this machine; return its result."""
    words = [
        Path(sys.executable).with_name("ansible"),
        "-i",
        "localhost,",
        "-c",
        "local",
        "localhost",
        "-m",
        "mesh_files",
    ]
    environment = os.environ | {
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_HOME": str(directory / "home"),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [*words, "-a", json.dumps({"files": files}), *options],
        capture_output=True, text=True, check=False, cwd=ANSIBLE, env=environment,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("=> ") + 3 :])
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to root")
def test_files_are_written_once_and_only_looked_at_in_check_mode(tmp_path: Path) -> None:
    """Directories, files and links; a link over a link; the second time nothing differs."""
    (tmp_path / "l").symlink_to("former")
    files = [
        {"path": f"{tmp_path}/d", "mode": "0750"},
        {"path": f"{tmp_path}/d/f", "mode": "0600", "content": "Köln\n"},
        {"path": f"{tmp_path}/l", "target": "d/f"},
    ]
    looked = mesh_files(files, tmp_path, "--check")
    assert (looked["changed"], (tmp_path / "d").exists()) == (True, False)
    assert mesh_files(files, tmp_path)["paths"] == [file["path"] for file in files]
    assert ((tmp_path / "d/f").read_text(), (tmp_path / "l").readlink()) == ("Köln\n", Path("d/f"))
    assert ((tmp_path / "d/f").stat().st_mode & 0o7777, (tmp_path / "d").stat().st_mode & 0o7777) == (0o600, 0o750)
    assert mesh_files(files, tmp_path)["changed"] is False
    assert [path.name for path in tmp_path.rglob(".mesh-*")] == []


# -- wheelhouse --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small source tree with what a wheel is built from."""
    source = tmp_path / "source"
    for name in ("mesh/__init__.py", "templates/mesh.toml.j2", "inventory/regions.geojson", "LICENSE", "README.md"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copyfile(ROOT / name, source / name)
    return source


@pytest.mark.slow
def test_the_same_sources_give_the_same_bytes(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two control nodes agree on the digest; and a second run builds nothing."""
    monkeypatch.setattr(wheelhouse, "download", lambda *_: [])
    inputs = wheelhouse.digest_of(tree)
    one, two = (wheelhouse.build(tree, tmp_path / name, inputs) for name in ("one", "two"))
    assert one == two
    archives = [(tmp_path / name / one["archive"]).read_bytes() for name in ("one", "two")]
    assert archives[0] == archives[1]
    assert wheelhouse.read_manifest(tmp_path / "one") == one
    assert one["version"].startswith("0.1.0+s")


def test_what_changes_a_build(tree: Path) -> None:
    """Code, template, map and lock do; documents, caches and the settings of developers' tools do not."""
    before = wheelhouse.digest_of(tree)
    project = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(project.replace("line-length = 120", "line-length = 99"))
    (tree / "README.md").write_text("other")
    (tree / "mesh/__pycache__").mkdir()
    (tree / "mesh/__pycache__/x.pyc").write_text("other")
    assert wheelhouse.digest_of(tree) == before
    for name in ("mesh/__init__.py", "templates/mesh.toml.j2", "inventory/regions.geojson", "requirements.lock"):
        (tree / name).write_text((tree / name).read_text() + "\n")
        assert wheelhouse.digest_of(tree) != before
        before = wheelhouse.digest_of(tree)
    (tree / "pyproject.toml").write_text(project.replace('"tomli>=2.0', '"tomli>=2.1'))
    assert wheelhouse.digest_of(tree) != before


def test_every_build_of_a_changed_tree_has_its_own_version(tree: Path) -> None:
    """The trap: pip does not install a second 0.1.0 over the first."""
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@example.net"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    clean = wheelhouse.version_of(tree, "1" * 64)
    assert clean.startswith("0.1.0+g")
    (tree / "README.md").write_text("other")
    assert wheelhouse.version_of(tree, "1" * 64) == clean
    (tree / "mesh/__init__.py").write_text("x = 1\n")
    assert wheelhouse.version_of(tree, "1" * 64) == f"{clean}.d1111111111"
    assert wheelhouse.version_of(tree, "2" * 64) != wheelhouse.version_of(tree, "1" * 64)


def test_the_lock_file_has_what_the_package_needs() -> None:
    """Each dependency in a version it allows, and a hash for every line."""
    text = (ROOT / "requirements.lock").read_text()
    locked = dict(line.split(" ")[0].split("==") for line in text.splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": wheelhouse.PYTHON}):
            assert locked[requirement.name] in requirement.specifier, f"{requirement}: run scripts/lock"
    assert text.count("--hash=sha256:") >= len(locked)


# -- firewall ----------------------------------------------------------------------------------------------------------


def rules(**changes: Any) -> str:
    """Render the rules as the role does."""
    networks = {
        "peers": ["10.0.0.1", "fd00::1"],
        "workers": [],
        "clients": ["0.0.0.0/0", "::/0"],
        "ssh": ["10.0.0.0/8"],
    }
    sets = [{"name": name, "networks": values} for name, values in (networks | changes).items()]
    ports = {"ssh": 22, "mesh": 5570, "workers": 5571, "mongodb": 27017, "open": changes.get("open", [])}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((ROOT / "templates/mesh.nft.j2").read_text())
    return template.render(mesh_firewall_ports=ports, mesh_firewall_sets=filters.nft_sets(sets))


def test_the_rule_text_does_not_depend_on_who_is_in_the_sets() -> None:
    """Only elements change when a host is added, so a difference is easy to read."""

    def chain(text: str) -> str:
        return text[text.index("chain input") :]

    assert chain(rules()) == chain(rules(peers=["10.0.0.1", "10.0.0.2"], workers=["10.0.0.9"]))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft")
def test_a_reload_replaces_our_table_and_no_other(tmp_path: Path) -> None:
    """In a network namespace of its own: twice in a row, beside another's table, and as the probe compares it."""
    (tmp_path / "one.nft").write_text(rules())
    (tmp_path / "two.nft").write_text(rules(open=[9100], workers=["10.0.0.9"]))
    (tmp_path / "other.nft").write_text("table ip docker {\n}\n")
    source = (ANSIBLE / "roles/base/files/probe.py").read_text().removesuffix("main()\n")
    (tmp_path / "say.py").write_text(source + "print(firewall(sys.argv[1]))\n")
    script = f"""
set -e
nft -f {tmp_path}/other.nft; nft -f {tmp_path}/one.nft; nft -f {tmp_path}/two.nft
nft list tables
say() {{ {sys.executable} {tmp_path}/say.py {tmp_path}/$1.nft; }}
say two; say one
nft add rule inet mesh input tcp dport 1 accept; say two
nft delete table inet mesh; say two
"""
    (tmp_path / "script").write_text(script)
    done = subprocess.run(["unshare", "--net", "sh", tmp_path / "script"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split("\n") == ["table ip docker", "table inet mesh", "same", "other", "other", "absent", ""]
