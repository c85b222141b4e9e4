"""Tables: all formats give the same rows, with their places, and damage is told in one line."""

from __future__ import annotations

import csv
import json
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unimedvl.data.tables import TABLES, Row, absent, json_value, read_table
from unimedvl.errors import DataError

ROWS = [{"a": "x", "b": "1"}, {"a": 'quoted "y",\tz', "b": ""}, {"a": "two\nlines", "b": "ä"}]
# No lone carriage return: pandas leaves it unquoted. No surrogates, which UTF-8 cannot hold.
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=20)


def rows_of(path):
    return read_table(path, Row, lambda file: json_value(file.read_bytes(), file))


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        pd.DataFrame(rows).to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    return path


@pytest.mark.parametrize("suffix", TABLES)
def test_every_kind_of_file_holds_the_same_rows(tmp_path, suffix):
    entries = list(rows_of(write(tmp_path / f"t{suffix}", ROWS)))
    assert [entry.values for entry in entries] == ROWS
    assert [entry.number for entry in entries] == [0, 1, 2]


@pytest.mark.parametrize(
    ("suffix", "place"),
    [("json", "row 3"), ("jsonl", "line 3"), ("csv", "line 4"), ("tsv", "line 4"), ("parquet", "row 3")],
)
def test_places(tmp_path, suffix, place):
    path = write(tmp_path / f"t.{suffix}", ROWS)
    assert [entry.place for entry in rows_of(path)][2] == f"{path}, {place}"


def test_a_row_starts_at_the_line_behind_the_last_one_of_the_row_before(tmp_path):
    path = write(tmp_path / "t.csv", [ROWS[2], ROWS[0]])
    assert [entry.place[-6:] for entry in rows_of(path)] == ["line 2", "line 4"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)  # one folder for all examples
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_what_pandas_writes_is_read_back(tmp_path, suffix, rows):
    path = write(tmp_path / f"h.{suffix}", [{"first": one, "second": two} for one, two in rows])
    assert [tuple(entry.values.values()) for entry in rows_of(path)] == rows


def test_long_cells_leave_the_limit_of_the_process_alone(tmp_path):
    before = csv.field_size_limit()
    path = write(tmp_path / "t.tsv", [{"image": "A" * (before * 3)}] * 2)
    for entry in rows_of(path):
        assert csv.field_size_limit() == before
        assert len(entry.values["image"]) == before * 3


def test_marks_and_blank_lines(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"a": "x"}\r\n\r\n{"a": "y"}')
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa ,b\r\n\r\nx,y\r\n")
    (tmp_path / "t.json").write_bytes(b'\xef\xbb\xbf[{"a": "x"}]')
    assert [entry.values for entry in rows_of(tmp_path / "t.jsonl")] == [{"a": "x"}, {"a": "y"}]
    assert [entry.values for entry in rows_of(tmp_path / "t.csv")] == [{"a": "x", "b": "y"}]
    assert [entry.values for entry in rows_of(tmp_path / "t.json")] == [{"a": "x"}]


def test_line_breaks_inside_cells_stay_as_they_are(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'a,b\r\n"x\r\ny",1\r\n')
    assert [entry.values for entry in rows_of(tmp_path / "t.csv")] == [{"a": "x\r\ny", "b": "1"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"x", "'.txt' is no table"),
        ("t.json", b'[\n{"a": 1},\n{"a" 2}]', r"bad JSON: .*t\.json, line 3, column 6"),
        ("t.json", b"[1]", r"a int, not an object \(.*t\.json, row 1\)"),
        ("t.json", b'["\xff"]', "not UTF-8"),
        ("t.json", b"[" * 100_000, "nested too deeply"),
        ("t.json", b"[" + b"1" * 5000 + b"]", "bad JSON: .*too many digits"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"bad JSON: .*t\.jsonl, line 2, column"),
        ("t.jsonl", b"{}\n\n[]\n", r"a list, not an object \(.*line 3\)"),
        ("t.jsonl", b'{"a": "\xff"}', r"not UTF-8 \(.*line 1\)"),
        ("t.jsonl", b"[" * 100_000, r"nested too deeply \(.*line 1\)"),
        ("t.jsonl", b"{}\n" + b"1" * 5000, r"bad JSON: .*too many digits.*line 2\)"),
        ("t.csv", b"a,b\n1,2\n3\n", r"1 cells under 2 columns \(.*t\.csv, line 3\)"),
        ("t.csv", b"a,b\n1,2,3\n", "3 cells under 2 columns"),
        ("t.csv", b"a,a\n1,2\n", r"two columns of one name \(.*line 1\)"),
        ("t.csv", b"a\n\xff\n", r"not UTF-8 \(.*line"),
        ("t.csv", b'a,b\n"1"x,2\n', r"bad table: .*line 2\)"),
        ("t.tsv", b'a\tb\n1\t2\n"cut off\t4\n5\t6\n', r"bad table: .*t\.tsv, line 3"),
        ("t.tsv", b'a\tb\n"left" side\t2\n', r"bad table: .*double quotes"),
        ("t.parquet", b"PAR1PAR1", "the file is damaged"),
    ],
)
def test_damage_is_told_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(rows_of(path))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_a_parquet_file_cut_in_its_middle(tmp_path):
    rows = [{"a": bytes([number % 251]) * 1000} for number in range(500)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=50, compression="none")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[:200_000] + b"\xff" * 100_000 + data[300_000:])
    with pytest.raises(DataError, match=r"the file is damaged: .*after row \d+"):
        list(rows_of(tmp_path / "t.parquet"))


@pytest.mark.parametrize("suffix", TABLES)
def test_an_absent_file(tmp_path, suffix):
    with pytest.raises(DataError, match=rf"cannot be read: .*No such file.*x\{suffix}") as caught:
        list(rows_of(tmp_path / f"x{suffix}"))
    assert "\n" not in str(caught.value)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match="Parquet needs pyarrow"):
        list(rows_of(path))


def test_columns_without_a_name_may_be_several(tmp_path):
    """As in tables whose lines all end in separators."""
    (tmp_path / "t.csv").write_text("a,,\n1,,\n")
    assert [row.values["a"] for row in rows_of(tmp_path / "t.csv")] == ["1"]


def test_columns_that_must_be_there():
    row = Row({"a": None}, "here, row 1", 0)
    row.present("a")
    with pytest.raises(DataError, match=r"no column 'b' among a \(here, row 1\)"):
        row.present("b")


@pytest.mark.parametrize(
    ("value", "said"),
    [(" yes ", "yes"), (3, "3"), (3.0, "3"), (2.5, "2.5"), (None, ""), (float("nan"), ""), ("", ""), ("None", "None")],
)
def test_values_as_text(value, said):
    assert Row({}, "here, row 1", 0).said(value, "a") == said
    assert absent(value) == (not said and value != "")


@pytest.mark.parametrize("value", [True, ["x"], {"x": 1}, b"x"])
def test_what_is_no_text(value):
    with pytest.raises(DataError, match=r"'a' is (bool|list|dict|bytes), not a text \(here, row 1\)"):
        Row({}, "here, row 1", 0).said(value, "a")
