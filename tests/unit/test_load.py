"""Loading files: readers, batches, the error file, the checkpoint."""

import io
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mesh.client import load
from mesh.errors import Busy, InvalidRequest, RegionUnavailable
from mesh.model import BulkStored, RowError


class Store:
    """Takes rows; refuses those whose properties say so, and may break down."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.calls: list[int] = []
        self.breaks_at: int | None = None
        self.busy = 0

    def __call__(self, places: Sequence[Any], *, timeout: float | None = None) -> BulkStored:  # noqa: ARG002
        """Do what `insert_many` does."""
        self.calls.append(len(places))
        if len(self.calls) == self.breaks_at:
            raise RegionUnavailable("gone")
        if self.busy:
            self.busy -= 1
            return BulkStored([None] * len(places), [RowError(i, Busy("full").to_dict()) for i in range(len(places))])
        bad = [i for i, place in enumerate(places) if place.get("properties", {}).get("bad")]
        self.rows += [place for i, place in enumerate(places) if i not in bad]
        errors = [RowError(i, InvalidRequest("bad", field="properties.bad").to_dict()) for i in bad]
        return BulkStored([None if i in bad else str(i) for i in range(len(places))], errors)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(load, "BATCH_ROWS", 10)
    monkeypatch.setattr(load, "PAUSE_SECONDS", 0.0)
    return Store()


def feature(number: int, **properties: Any) -> dict[str, Any]:
    point = {"type": "Point", "coordinates": [-74.5, 40.25]}
    return {"type": "Feature", "id": str(number), "geometry": point, "properties": properties}


def lines(path: Path, count: int, bad: Sequence[int] = ()) -> Path:
    path.write_text("".join(json.dumps(feature(n, bad=n in bad)) + "\n" for n in range(1, count + 1)))
    return path


def run(job: load.Load) -> load.Progress:
    return job.run(lambda _progress, _position: None)


def rows(text: str | bytes, suffix: str) -> list[Any]:
    return list(load.read(io.BytesIO(text if isinstance(text, bytes) else text.encode()), suffix))


# -- readers ----------------------------------------------------------------------------------------------------------


def test_a_feature_collection_gives_its_features_with_plain_floats() -> None:
    """Whatever stands around them."""
    text = json.dumps({"type": "FeatureCollection", "name": "x", "features": [feature(1), feature(2, a=1.5)]})
    assert rows(text, ".geojson") == [feature(1), feature(2, a=1.5)]
    assert rows(text, ".JSON") == [feature(1), feature(2, a=1.5)]


def test_a_lone_feature_and_an_empty_collection_are_read_too() -> None:
    """They are GeoJSON as well."""
    assert rows(json.dumps(feature(1)), ".geojson") == [feature(1)]
    assert rows('{"type": "FeatureCollection", "features": []}', ".geojson") == []


def test_a_large_collection_is_never_in_memory_as_a_whole() -> None:
    """20 MB are read with less than 2 MB."""
    one = json.dumps(feature(1, text="x" * 1000)).encode()
    file = io.BytesIO(b'{"type": "FeatureCollection", "features": [' + b",".join([one] * 18_000) + b"]}")
    tracemalloc.start()
    assert sum(1 for _ in load.read(file, ".geojson")) == 18_000
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_lines_with_and_without_record_separators() -> None:
    """RFC 8142, and blank lines."""
    text = f"\x1e{json.dumps(feature(1))}\n\n{json.dumps(feature(2))}"
    assert rows(text, ".ndjson") == [feature(1), feature(2)]


def test_a_line_that_is_no_json_is_a_row_that_failed() -> None:
    """The others are read."""
    first, broken, last = rows(b'{"a": 1}\n{oops\n{"b": 2}\n', ".ndjson")
    assert (first, last) == ({"a": 1}, {"b": 2})
    assert isinstance(broken, load.Unreadable)
    assert broken.text == "{oops"


@pytest.mark.parametrize("names", [("lon", "lat"), ("Longitude", "Latitude"), ("lng", "LAT")])
def test_csv_columns_by_their_usual_names(names: tuple[str, str]) -> None:
    """With the byte order mark that Excel writes."""
    text = f'\ufeffid,{names[0]},{names[1]},name,zip,big,open\n007,-74,40.5,"a, b",01001,12345,TRUE\n,-73,40,,,,\n'
    assert rows(text, ".csv") == [
        {
            "id": "007",
            "lon": -74,
            "lat": 40.5,
            "properties": {"name": "a, b", "zip": "01001", "big": 12345, "open": True},
        },
        {"lon": -73, "lat": 40, "properties": {}},
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("-12", -12), ("1.50", 1.5), ("1.5e3", 1500.0), ("12e4", "12e4"), ("007", "007"), (" 7 ", 7),
        ("1" * 19, "1" * 19), ("true", True), ("False", False), ("nan", "nan"), ("inf", "inf"), ("1,5", "1,5"),
        ("a", "a"), ("+1", "+1"), ("1_0", "1_0"),
    ],
)  # fmt: skip
def test_csv_types(text: str, expected: Any) -> None:
    """Numbers and booleans are taken as such, what might be a name stays text."""
    assert load.guess(text) == expected
    assert type(load.guess(text)) is type(expected)


def test_csv_rows_of_the_wrong_width_fail_alone() -> None:
    """A forgotten quote must not shift columns."""
    first, second = rows("lon,lat\n1,2,3\n4,5\n", ".csv")
    assert isinstance(first, load.Unreadable)
    assert second == {"lon": 4, "lat": 5, "properties": {}}


@pytest.mark.parametrize(
    ("text", "suffix", "match"),
    [
        ("a,b\n1,2\n", ".csv", "no column lon"),
        ("", ".csv", "no column lon"),
        ("x", ".xlsx", "cannot tell"),
        ("x", "", "cannot tell"),
        ('{"type": "FeatureCollection", "features": [{"a": 1}, {', ".geojson", "after feature 1"),
        ("nonsense", ".geojson", "not JSON"),
    ],
)
def test_files_that_are_nothing_say_what_is_wrong(text: str, suffix: str, match: str) -> None:
    """And what would be right."""
    with pytest.raises(InvalidRequest, match=match):
        rows(text, suffix)


# -- the load ---------------------------------------------------------------------------------------------------------


def test_rows_that_fail_are_kept_with_number_reason_and_row(tmp_path: Path, store: Store) -> None:
    """The others are stored, and the checkpoint goes away at the end."""
    path = lines(tmp_path / "f.ndjson", 25, bad=[3, 14])
    with path.open("a") as file:
        file.write("{oops\n")
    job = load.Load(path, store)
    assert run(job) == load.Progress(26, 3, path.stat().st_size)
    assert store.calls == [10, 10, 5]
    errors = [json.loads(line) for line in job.errors_path.read_text().splitlines()]
    assert [error["row"] for error in errors] == [3, 14, 26]
    assert errors[0]["value"] == feature(3, bad=True)
    assert errors[0]["error"]["field"] == "properties.bad"
    assert errors[2]["value"] == "{oops"
    assert not job.checkpoint_path.exists()


def test_an_interrupted_load_goes_on_where_it_stopped(tmp_path: Path, store: Store) -> None:
    """No row is lost and none is stored twice."""
    path = lines(tmp_path / "f.ndjson", 35, bad=[2, 33])
    store.breaks_at = 3
    with pytest.raises(RegionUnavailable):
        run(load.Load(path, store))
    job = load.Load(path, store)
    job.resume()
    assert job.progress.rows == 20
    assert run(job).rows == 35
    assert [row["id"] for row in store.rows] == [str(n) for n in range(1, 36) if n not in {2, 33}]
    assert [json.loads(line)["row"] for line in job.errors_path.read_text().splitlines()] == [2, 33]


def test_another_file_is_not_resumed(tmp_path: Path, store: Store) -> None:
    """Its rows are not those that the checkpoint counted."""
    path = lines(tmp_path / "f.ndjson", 35)
    store.breaks_at = 2
    with pytest.raises(RegionUnavailable):
        run(load.Load(path, store))
    lines(path, 34)
    with pytest.raises(InvalidRequest, match="not the one"):
        load.Load(path, store).resume()


def test_resume_without_a_checkpoint_starts_at_the_start(tmp_path: Path, store: Store) -> None:
    """So that one command can be repeated until it succeeds."""
    job = load.Load(lines(tmp_path / "f.ndjson", 3), store)
    job.resume()
    assert run(job).rows == 3


def test_what_stands_before_the_damage_is_stored(tmp_path: Path, store: Store) -> None:
    """And the checkpoint tells how far it came."""
    path = tmp_path / "f.geojson"
    path.write_text('{"type": "FeatureCollection", "features": [' + ",".join([json.dumps(feature(1))] * 12) + ", {")
    job = load.Load(path, store)
    with pytest.raises(InvalidRequest, match="after feature 12"):
        run(job)
    assert len(store.rows) == 12
    assert json.loads(job.checkpoint_path.read_text())["rows"] == 12


def test_rows_the_mesh_was_too_busy_for_are_tried_again(tmp_path: Path, store: Store) -> None:
    """They were refused before anything was done."""
    store.busy = 2
    assert run(load.Load(lines(tmp_path / "f.ndjson", 5), store)).failed == 0
    assert len(store.rows) == 5
    store.busy = 99
    assert run(load.Load(lines(tmp_path / "g.ndjson", 5), store)).failed == 5


def test_large_rows_make_small_batches(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by bytes, too."""
    monkeypatch.setattr(load, "BATCH_BYTES", 20_000)
    path = tmp_path / "f.ndjson"
    path.write_text("".join(json.dumps(feature(n, text="x" * 9_000)) + "\n" for n in range(9)))
    run(load.Load(path, store))
    assert max(store.calls) <= 3
    assert sum(store.calls) == 9
