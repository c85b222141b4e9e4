"""Rows as calls, spread evenly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.eval.rows import read_rows, spread
from unimedvl.infer.tasks import InferSettings


@given(st.integers(1, 300), st.none() | st.integers(1, 400))
def test_spread(count, limit):
    numbers = spread(count, limit)
    assert len(numbers) == min(count, limit or count)
    assert sorted(set(numbers)) == numbers
    assert numbers[0] == 0
    assert numbers[-1] < count


def test_rows_become_calls(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    about = {"sub_task_type": "staining", "modality": "HIS"}
    lines = [
        {"main_task_type": "understanding", "input_img": [{"path": "a.png"}], **about,
         "message": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]},
        {"main_task_type": "edit", "input_img": [{"path": "a.png"}], "output_img": [{"path": "a.png"}], **about,
         "message": [{"from": "human", "value": "Stain."}, {"from": "gpt", "value": "Done."}]},
        {"main_task_type": "t2i", "output_img": [{"path": "a.png"}], **about,
         "message": [{"from": "human", "value": "Draw."}]},
        {"main_task_type": "reconstruction", "input_img": [{"path": "a.png"}], **about,
         "message": [{"from": "human", "value": "Again."}]},
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_rows(path)
    assert [(row.task, row.prompt, row.truth, len(row.inputs), row.target is None) for row in rows] == [
        ("vqa", "What?", "This.", 1, True),
        ("edit", "Stain.", "Done.", 1, False),
        ("t2i", "Draw.", "", 0, False),
        ("reconstruct", "Again.", "", 1, True),
    ]
    calls = [row.call(InferSettings()) for row in rows]
    assert [(call.task, len(call.images), call.wording) for call in calls] == [
        ("vqa", 1, "What?"), ("edit", 1, "Stain."), ("t2i", 0, "Draw."),
        ("reconstruct", 1, "Again.")]  # fmt: skip
    assert [row.name for row in read_rows(path, 2)] == ["rows-00000", "rows-00002"]


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="nothing.jsonl"):
        read_rows(tmp_path / "nothing.jsonl")
