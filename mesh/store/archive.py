"""All places of a shard in one file, and back; needs none of MongoDB's own tools.

Theory of operation. The file starts with one line of JSON, padded to a fixed length: what it holds, how much, and the
digest of that. Then comes gzip of the documents as the server sent them, BSON one after the other; so
`tail -n +2 FILE | zcat > places.bson` is what `mongorestore` reads. The line is written last, over blanks: a dump that
was cut off has none.

A restore reads the whole file once before it touches the shard, then fills a collection of its own, builds the indexes
there, and takes the place of the old one with a single rename. Until then, and if anything fails, the old places stand.
"""

import contextlib
import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from mesh.errors import InvalidRequest, StoreError
from mesh.store import indexes

#: Told after every batch: documents and bytes so far.
Report = Callable[[int, int], None]

_FORMAT = "mesh-places"
_HEADER_BYTES = 512
#: 170 MB/s on real places; 6, the usual one, takes 2.3 times as long for 6 % less.
_LEVEL = 3
_BATCH = 1_000
_RESTORING = "places_restoring"
_SMALLEST_BSON, _LARGEST_BSON = 5, 16 * 1024 * 1024 + 16_384
#: SnapshotTooOld, SnapshotUnavailable: the server keeps five minutes of history.
_HISTORY_GONE = {239, 246}
#: A server outside of a replica set has no snapshots.
_NO_SNAPSHOTS = {20, 72, 123}


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first line of a dump."""

    format: str = _FORMAT
    version: int = 1
    region: str
    count: int
    #: Bytes of BSON, before compression, and their SHA-256.
    bytes: int
    sha256: str
    #: Whether all documents are from the same moment.
    snapshot: bool
    created: str


class _Tally:
    """Counts and digests what passes by."""

    def __init__(self, report: Report) -> None:
        self.count = self.bytes = 0
        self._digest, self._report = hashlib.sha256(), report

    def take(self, document: bytes) -> None:
        self._digest.update(document)
        self.count += 1
        self.bytes += len(document)
        if self.count % _BATCH == 0:
            self._report(self.count, self.bytes)

    def header(self, region: str, *, snapshot: bool) -> Header:
        self._report(self.count, self.bytes)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return Header(
            region=region, count=self.count, bytes=self.bytes, sha256=self.hex(), snapshot=snapshot, created=created
        )

    def hex(self) -> str:
        return self._digest.hexdigest()


# -- dump -------------------------------------------------------------------------------------------------------------


def dump(
    places: Collection[Any], region: str, file: Path, report: Report, *, force: bool = False, snapshot: bool = True
) -> Header:
    """Write all places to *file*, which appears when it is complete."""
    if file.exists() and not force:
        raise InvalidRequest(f"{file} exists; give another name, or --force")
    part = file.with_name(f".{file.name}.part")
    try:
        with _opened(part) as out:
            header = _write(places, region, out, _Tally(report), snapshot=snapshot)
        part.replace(file)
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return header


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[IO[bytes]]:
    # Only for its owner from the first byte: it holds everything there is.
    number = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(number, "wb") as out:
        yield out
        out.flush()
        os.fsync(number)


def _write(places: Collection[Any], region: str, out: IO[bytes], tally: _Tally, *, snapshot: bool) -> Header:
    out.write(b" " * (_HEADER_BYTES - 1) + b"\n")
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=_LEVEL, mtime=0, filename="") as packed:
        taken = _copy(places, packed, tally, snapshot=snapshot)
    header = tally.header(region, snapshot=taken)
    out.seek(0)
    out.write(msgspec.json.encode(header))
    return header


def _copy(places: Collection[Any], packed: gzip.GzipFile, tally: _Tally, *, snapshot: bool) -> bool:
    """Copy all documents, and return whether they are from one moment."""
    raw = places.with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
    try:
        with _moment(places, snapshot) as session:
            # In the order of ids: the same places make the same digest.
            for document in raw.find({}, session=session, batch_size=_BATCH).sort("_id", 1):
                raw_bytes = bytes(document.raw)
                packed.write(raw_bytes)
                tally.take(raw_bytes)
    except OperationFailure as error:
        if snapshot and error.code in _NO_SNAPSHOTS and not tally.count:
            return _copy(places, packed, tally, snapshot=False)
        if error.code in _HISTORY_GONE:
            hint = "raise minSnapshotHistoryWindowInSeconds, or give --no-snapshot"
            raise StoreError(f"the dump took longer than the server keeps its past ({hint})") from None
        raise
    return snapshot


@contextlib.contextmanager
def _moment(places: Collection[Any], snapshot: bool) -> Iterator[Any]:
    if not snapshot:
        yield None
        return
    with places.database.client.start_session(snapshot=True) as session:
        yield session


# -- restore ----------------------------------------------------------------------------------------------------------


def read_header(file: Path) -> Header:
    """Return what a dump says of itself; `InvalidRequest` if it is none."""
    try:
        with file.open("rb") as source:
            line = source.read(_HEADER_BYTES)
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror or error}") from None
    if len(line) == _HEADER_BYTES and not line.strip():
        raise InvalidRequest(f"{file}: this dump was cut off before its end")
    try:
        header = msgspec.json.decode(line, type=Header)
    except msgspec.DecodeError:
        raise InvalidRequest(f"{file}: this is no dump of places") from None
    if (header.format, header.version) != (_FORMAT, 1):
        raise InvalidRequest(f"{file}: this is {header.format} version {header.version}, which I cannot read")
    return header


def verify(file: Path, report: Report) -> Header:
    """Read a dump to its end, and return its header if all it promises is there."""
    header, tally = read_header(file), _Tally(report)
    for document in _documents(file):
        tally.take(document)
    if (tally.count, tally.bytes, tally.hex()) != (header.count, header.bytes, header.sha256):
        raise InvalidRequest(f"{file}: its content is not what was dumped ({tally.count:,} of {header.count:,} places)")
    return header


def restore(
    places: Collection[Any], region: str, file: Path, verifying: Report, writing: Report, *, replace: bool = False
) -> Header:
    """Put the places of a dump in the place of those there are; all of them, or none."""
    header = read_header(file)
    if header.region != region:
        raise InvalidRequest(f"{file}: these are the places of {header.region}, and this is the shard of {region}")
    _refuse_to_overwrite(places, replace=replace)
    verify(file, verifying)
    fresh = places.database[_RESTORING]
    try:
        fresh.drop()  # of a restore that was killed
        indexes.set_rules(fresh)
        _fill(fresh, file, writing)
        indexes.ensure(fresh)
        _check_count(fresh, header)
        _refuse_to_overwrite(places, replace=replace)
        fresh.rename(places.name, dropTarget=True)
    except BaseException:
        with contextlib.suppress(PyMongoError):  # the next restore drops it
            fresh.drop()
        raise
    return header


def _refuse_to_overwrite(places: Collection[Any], *, replace: bool) -> None:
    if not replace and places.find_one({}, {"_id": 1}) is not None:
        raise InvalidRequest("the shard holds places already; --replace puts those of the dump in their place")


def _fill(fresh: Collection[Any], file: Path, report: Report) -> None:
    batch: list[RawBSONDocument] = []
    done = size = 0
    for document in _documents(file):
        batch.append(RawBSONDocument(document))
        size += len(document)
        if len(batch) == _BATCH:
            done += _insert(fresh, batch)
            report(done, size)
            batch = []
    done += _insert(fresh, batch)
    report(done, size)


def _insert(fresh: Collection[Any], batch: list[RawBSONDocument]) -> int:
    try:
        return len(fresh.insert_many(batch, ordered=False).inserted_ids) if batch else 0
    except BulkWriteError as error:
        failed = error.details["writeErrors"][0] if error.details.get("writeErrors") else {}
        name = batch[failed["index"]]["_id"] if "index" in failed else "?"
        raise StoreError(f"MongoDB refuses the place {name} (code {failed.get('code', 'unknown')})") from None


def _check_count(fresh: Collection[Any], header: Header) -> None:
    stored = fresh.count_documents({})
    if stored != header.count:
        raise StoreError(f"{stored:,} places were stored and {header.count:,} were dumped")


def _documents(file: Path) -> Iterator[bytes]:
    """Yield the documents of a dump, one at a time, so that memory stays bounded."""
    try:
        with file.open("rb") as source:
            source.seek(_HEADER_BYTES)
            with gzip.GzipFile(fileobj=source, mode="rb") as packed:
                while head := packed.read(4):
                    yield head + _rest(packed, head)
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error):
        raise InvalidRequest(f"{file}: this dump is damaged or was cut off") from None


def _rest(packed: gzip.GzipFile, head: bytes) -> bytes:
    (length,) = struct.unpack("<i", head)
    if not _SMALLEST_BSON <= length <= _LARGEST_BSON:
        raise EOFError
    rest = packed.read(length - 4)
    if len(rest) != length - 4:
        raise EOFError
    return rest
