from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unimedvl.data.records import RecordError
from unimedvl.data.sources import Source
from unimedvl.errors import DataError

ROW = {"main_task_type": "text", "message": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}


def lines(path, *rows):
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))
    return path


def test_a_broken_line_costs_itself_only(tmp_path):
    path = lines(tmp_path / "a.jsonl", ROW, b'{"main_task', b"\xff", ROW, {**ROW, "modality": 3}, {"other": []})
    source = Source("s", [path], cache=tmp_path / "cache")
    assert len(source) == 6
    assert source.record(0) == source.record(3)
    for row, reason in ((1, "bad JSON"), (2, "not UTF-8"), (4, "wrong type"), (5, "missing field")):
        with pytest.raises(RecordError, match=f"a.jsonl:{row + 1}") as caught:
            source.record(row)
        assert caught.value.reason == reason


def test_separators_inside_texts_are_no_line_breaks(tmp_path):
    text = "a\u2028b\x85c\x0cd"
    row = {**ROW, "message": [{"from": "human", "value": text}, {"from": "gpt", "value": "b"}]}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert Source("s", [path], cache=tmp_path / "cache").record(0).turns[0].text == text


def test_characters_and_byte_order_marks(tmp_path):
    row = {**ROW, "message": [{"from": "human", "value": "\ufffd \u00b5m \U0001f600"}, {"from": "gpt", "value": "b"}]}
    text = json.dumps(row, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"\ufeff{text}\r\n{text}\r\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(f"\ufeff[{text}]", encoding="utf-8")
    source = Source("s", [tmp_path / "a.jsonl", tmp_path / "b.json"], cache=tmp_path / "cache")
    assert [source.record(number).turns[0].text for number in range(3)] == [row["message"][0]["value"]] * 3


def test_a_changed_file_is_read_again(tmp_path):
    path = lines(tmp_path / "a.jsonl", ROW)
    assert len(Source("s", [path], cache=tmp_path / "cache")) == 1
    lines(path, ROW, ROW, ROW)
    assert len(Source("s", [path], cache=tmp_path / "cache")) == 3


def test_many_files_of_many_kinds(tmp_path):
    lines(tmp_path / "a.jsonl", ROW, ROW)
    (tmp_path / "b.json").write_text(json.dumps([ROW, {"conversations": ROW["message"]}]))
    pq.write_table(pa.Table.from_pylist([{"image": b"x", "captions": '["c"]'}]), tmp_path / "c.parquet")
    (tmp_path / "sub").mkdir()
    lines(tmp_path / "sub" / "d.jsonl", ROW)
    files = [tmp_path / "a.jsonl", str(tmp_path / "*.json"), tmp_path / "c.parquet", str(tmp_path / "sub" / "*")]
    source = Source("s", files, cache=tmp_path / "cache")
    assert len(source) == 6
    assert [source.record(row).family for row in range(6)] == ["text", "text", "text", "text", "t2i", "text"]
    assert source.location(3).endswith("b.json:2")
    assert source.root(5) == tmp_path / "sub"
    assert Source("s", files, root=tmp_path / "r", cache=tmp_path / "cache").root(5) == tmp_path / "r"


def test_names_are_no_patterns(tmp_path):
    lines(tmp_path / "a*b.jsonl", ROW)
    lines(tmp_path / "aXb.jsonl", ROW, ROW)
    (tmp_path / "set[1]").mkdir()
    lines(tmp_path / "set[1]" / "c.jsonl", ROW)
    for name in ("a*b.jsonl", "set[1]/c.jsonl"):
        assert len(Source("s", [tmp_path / name], cache=tmp_path / "cache")) == 1
    (tmp_path / "dir.jsonl").mkdir()
    with pytest.raises(DataError, match="a folder, not a data file"):
        Source("s", [str(tmp_path / "dir.json*")], cache=tmp_path / "cache")


def test_a_column_called_text_is_no_line(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"text": "\u20ac"}]), tmp_path / "t.parquet")
    with pytest.raises(RecordError, match="neither message, conversations nor captions"):
        Source("s", [tmp_path / "t.parquet"], cache=tmp_path / "cache").record(0)


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1PAR1")
    for name, message in (
        ("none.jsonl", "no such data file"),
        ("a.txt", "'.txt' is no data file"),
        ("empty.jsonl", "the source has no row"),
        ("bad.json", "the file is damaged"),
        ("object.json", "^holds a dict, not a list"),
        ("list.json", "the source has no row"),
        ("bad.parquet", "the file is damaged"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            Source("s", [tmp_path / name], cache=tmp_path / "cache")
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
