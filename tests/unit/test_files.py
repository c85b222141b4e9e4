"""Files that are never half-written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.errors import DataError
from unimedvl.files import append, aside, line, read_journal, write_json, write_lines

RECORDS = st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=4)


def write_half(path):
    with aside(path) as part:
        part.write_text("half")
        raise RuntimeError


def test_a_failed_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError):
        write_half(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_lines_are_ascii_json(tmp_path):
    write_lines(tmp_path / "x.jsonl", [{"text": "a\u2028b"}, {}])
    assert (tmp_path / "x.jsonl").read_bytes() == b'{"text": "a\\u2028b"}\n{}\n'


@settings(deadline=None)  # it waits for the disk
@given(RECORDS, st.integers(0, 200))
def test_a_journal_cut_anywhere_keeps_its_whole_records(tmp_path_factory, records, cut):
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    content = "".join(line(record) for record in records).encode()[: cut or None]
    path.write_bytes(content)
    kept = records[: content.count(b"\n")]
    assert read_journal(path) == kept
    assert path.read_bytes() == content  # a reader changes nothing
    assert read_journal(path, mend=True) == kept
    with path.open("a", encoding="utf-8") as file:
        append(file, {"last": 1})
    assert read_journal(path) == [*kept, {"last": 1}]


def test_a_line_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "j.jsonl"
    assert read_journal(path) == []
    path.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(DataError, match=r"no record: '\[2\]' .*line 2"):
        read_journal(path)
