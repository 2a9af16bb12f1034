"""Loading files of any size: readers that hold one row at a time, batches, an error file, and a checkpoint.

Theory of operation. Rows are numbered from 1 in the order of the file. A batch is stored, then its failed rows are
appended to the error file, then the checkpoint says how many rows are done. Whoever resumes skips that many rows; after
a crash the last batch is written again, which is harmless with upsert, and with ids (a second insert is a conflict).
"""

import csv
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import ijson  # type: ignore[import-untyped]
import msgspec

from mesh import geojson
from mesh.errors import InvalidRequest
from mesh.model import BulkStored

#: Rows of one call; spread over five regions that is about one full bulk write for each.
BATCH_ROWS = 5_000
#: Bytes of the file in one call, so that memory stays bounded when rows are large.
BATCH_BYTES = 8 * 1024 * 1024
#: How often rows are tried again that the mesh was too busy for, and the seconds between.
RETRIES = 3
PAUSE_SECONDS = 0.5

_LON, _LAT = ("lon", "longitude", "lng", "long"), ("lat", "latitude")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][-+]?[0-9]{1,2})?")


class Store(Protocol):
    """`insert_many` or `upsert_many` of a `Client`."""

    def __call__(self, places: Sequence[Any], *, timeout: float | None = None) -> BulkStored:
        """Store rows."""


@dataclass
class Progress:
    """How far a load is; what the checkpoint keeps."""

    rows: int = 0
    failed: int = 0
    #: Bytes of the file, so that a file that was replaced is not resumed.
    size: int = 0


# -- readers ----------------------------------------------------------------------------------------------------------


class Unreadable(msgspec.Struct):
    """A row that could not even be read: its text, and why."""

    text: str
    error: InvalidRequest


def read(file: IO[bytes], suffix: str) -> Iterator[Any]:
    """Return the rows of a file, one at a time; *suffix* (`.csv`) says what it is. Raises `InvalidRequest`."""
    reader = _READERS.get(suffix.lower())
    if reader is None:
        hint = f"known are {', '.join(_READERS)}"
        raise InvalidRequest(f"cannot tell what a {suffix or 'file without a suffix'} holds", field="FILE", hint=hint)
    return reader(file)


def _features(file: IO[bytes]) -> Iterator[Any]:
    count = 0
    try:
        for feature in ijson.items(file, "features.item", use_float=True):
            count += 1
            yield feature
        if not count:  # a lone Feature or geometry, a list, or something else altogether
            file.seek(0)
            yield from geojson.features(json.load(file))
    except (ijson.JSONError, ValueError, UnicodeDecodeError) as error:
        message = f"not JSON after feature {count:,}: {str(error).splitlines()[0]}"
        raise InvalidRequest(message, field="FILE", hint="is the file complete?") from None


def _lines(file: IO[bytes]) -> Iterator[Any]:
    for line in file:
        text = line.strip(b"\x1e \t\r\n")  # RFC 8142 puts a record separator before each
        if text:
            yield _line(text)


