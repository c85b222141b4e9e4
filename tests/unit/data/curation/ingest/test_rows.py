"""Rows of tables: all formats give the same, JSON lists are read in pieces, and faults say their place."""

from __future__ import annotations

import csv
import io
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.data.curation.ingest import rows
from unimedvl.data.curation.ingest.rows import Row, read_rows
from unimedvl.errors import DataError

VALUES = [{"image": "a.png", "caption": 'two\nlines, "quoted"'}, {"image": "b.png", "caption": "µ"}]


def written(folder, suffix):
    path = folder / f"x{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(VALUES), path)
    elif suffix == ".json":
        path.write_text(json.dumps(VALUES))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(value) + "\n\n" for value in VALUES))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["image", "caption"], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(VALUES)
    return path


@pytest.mark.parametrize("suffix", rows.TABLES)
def test_all_formats_give_the_same(suffix, tmp_path):
    found = list(read_rows(written(tmp_path, suffix)))
    assert [dict(row.values) for row in found] == VALUES
    assert [row.number for row in found] == [0, 1]
    assert all(str(tmp_path) in row.place for row in found)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(plain, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]))
@settings(max_examples=150, deadline=None)
def test_a_json_list_in_pieces_of_any_size_is_the_list(items, piece, indent):
    before, rows._CHARACTERS_AT_ONCE = rows._CHARACTERS_AT_ONCE, piece
    try:
        assert list(rows._items(io.StringIO(json.dumps(items, indent=indent)), "x")) == items
    finally:
        rows._CHARACTERS_AT_ONCE = before


@pytest.mark.parametrize("text", ["[1 2]", "[1,]", "[1, 2", "[{", "[,]", "[", "[nope]"])
def test_a_broken_json_list(text):
    with pytest.raises(DataError, match="bad JSON"):
        list(rows._items(io.StringIO(text), "x"))


def test_items_before_the_fault_are_given(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": ')
    found = read_rows(path)
    assert next(found).values == {"a": 1}
    with pytest.raises(DataError, match="bad JSON"):
        next(found)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.csv", b"a,b\n1,2\n1,2,3\n", "3 cells under 2 columns .*line 3"),
        ("x.csv", b'a,b\n"1"x,2\n', "bad table.*line 2"),
        ("x.csv", b"a,b\n\xff,2\n", "not UTF-8"),
        ("x.jsonl", b'{"a": 1}\n{"a"\n', "bad JSON.*line 2"),
        ("x.jsonl", b"[1]\n", "a list, not an object.*line 1"),
        ("x.json", b'{"a": 1}', "no JSON list"),
        ("x.json", b"[3]", "a int, not an object.*row 1"),
        ("x.parquet", b"PAR1 no", "damaged"),
        ("x.xlsx", b"", "is no table"),
    ],
)
def test_faults_say_their_place(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=expected) as caught:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_cells():
    row = Row({"a": " x ", "n": 3.0, "f": 0.5, "no": math.nan, "none": None, "list": [1], "bytes": b"1"}, "file", 0)
    assert [row.text(name) for name in ("a", "n", "f", "no", "none", "absent", "")] == ["x", "3", "0.5", "", "", "", ""]
    assert row.plain("a", "no", "none", "list", "absent") == {"a": " x ", "list": [1]}
    for fault in (lambda: row.text("list"), lambda: row.value("absent"), lambda: row.plain("bytes")):
        with pytest.raises(DataError, match="file"):
            fault()
