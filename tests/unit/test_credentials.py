"""mesh.service.credentials: where secrets come from, and what is said when they do not."""

from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.service import credentials


@pytest.fixture
def systemd(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose credentials are in `tmp_path`."""
    (tmp_path / "shard.ne.password").write_text("p w\n")
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def test_a_secret_is_read_without_its_last_line_end(systemd: dict[str, str], tmp_path: Path) -> None:
    """Editors add one; whatever else is in the file belongs to the secret."""
    assert credentials.read("shard.ne.password", systemd) == "p w"
    (tmp_path / "odd").write_bytes("  ä\"'\n\n".encode())
    assert credentials.read("odd", systemd) == "  ä\"'\n"


def test_outside_of_systemd_a_directory_of_ones_own_serves(systemd: dict[str, str], tmp_path: Path) -> None:
    """With the same names; inside of systemd it is not looked at."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "shard.ne.password").write_text("mine")
    elsewhere = {"MESH_CREDENTIALS_DIRECTORY": str(own)}
    assert credentials.read("shard.ne.password", elsewhere) == "mine"
    assert credentials.read("shard.ne.password", elsewhere | systemd) == "p w"


def test_a_missing_secret_says_what_to_do(systemd: dict[str, str], tmp_path: Path) -> None:
    """In the unit, in the directory, or with a directory at all; the credential is named each time."""
    with pytest.raises(ConfigError) as refused:
        credentials.read("shard.sw.password", systemd)
    assert str(refused.value) == (
        f"{tmp_path}/shard.sw.password: credential: cannot be read: no such file or directory (the unit needs "
        "LoadCredential=shard.sw.password:/etc/mesh/credentials/shard.sw.password)"
    )
    with pytest.raises(ConfigError, match=r"shard\.sw\.password.*point MESH_CREDENTIALS_DIRECTORY"):
        credentials.read("shard.sw.password", {"MESH_CREDENTIALS_DIRECTORY": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"no directory to read x from.*set MESH_CREDENTIALS_DIRECTORY"):
        credentials.read("x", {})


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_file_that_holds_no_secret_is_refused(systemd: dict[str, str], tmp_path: Path, content: bytes) -> None:
    """An empty password would be tried, and refused by somebody who does not know why."""
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is empty|is not UTF-8"):
        credentials.read("bad", systemd)


@pytest.mark.parametrize("name", ["", "../shadow", "/etc/shadow", "a/b", ".hidden", "a\nb", "ä"])
def test_a_name_cannot_leave_the_directory(systemd: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError, match="is no credential's name"):
        credentials.read(name, systemd)


def test_the_fingerprint_is_hexadecimal_or_none(systemd: dict[str, str], tmp_path: Path) -> None:
    """It goes into a status line, so nothing else may come through; without a deployment there is none."""
    assert credentials.fingerprint({}) == credentials.fingerprint(systemd) == "none"
    (tmp_path / "fingerprint").write_text("0123456789ab\n")
    assert credentials.fingerprint(systemd) == "0123456789ab"
    (tmp_path / "fingerprint").write_text("0123\nREADY=1")
    assert credentials.fingerprint(systemd) == "none"
