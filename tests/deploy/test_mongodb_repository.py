"""scripts/mongodb_repository: what apt and dpkg think of what it builds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.store.mongod import find_mongod

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts/mongodb_repository"
SUITE = "dists/bookworm/mongodb-org/6.0"
TOOLS = ("dpkg-deb", "gpg", "gpgv")

pytestmark = [pytest.mark.mongo, pytest.mark.slow]


def _run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False, **options)


def _build(out: Path) -> subprocess.CompletedProcess[str]:
    return _run(SCRIPT, out, env=os.environ | {"PYTHON": sys.executable})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build one; without a mongod or the tools, skip on a laptop with the reason, and fail in CI."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    try:
        find_mongod()
    except ConfigError as error:
        missing.append(str(error))
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"missing: {', '.join(missing)}")
    out = tmp_path_factory.mktemp("apt") / "repository"
    done = _build(out)
    assert done.returncode == 0, done.stderr
    return out


def test_the_signatures_verify_with_the_exported_key_alone(repository: Path, tmp_path: Path) -> None:
    """InRelease and Release.gpg are signed by server-6.0.asc; one changed byte breaks them."""
    ring = tmp_path / "ring.gpg"
    _run("gpg", "--homedir", tmp_path, "--dearmor", "--output", ring, repository / "server-6.0.asc")
    suite = repository / SUITE
    assert _run("gpgv", "--keyring", ring, suite / "InRelease").returncode == 0
    assert _run("gpgv", "--keyring", ring, suite / "Release.gpg", suite / "Release").returncode == 0
    forged = tmp_path / "InRelease"
    forged.write_text((suite / "InRelease").read_text().replace("Origin: mongodb", "Origin: mongodc"))
    assert _run("gpgv", "--keyring", ring, forged).returncode != 0


def test_the_packages_have_the_vendors_names_files_and_user(repository: Path) -> None:
    """The role meets what it would meet from the vendor: unit, configuration as conffile, no Restart=, no start."""
    pool = repository / SUITE / "main/binary-amd64"
    meta, server = pool / "mongodb-org_6.0.5_amd64.deb", pool / "mongodb-org-server_6.0.5_amd64.deb"
    assert "mongodb-org-server (= 6.0.5)" in _run("dpkg-deb", "-f", meta, "Depends").stdout
    fields = _run("dpkg-deb", "-f", server).stdout
    assert all(
        f"{line}\n" in fields for line in ("Package: mongodb-org-server", "Version: 6.0.5", "Architecture: amd64")
    )
    assert "libcurl4" in fields
    listing = _run("dpkg-deb", "-c", server).stdout
    for path in ("./usr/bin/mongod", "./lib/systemd/system/mongod.service", "./etc/mongod.conf"):
        assert path in listing
    assert "root/root" in listing
    assert _run("dpkg-deb", "-I", server, "conffiles").stdout == "/etc/mongod.conf\n"
    setup = _run("dpkg-deb", "-I", server, "postinst").stdout
    assert "adduser --quiet --system" in setup
    assert "start" not in setup.replace("postinst", "")
    unit = _run("sh", "-c", f"dpkg-deb --fsys-tarfile {server} | tar -xO ./lib/systemd/system/mongod.service").stdout
    assert {"User=mongodb", "LimitNOFILE=64000", "ExecStart=/usr/bin/mongod --config /etc/mongod.conf"} <= set(
        unit.split("\n")
    )
    assert "Restart=" not in unit


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")
def test_apt_takes_it_as_a_source(repository: Path, tmp_path: Path) -> None:
    """Apt verifies the signature, reads the index, and would install mongodb-org 6.0.5."""
    for directory in ("lists/partial", "cache/archives/partial", "etc", "dpkg"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "dpkg/status").touch()
    source = tmp_path / "etc/sources.list"
    signed = f"deb [arch=amd64 signed-by={repository}/server-6.0.asc]"
    source.write_text(f"{signed} file:{repository} bookworm/mongodb-org/6.0 main\n")
    options = [f"Dir::Etc::sourcelist={source}", "Dir::Etc::sourceparts=/dev/null",
               f"Dir::State::lists={tmp_path}/lists",
               f"Dir::State::status={tmp_path}/dpkg/status", f"Dir::Cache={tmp_path}/cache", "APT::Sandbox::User=root",
               "APT::Architecture=amd64"]  # fmt: skip
    given = [word for option in options for word in ("-o", option)]
    update = _run("apt-get", *given, "update")
    assert (update.returncode, update.stderr) == (0, "")
    assert "Candidate: 6.0.5" in _run("apt-cache", *given, "policy", "mongodb-org").stdout


def test_a_second_run_changes_nothing(repository: Path) -> None:
    """Built once, it is only looked at; the key stays the same."""
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    done = _build(repository)
    assert (done.returncode, "is complete" in done.stdout) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


@pytest.mark.parametrize("content", ["a file", "a directory"])
def test_what_is_no_repository_is_never_replaced(repository: Path, tmp_path: Path, content: str) -> None:
    """A directory with other things in it, given by mistake, stays as it is."""
    target = tmp_path / "home"
    kept = target if content == "a file" else target / "thesis.tex"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("years of work")
    done = _build(target)
    assert (done.returncode, "not such a repository" in done.stderr) == (1, True)
    assert kept.read_text() == "years of work"


def test_the_signing_key_is_not_kept(repository: Path) -> None:
    """Nothing in what is served can sign."""
    texts = [path.read_bytes() for path in repository.rglob("*") if path.is_file() and path.stat().st_size < 100_000]
    assert texts
    assert not any(b"PRIVATE KEY" in text for text in texts)
