"""Dump and restore of a shard, on a real mongod: exactly, from one moment, all or nothing."""

import gzip
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import msgspec
import pytest

from mesh.errors import InvalidRequest, MeshError, StoreError
from mesh.model import Draft
from mesh.store import archive
from mesh.store.archive import Header
from mesh.store.mongo import MongoStore
from mesh.store.mongod import Mongod

pytestmark = [pytest.mark.mongo, pytest.mark.slow]

_SQUARE = {"type": "Polygon", "coordinates": [[[-71.0, 42.0], [-70.0, 42.0], [-70.0, 43.0], [-71.0, 42.0]]]}
_PLACES = [
    Draft(
        -71.06, 42.36, {"name": "Café ☕ 東京", "kind": "cafe", "empty": {}, "none": None, "list": [1, [2.5, "x"]]}, "a"
    ),
    Draft(-71.5, 42.5, {"big": 2**53 + 1, "small": -7, "float": 1.0, "yes": True}, "b", timestamp=17.25),
    Draft(-70.5, 42.2, {"area": "square"}, "c", shape=_SQUARE),
]


@pytest.fixture
def store(mongod: Mongod) -> Iterator[MongoStore]:
    """Return an empty shard of its own."""
    made = MongoStore(mongod.uri, "ne", f"archive_{uuid.uuid4().hex[:8]}")
    made.ensure_indexes()
    yield made
    with made.all_places() as places:
        places.database.client.drop_database(places.database.name)
    made.close()


@pytest.fixture
def filled(store: MongoStore) -> MongoStore:
    """Return a shard with a few places of every kind."""
    assert not store.insert_many(_PLACES).errors
    return store


def _silent(_count: int, _size: int) -> None:
    """Report nothing."""


def _dump(store: MongoStore, file: Path, report: archive.Report = _silent, **options: bool) -> Header:
    with store.all_places() as places:
        return archive.dump(places, store.region, file, report, **options)


def _restore(store: MongoStore, file: Path, *, region: str = "ne", replace: bool = False) -> Header:
    with store.all_places() as places:
        return archive.restore(places, region, file, _silent, _silent, replace=replace)


def _raw(store: MongoStore) -> list[bytes]:
    with store.all_places() as places:
        options = bson.CodecOptions(document_class=bson.raw_bson.RawBSONDocument)
        return [bytes(each.raw) for each in places.with_options(codec_options=options).find().sort("_id", 1)]


def _names(store: MongoStore) -> set[str]:
    with store.all_places() as places:
        return set(places.database.list_collection_names())


def test_what_was_dumped_comes_back_to_the_byte(filled: MongoStore, tmp_path: Path) -> None:
    """Shapes, timestamps, 64-bit numbers, other scripts; and the indexes and rules are those of an installed shard."""
    before, file = _raw(filled), tmp_path / "ne.dump"
    header = _dump(filled, file)
    assert (header.region, header.count, header.snapshot) == ("ne", 3, True)
    for place in _PLACES:
        filled.delete(str(place.id))
    assert _restore(filled, file) == header
    assert _raw(filled) == before
    assert filled.compare_indexes().fine
    assert filled.compare_indexes().extra == []
    assert _names(filled) == {"places"}


def test_the_same_places_make_the_same_digest(filled: MongoStore, tmp_path: Path) -> None:
    """Whoever compares two dumps sees whether anything changed in between."""
    one, two = (_dump(filled, tmp_path / name) for name in ("one", "two"))
    assert one.sha256 == two.sha256
    filled.update("a", {"name": "other"})
    assert _dump(filled, tmp_path / "three").sha256 != one.sha256