def _line(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Unreadable(text.decode("utf-8", "replace"), InvalidRequest(f"not JSON: {error}", field="line"))


def _table(file: IO[bytes]) -> Iterator[Any]:
    lines = (line.decode("utf-8-sig" if not number else "utf-8", "replace") for number, line in enumerate(file))
    rows = csv.reader(lines)
    header = next(rows, [])
    lon, lat = _column(header, _LON), _column(header, _LAT)
    for row in rows:
        if row:
            yield _from_columns(header, row, lon, lat)


def _column(header: list[str], names: tuple[str, ...]) -> int:
    lowered = [name.strip().lower() for name in header]
    for name in names:
        if name in lowered:
            return lowered.index(name)
    found = ", ".join(header[:20]) or "nothing"
    hint = f"the first line names the columns; it has {found}"
    raise InvalidRequest(f"no column {names[0]} (or {', '.join(names[1:])})", field="FILE", hint=hint)


def _from_columns(header: list[str], row: list[str], lon: int, lat: int) -> Any:
    if len(row) != len(header):
        error = InvalidRequest(f"has {len(row)} columns, the first line has {len(header)}", field="row")
        return Unreadable(",".join(row), error)
    place: dict[str, Any] = {"lon": _degrees(row[lon]), "lat": _degrees(row[lat]), "properties": {}}
    for index, (name, text) in enumerate(zip(header, row, strict=True)):
        if name.strip().lower() == "id":
            place |= {"id": text} if text else {}
        elif index not in {lon, lat} and text:
            place["properties"][name.strip()] = guess(text)
    return place


def _degrees(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # `validate` says what is wrong with it


def guess(text: str) -> Any:
    """Return what a CSV field means: whole numbers, decimals, true and false; everything else is text.

    `007`, `12e4` and numbers of more than 18 digits are text: they are names (ZIP codes, ids) more often than numbers.
    """
    plain = text.strip()
    if _WHOLE.fullmatch(plain):
        return int(plain)
    if _DECIMAL.fullmatch(plain):
        return float(plain)
    return {"true": True, "false": False}.get(plain.lower(), text)


_READERS: dict[str, Callable[[IO[bytes]], Iterator[Any]]] = {
    ".geojson": _features,
    ".json": _features,
    ".ndjson": _lines,
    ".jsonl": _lines,
    ".geojsonl": _lines,
    ".geojsons": _lines,
    ".csv": _table,
}


# -- the load ---------------------------------------------------------------------------------------------------------


class Load:
    """One file on its way into the mesh.

    Args:
        path: the file; its suffix says what it holds.
        store: `client.insert_many` or `client.upsert_many`.
        replaces: whether *store* may be repeated without harm, as upsert may.
        timeout: seconds for a batch.

    """

    def __init__(self, path: Path, store: Store, *, replaces: bool = False, timeout: float = 60.0) -> None:
        self.path = path
        self.errors_path = path.with_name(path.name + ".errors.ndjson")
        self.checkpoint_path = path.with_name(path.name + ".progress")
        self.progress = Progress(size=path.stat().st_size)
        self._store, self._replaces, self._timeout = store, replaces, timeout

    def resume(self) -> None:
        """Go on after the rows that the checkpoint says are done; without a checkpoint, from the start."""
        try:
            kept = msgspec.json.decode(self.checkpoint_path.read_bytes(), type=Progress)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidRequest(f"cannot read {self.checkpoint_path}: {error}", field="--resume") from None
        if kept.size != self.progress.size:
            hint = f"load it from the start, or delete {self.checkpoint_path}"
            raise InvalidRequest("the file is not the one that was being loaded", field="--resume", hint=hint)
        self.progress = kept

    def run(self, report: Callable[[Progress, int], None]) -> Progress:
        """Load to the end; *report* is called after each batch with the progress and the bytes read so far."""
        if not self.progress.rows:
            self.errors_path.unlink(missing_ok=True)
        with self.path.open("rb") as file:
            for batch in _batches(read(file, self.path.suffix), file, self.progress.rows):
                self._store_batch(batch)
                self._keep_checkpoint()
                report(self.progress, file.tell())
        self.checkpoint_path.unlink(missing_ok=True)
        return self.progress

    def _store_batch(self, batch: list[Any]) -> None:
        good = [index for index, row in enumerate(batch) if not isinstance(row, Unreadable)]
        failed = {i: row.error.to_dict() for i, row in enumerate(batch) if isinstance(row, Unreadable)}
        for attempt in range(RETRIES + 1):
            result = self._store([batch[index] for index in good], timeout=self._timeout) if good else BulkStored([])
            again = [good[e.row] for e in result.errors if attempt < RETRIES and self._may_repeat(e.error)]
            failed |= {good[e.row]: e.error for e in result.errors if good[e.row] not in again}
            good = again
            if not good:
                break
            time.sleep(PAUSE_SECONDS)
        self._write_errors(batch, failed)
        self.progress.rows += len(batch)
        self.progress.failed += len(failed)

    def _may_repeat(self, error: dict[str, Any]) -> bool:
        # After a lost answer the row may be stored; only what was refused is surely not.
        return error.get("code") == "busy" or (self._replaces and bool(error.get("retryable")))

    def _write_errors(self, batch: list[Any], failed: dict[int, dict[str, Any]]) -> None:
        if not failed:
            return
        with self.errors_path.open("a", encoding="utf-8") as file:
            for index in sorted(failed):
                row = batch[index].text if isinstance(batch[index], Unreadable) else batch[index]
                line = {"row": self.progress.rows + index + 1, "error": failed[index], "value": row}
                file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def _keep_checkpoint(self) -> None:
        fresh = self.checkpoint_path.with_name(self.checkpoint_path.name + ".new")
        fresh.write_text(json.dumps(asdict(self.progress)))
        fresh.replace(self.checkpoint_path)


def _batches(rows: Iterator[Any], file: IO[bytes], skip: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    start = 0
    try:
        for number, row in enumerate(rows):
            if number < skip:
                start = file.tell()
                continue
            batch.append(row)
            if len(batch) >= BATCH_ROWS or file.tell() - start >= BATCH_BYTES:
                yield batch
                batch, start = [], file.tell()
    except InvalidRequest:
        yield batch  # what stands before the damage is good
        raise
    if batch:
        yield batch
