"""Records become pairs, and pairs the same records again."""

from __future__ import annotations

import base64
import json

import pytest
from PIL import Image

from unimedvl.data.curation.corpus import record
from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped
from unimedvl.data.records import parse_record
from unimedvl.errors import ConfigError, DataError


def turns(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


ROWS = [
    {"main_task_type": "understanding", "sub_task_type": "plane", "modality": "CT", "input_img": [{"path": "../a.png"}],
     "message": turns("<image>\nWhich plane?", "Axial.")},
    {"main_task_type": "understanding", "input_img": [{"path": "../a.png"}],
     "message": turns("<image>\nWhich plane?", "Axial.", "And the part?", "The head.")},
    {"main_task_type": "t2i", "output_img": [{"path": "../a.png"}], "message": turns("A CT of the head.")},
    {"main_task_type": "t2i", "output_img": [{"path": "../a.png"}], "message": turns("Draw a head.", "Here.")},
    {"main_task_type": "edit", "sub_task_type": "segmentation", "input_img": [{"path": "../a.png"}],
     "output_img": [{"path": "../a.png"}], "message": turns("Segment it.", "Done.")},
    {"main_task_type": "text", "message": turns("What does CT stand for?", "Computed tomography.")},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "validation").mkdir()
    path = tmp_path / "validation" / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_what_was_a_record_is_the_same_record_again(folder):
    pairs = list(READERS["records"](folder / "validation", ReaderSettings(source="s")))
    assert {pair.split for pair in pairs} == {"validation"}
    assert len({pair.id for pair in pairs}) == len(ROWS)
    assert (pairs[0].question, pairs[0].text, pairs[0].subtask) == ("Which plane?", "Axial.", "plane")
    assert (pairs[2].question, pairs[2].text) == ("", "A CT of the head.")
    for row, pair in zip(ROWS, pairs, strict=True):
        before, after = parse_record(row), parse_record(record(pair, (folder / "validation").resolve()))
        assert (after.family, after.subtask, after.modality) == (before.family, before.subtask, before.modality)
        assert after.turns == before.turns
        assert [image.path for image in (*after.inputs, *after.outputs)] == [
            image.path for image in (*before.inputs, *before.outputs)
        ]


def test_images_inside_rows_are_written_out(folder):
    content = base64.b64encode((folder / "a.png").read_bytes()).decode()
    image = {"bytes": content}
    row = {"main_task_type": "t2i", "output_img": [image], "message": turns("A red square.")}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    settings = ReaderSettings(source="s", images_out=folder / "out", split="train")
    (pair,) = READERS["records"](folder / "rows.jsonl", settings)
    assert Image.open(pair.target).getpixel((0, 0)) == (255, 0, 0)
    assert (pair.family, pair.text, pair.split) == ("t2i", "A red square.", "train")
    with pytest.raises(ConfigError, match="no images_out"):
        list(READERS["records"](folder / "rows.jsonl", ReaderSettings()))


def test_families_that_are_no_pairs_are_counted(folder):
    row = {"main_task_type": "reconstruction", "input_img": [{"path": "a.png"}], "message": turns("Again.")}
    (folder / "rows.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(ROWS[5])}\n")
    skipped = Skipped()
    assert len(list(READERS["records"](folder / "rows.jsonl", ReaderSettings(), skipped))) == 1
    assert skipped.counts == {"family reconstruction": 1}


def test_faulty_rows_stop_or_count(folder):
    image = {"path": "a.png"}
    two = {"main_task_type": "edit", "input_img": [image], "output_img": [image, image], "message": turns("Cut it.")}
    several = {"main_task_type": "text", "output_img": [image, image], "message": turns("What?", "This.")}
    damaged = {"main_task_type": "t2i", "output_img": [{"bytes": "bm8="}], "message": turns("A head.")}
    lines = [json.dumps(row) for row in (two, several, {"main_task_type": "DOE", "message": []}, damaged, ROWS[5])]
    (folder / "rows.jsonl").write_text("\n".join(["{torn", *lines]) + "\n")
    given = {"source": "s", "images_out": folder / "out"}
    with pytest.raises(DataError, match=r"rows\.jsonl:1"):
        list(READERS["records"](folder / "rows.jsonl", ReaderSettings(**given)))
    skipped = Skipped()
    (pair,) = READERS["records"](folder / "rows.jsonl", ReaderSettings(**given, on_missing="skip"), skipped)
    assert pair.text == "Computed tomography."
    reasons = ["bad JSON", "image count", "several images to make", "unknown task", "damaged image"]
    assert skipped.counts == dict.fromkeys(reasons, 1)
    assert skipped.first == {reason: [f"rows.jsonl, row {number}"] for number, reason in enumerate(reasons, 1)}
