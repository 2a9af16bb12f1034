"""The cache of region maps."""

from functools import cache
from pathlib import Path

import pytest

from mesh.client.maps import MapCache, default_directory
from mesh.regions import RegionMap

FILE = Path(__file__).parents[2] / "inventory" / "regions.geojson"


@cache
def the_map() -> RegionMap:
    return RegionMap.load(FILE)


def test_a_map_is_kept_by_its_digest(tmp_path: Path) -> None:
    """And nothing else is left in the directory."""
    cache = MapCache(tmp_path / "new" / "directory")
    digest = the_map().digest.hex()
    assert cache.load(digest) is None
    cache.save(the_map())
    found = cache.load(digest)
    assert found is not None
    assert found.data == the_map().data
    assert [file.name for file in (tmp_path / "new" / "directory").iterdir()] == [f"regions-{digest}.geojson"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"type": "FeatureCollection", "features": []}', b"\xff" * 100])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """It is fetched again and replaced."""
    cache = MapCache(tmp_path)
    digest = the_map().digest.hex()
    cache.path(digest).write_bytes(content)
    assert cache.load(digest) is None
    cache.save(the_map())
    assert cache.load(digest) is not None


def test_another_map_under_that_name_is_not_believed(tmp_path: Path) -> None:
    """The digest is computed from what was read."""
    cache = MapCache(tmp_path)
    cache.path("00000000").write_bytes(the_map().data)
    assert cache.load("00000000") is None


@pytest.mark.parametrize("digest", ["", "../../etc", "0" * 7, "zzzzzzzz", "/etc/pass"])
def test_a_digest_from_the_wire_names_no_other_file(tmp_path: Path, digest: str) -> None:
    """It is eight hexadecimal digits or nothing."""
    assert MapCache(tmp_path).load(digest) is None


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """The map is fetched each time."""
    (tmp_path / "file").write_text("")
    cache = MapCache(tmp_path / "file" / "below")
    cache.save(the_map())
    assert cache.load(the_map().digest.hex()) is None


def test_the_directory_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path is to be ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "mesh"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_directory() == Path("~/.cache/mesh").expanduser()