def test_a_dump_is_of_one_moment(store: MongoStore, tmp_path: Path) -> None:
    """What is written and removed while it runs makes no difference to it."""
    store.insert_many([Draft(-71, 42, {"n": number}, f"p{number:05}") for number in range(5_000)])

    def meddle(count: int, _size: int) -> None:
        if count == 1_000:
            store.delete("p04999")
            store.insert(Draft(-71, 42, {}, "p99999"))

    header = _dump(store, tmp_path / "ne.dump", meddle)
    ids = [bson.decode(document)["_id"] for document in archive._documents(tmp_path / "ne.dump")]
    assert (header.count, ids[-1]) == (5_000, "p04999")


def test_the_file_is_readable_by_nobody_else_and_by_other_tools(filled: MongoStore, tmp_path: Path) -> None:
    """Mode 0600; a line of JSON, then gzip of BSON, as mongorestore and bsondump read it."""
    file = tmp_path / "ne.dump"
    _dump(filled, file)
    assert file.stat().st_mode & 0o777 == 0o600
    first = msgspec.json.decode(file.read_bytes().split(b"\n")[0])
    assert (first["format"], first["count"]) == ("mesh-places", 3)
    unpacked = subprocess.run(f"tail -n +2 {file} | zcat", shell=True, capture_output=True, check=True).stdout
    assert [each["_id"] for each in bson.decode_all(unpacked)] == ["a", "b", "c"]


def test_an_existing_file_is_kept_unless_forced(filled: MongoStore, tmp_path: Path) -> None:
    """Yesterday's dump is not lost to a wrong name."""
    file = tmp_path / "ne.dump"
    file.write_text("yesterday's")
    with pytest.raises(InvalidRequest, match="exists"):
        _dump(filled, file)
    assert file.read_text() == "yesterday's"
    assert _dump(filled, file, force=True).count == 3


