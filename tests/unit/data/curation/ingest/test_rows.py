"""Rows of a corpus: JSON lists are read in pieces, and faults say their place."""

from __future__ import annotations

import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.data.curation.ingest import ReaderSettings, Skipped, rows
from unimedvl.data.curation.ingest.rows import Row, pairs_of_rows, read_rows
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import DataError


def test_rows_of_a_table(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('image,caption\na.png,"two\nlines"\nb.png,µ\n', encoding="utf-8-sig")
    assert list(read_rows(path)) == [
        Row({"image": "a.png", "caption": "two\nlines"}, f"{path}, line 2", 0),
        Row({"image": "b.png", "caption": "µ"}, f"{path}, line 4", 1),
    ]


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
        ("x.json", b'{"a": 1}', "no JSON list"),
        ("x.json", b"[3]", "a int, not an object.*row 1"),
        ("x.json", b'["\xff"]', "not UTF-8"),
        ("x.json", b"[" * 100_000, "bad JSON"),
        ("x.jsonl", b"[1]\n", "a list, not an object.*line 1"),
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
    for fault in (
        lambda: row.text("list"),
        lambda: row.text("bytes"),
        lambda: row.value("absent"),
        lambda: row.plain("bytes"),
    ):
        with pytest.raises(DataError, match="file"):
            fault()


def test_faulty_rows_stop_or_count(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"a": "one", "b": 1}, {"a": [1], "b": 1}, {"b": 1}, {"a": "two", "b": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(row):
        yield Pair(row.text("a"), "s", "text")

    def read(needed, **given):
        skipped = Skipped()
        return [pair.id for pair in pairs_of_rows(path, needed, make, ReaderSettings(**given), skipped)], skipped

    with pytest.raises(DataError, match="line 2"):
        read(["a"])
    found, skipped = read(["a"], on_missing="skip")
    assert found == ["one", "two"]
    assert skipped.counts == {"'a' is list, not a text": 1, "no column 'a'": 1}
    assert skipped.first == {"'a' is list, not a text": [f"{path}, line 2"], "no column 'a'": [f"{path}, line 3"]}
    # That is a matter of the settings.
    with pytest.raises(DataError, match="no column 'c': there are a, b"):
        read(["a", "c"], on_missing="skip")
