from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.errors import DataError
from unimedvl.eval.readers.tables import Entry, entries_of, read_entries, read_json, written_list

ROWS = [{"a": "x"}, {"a": "y"}]


@pytest.mark.parametrize(("name", "mark"), [("t.json", "row"), ("t.jsonl", "line")])
def test_rows_of_json(tmp_path, name, mark):
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, ROWS)) if mark == "line" else json.dumps(ROWS))
    expected = [Entry(values, f"{path}, {mark} {number + 1}", number) for number, values in enumerate(ROWS)]
    assert list(read_entries(path)) == expected
    if mark == "row":
        assert list(entries_of(read_json(path), str(path))) == expected


def test_an_absent_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: No such file.*x\.json"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "holds a dict, not a list"),
        (b"[{}, 1]", r"a int, not an object \(.*t\.json, row 2\)"),
        (b'[\n{"a": 1},\n{"a" 2}]', r"bad JSON: .*t\.json, line 3, column 6"),
    ],
)
def test_damage_is_told_in_one_line(tmp_path, content, message):
    path = tmp_path / "t.json"
    path.write_bytes(content)
    for read in (read_entries, lambda path: entries_of(read_json(path), str(path))):
        with pytest.raises(DataError, match=message) as caught:
            list(read(path))
        assert "\n" not in str(caught.value)


def entry(**values):
    return Entry(values, "here, row 1", 0)


def test_columns():
    found = entry(a="", b="x", c=["p", 2], d="['p', \"q\"]", e=[], f=["p", None])
    assert found.optional("z", "a", "b") == "x"
    assert (found.texts("c"), found.texts("d"), found.texts("d", written=True), found.texts("b")) == (
        ("p", "2"), ("['p', \"q\"]",), ("p", "q"), ("x",))  # fmt: skip
    assert found.one_of("b", "X", "Y") == "X"
    for column, call, message in (
        ("a", found.text, "'a' is empty"),
        ("z", found.text, "no column 'z' among a, b, c, d, e, f"),
        ("z", found.texts, "no column 'z'"),
        ("e", found.texts, "'e' is empty"),
        ("f", found.texts, "'f' is empty"),
        ("b", lambda column: found.one_of(column, "Y", "Z"), "b 'X' is none of Y, Z"),
    ):
        with pytest.raises(DataError, match=message):
            call(column)


@given(st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_lists_and_objects_written_out(value):
    assert written_list(f" {value!r}\n") == value
    assert written_list(json.dumps(value)) == value


@given(st.text())
def test_other_texts_are_no_lists(text):
    found = written_list(text)
    assert found is None or isinstance(found, list | dict)


@pytest.mark.parametrize("text", ["", "x", "[T2] bright", "[unclear]", "[1", "{1}", "3", "[" * 5000 + "]" * 5000])
def test_texts_that_look_like_lists(text):
    assert written_list(text) is None
