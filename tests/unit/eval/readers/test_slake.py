from __future__ import annotations

import json

import pytest
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.eval.readers.slake import read

ROW = {
    "img_id": 102,
    "img_name": "xmlab102/source.jpg",
    "question": "What modality is used to take this image?",
    "answer": "CT",
    "q_lang": "en",
    "location": "Lung",
    "modality": "CT",
    "answer_type": "OPEN",
    "base_type": "vqa",
    "content_type": "Modality",
    "triple": ["vhead", "_", "_"],
    "qid": 11934,
}
CHINESE = {"q_lang": "zh", "question": "\u8fd9\u662f\u4ec0\u4e48?", "answer": "CT", "qid": 11935}


def slake(folder, *changes, name="test.json"):
    image = folder / "imgs/xmlab102/source.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(image)
    rows = [{**ROW, **change} for change in changes]
    (folder / name).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


def test_english_rows(tmp_path):
    closed = {"answer_type": "CLOSED", "answer": "Yes", "content_type": "Abnormality", "qid": 11936}
    folder = slake(tmp_path / "Slake1.0", {}, CHINESE, closed)
    rows = read(folder)
    assert [(row.name, row.kind, row.modality, row.truths, row.closed) for row in rows] == [
        ("slake-11934", "Modality", "CT", ("CT",), False),
        ("slake-11936", "Abnormality", "CT", ("Yes",), True),
    ]
    assert rows[0].prompt == ROW["question"]
    assert rows[0].inputs[0].size == (8, 6)
    assert read(folder / "test.json") == rows == read(tmp_path)


@pytest.mark.parametrize("name", ["validate.json", "validation.json"])
def test_both_names_of_the_validation_split(tmp_path, name):
    assert len(read(slake(tmp_path, {}, name=name), "validation")) == 1
    with pytest.raises(DataError, match=r"the folder holds no test\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, "'question' is empty"),
        ({"answer": ""}, "'answer' is empty"),
        ({"answer_type": ""}, "'answer_type' is empty"),
        ({"img_name": "xmlab103/source.jpg"}, "no image file .*imgs/xmlab103/source.jpg"),
        ({"img_name": None}, "'img_name' is empty"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, change, message):
    with pytest.raises(DataError, match=rf"{message}.*test\.json, row 3\)"):
        read(slake(tmp_path, {}, CHINESE, {"qid": 1, **change}))


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="no split is called 'dev'"):
        read(slake(tmp_path, {}), "dev")
    with pytest.raises(DataError, match="no row to ask"):
        read(slake(tmp_path))
    (tmp_path / "test.json").write_text(json.dumps([ROW], indent=1)[:-20])
    with pytest.raises(DataError, match=r"bad JSON: .*test\.json, line \d+"):
        read(tmp_path)
    (tmp_path / "test.json").write_text("[{}]")
    with pytest.raises(DataError, match=r"no column 'q_lang' among none .*row 1\)"):
        read(tmp_path)