def test_a_dump_that_is_cut_off_leaves_no_file(store: MongoStore, tmp_path: Path) -> None:
    """Neither under its name nor under another."""
    store.insert_many([Draft(-71, 42, {"n": number}, f"p{number:05}") for number in range(2_000)])

    def stop(_count: int, _size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _dump(store, tmp_path / "ne.dump", stop)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_a_clear_error(filled: MongoStore, tmp_path: Path) -> None:
    """The path and the reason, in one line."""
    with pytest.raises(StoreError, match=r"missing/ne\.dump cannot be written: No such file or directory"):
        _dump(filled, tmp_path / "missing/ne.dump")


def test_a_shard_with_places_is_not_overwritten_unless_told_so(filled: MongoStore, tmp_path: Path) -> None:
    """Refused without `replace`; with it, exactly the dumped places are there."""
    file, before = tmp_path / "ne.dump", _raw(filled)
    _dump(filled, file)
    filled.insert(Draft(-71, 42, {}, "later"))
    with pytest.raises(InvalidRequest, match="holds places already"):
        _restore(filled, file)
    assert len(_raw(filled)) == 4
    _restore(filled, file, replace=True)
    assert _raw(filled) == before


def test_the_places_of_another_region_are_refused(filled: MongoStore, tmp_path: Path) -> None:
    """A dump of ne does not end up in the shard of sw."""
    _dump(filled, tmp_path / "ne.dump")
    with pytest.raises(InvalidRequest, match="these are the places of ne, and this is the shard of sw"):
        _restore(filled, tmp_path / "ne.dump", region="sw", replace=True)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[700] ^= 1
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def _unfinished(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(b" " * 511 + b"\n" + content[512:])


def _lie(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:512].replace(b'"count":3', b'"count":2') + content[512:])


def _swap(file: Path) -> None:
    # Valid gzip of valid documents, only not those that were dumped.
    other = b"".join(bson.encode({"_id": name}) for name in "abc")
    file.write_bytes(file.read_bytes()[:512] + gzip.compress(other))


def _text(file: Path) -> None:
    file.write_text("id,name\n" * 200)


@pytest.mark.parametrize("damage", [_flip, _cut, _unfinished, _lie, _swap, _text])
def test_a_damaged_dump_is_refused_before_anything_is_touched(filled: MongoStore, tmp_path: Path, damage: Any) -> None:
    """A flipped bit, a cut end, a lying header, other content, no dump at all: the places stay as they are."""
    file, before = tmp_path / "ne.dump", _raw(filled)
    _dump(filled, file)
    damage(file)
    with pytest.raises(InvalidRequest, match=r"ne\.dump: "):
        _restore(filled, file, replace=True)
    assert _raw(filled) == before
    assert _names(filled) == {"places"}


def test_a_restore_that_fails_half_way_leaves_the_old_places(filled: MongoStore, tmp_path: Path) -> None:
    """A place that the server refuses is named; the old ones stand, and nothing is left behind."""
    file, before = tmp_path / "ne.dump", _raw(filled)
    with filled.all_places() as places:
        wrong = places.with_options()
        wrong.database.command("collMod", "places", validationLevel="off")
        wrong.insert_one({"_id": "wrong", "no": "position"})
        _dump(filled, file)
        wrong.delete_one({"_id": "wrong"})
        wrong.database.command("collMod", "places", validationLevel="strict")
    with pytest.raises(StoreError, match=r"refuses the place wrong \(code 121\)"):
        _restore(filled, file, replace=True)
    assert _raw(filled) == before
    assert _names(filled) == {"places"}


def test_a_restore_that_was_killed_is_in_nobodys_way(filled: MongoStore, tmp_path: Path) -> None:
    """What it left is dropped by the next one."""
    _dump(filled, tmp_path / "ne.dump")
    with filled.all_places() as places:
        places.database["places_restoring"].insert_one({"_id": "left"})
    _restore(filled, tmp_path / "ne.dump", replace=True)
    assert _names(filled) == {"places"}


def test_places_that_come_meanwhile_stop_a_restore_without_replace(store: MongoStore, tmp_path: Path) -> None:
    """The shard was empty when it began and is not when it would end: those that came are kept."""
    store.insert_many(_PLACES)
    _dump(store, tmp_path / "ne.dump")
    for place in _PLACES:
        store.delete(str(place.id))

    def come(_count: int, _size: int) -> None:
        store.upsert(Draft(-71, 42, {}, "meanwhile"))

    with store.all_places() as places, pytest.raises(InvalidRequest, match="holds places already"):
        archive.restore(places, "ne", tmp_path / "ne.dump", _silent, come)
    assert store.get("meanwhile").id == "meanwhile"
    assert _names(store) == {"places"}


def test_an_empty_shard_can_be_dumped_and_restored(store: MongoStore, tmp_path: Path) -> None:
    """No places are places too."""
    assert _dump(store, tmp_path / "ne.dump").count == 0
    assert _restore(store, tmp_path / "ne.dump").count == 0
    assert store.compare_indexes().fine


def test_history_that_is_gone_is_an_error_that_says_what_to_do(store: MongoStore, tmp_path: Path) -> None:
    """The server keeps minutes of its past: a longer dump is told so, and can be had without a snapshot."""
    store.insert_many([Draft(-71, 42, {"n": number}, f"p{number:05}") for number in range(3_000)])

    def keep(seconds: int) -> None:
        with store.all_places() as places:
            places.database.client.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=seconds)

    def dawdle(count: int, _size: int) -> None:
        if count == 1_000:
            for number in range(8):
                store.upsert(Draft(-71, 42, {"n": number}, "later"))
                time.sleep(0.5)

    keep(0)
    try:
        with pytest.raises(StoreError, match="--no-snapshot"):
            _dump(store, tmp_path / "ne.dump", dawdle)
        assert not _dump(store, tmp_path / "ne.dump", dawdle, snapshot=False).snapshot
    finally:
        keep(300)


def test_errors_of_the_server_are_the_meshs(filled: MongoStore, tmp_path: Path) -> None:
    """Whoever calls sees one kind of error."""
    with pytest.raises(MeshError), filled.all_places() as places:
        places.database.client.admin.command("noSuchCommand")
    assert list(tmp_path.iterdir()) == []
