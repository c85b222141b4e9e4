from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unimedvl.data.records import RecordError
from unimedvl.errors import DataError
from unimedvl.eval.readers.vqa_rad import read

PUBLIC = {
    "qid": "1",
    "phrase_type": "freeform",
    "qid_linked_id": "03f451ca-de62-4617-9679-e836026a7642",
    "image_case_url": "https://medpix.nlm.nih.gov/case?id=48e1dd0e-8552-46ad-a354-5eb55be86de6",
    "image_name": "synpic54610.jpg",
    "image_organ": "HEAD",
    "evaluation": "not evaluated",
    "question": "Are regions of the brain infarcted?",
    "question_rephrase": "NULL",
    "question_relation": "NULL",
    "question_frame": "NULL",
    "question_type": "PRES",
    "answer": "Yes",
    "answer_type": "CLOSED",
}


def public(folder, *changes):
    images = folder / "VQA_RAD Image Folder"
    images.mkdir(parents=True)
    Image.new("RGB", (8, 6), (200, 0, 0)).save(images / "synpic54610.jpg")
    rows = [{**PUBLIC, "qid": number, **change} for number, change in enumerate(changes)]
    (folder / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    return folder


def test_the_public_form(tmp_path):
    folder = public(
        tmp_path / "VQA_RAD",
        {},
        {"phrase_type": "test_freeform", "answer_type": "CLOSED "},
        {"phrase_type": "test_para", "answer_type": "OPEN", "answer": 4, "question_type": "COUNT, pres "},
        {"phrase_type": "para"},
        {"phrase_type": "test_freeform", "answer_type": "OPEN", "answer": " right lobe ", "qid": "17"},
    )
    rows = read(folder)
    assert [(row.name, row.kind, row.truths, row.closed) for row in rows] == [
        ("vqa-rad-1", "PRES", ("Yes",), True),
        ("vqa-rad-2", "COUNT, PRES", ("4",), False),
        ("vqa-rad-17", "PRES", ("right lobe",), False),
    ]
    assert rows[0].prompt == "Are regions of the brain infarcted?"
    assert (rows[0].task, rows[0].options) == ("vqa", ())
    assert rows[0].inputs[0].size == (8, 6)
    assert [row.name for row in read(folder, "train")] == ["vqa-rad-0", "vqa-rad-3"]
    assert read(folder / "VQA_RAD Dataset Public.json") == rows == read(tmp_path)


def test_the_hub_form(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": b"one", "path": None}, {"bytes": b"one", "path": None}, {"bytes": b"two", "path": "x.jpg"}]
    columns = {"question": ["a?", "b?", "c?"], "answer": ["yes", "axial", "No"]}
    (tmp_path / "data").mkdir()
    table = pa.table({"image": pa.array(images, kind), **columns})
    pq.write_table(table, tmp_path / "data/test-00000-of-00001-e5bc3d208bb4deeb.parquet")
    rows = read(tmp_path)
    assert [(row.name, row.prompt, row.truths, row.closed) for row in rows] == [
        ("vqa-rad-test-00000", "a?", ("yes",), True),
        ("vqa-rad-test-00001", "b?", ("axial",), False),
        ("vqa-rad-test-00002", "c?", ("No",), True),
    ]
    assert rows[0].images[0].data is rows[1].images[0].data
    with pytest.raises(RecordError, match="not an image"):  # only now is it looked at
        _ = rows[0].inputs
    with pytest.raises(DataError, match="the folder holds no"):
        read(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "'question' is empty"),
        ({"answer": None}, "'answer' is empty"),
        ({"answer": ["Yes"]}, "'answer' is list, not a text"),
        ({"answer_type": "MAYBE"}, "answer_type 'MAYBE' is none of CLOSED, OPEN"),
        ({"phrase_type": "exam"}, "phrase_type 'exam' is none of"),
        ({"image_name": "synpic1.jpg"}, r"no image file .*VQA_RAD Image Folder/synpic1\.jpg"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, change, message):
    folder = public(tmp_path / "x", {"phrase_type": "test_para"}, {"phrase_type": "test_para", **change})
    with pytest.raises(DataError, match=rf"{message}.*VQA_RAD Dataset Public\.json, row 2\)"):
        read(folder)


def test_splits_and_columns(tmp_path):
    folder = public(tmp_path / "x", {})
    with pytest.raises(DataError, match="no split is called 'validation'.*use one of train, test"):
        read(folder, "validation")
    with pytest.raises(DataError, match="no row to ask"):
        read(folder)
    (folder / "VQA_RAD Dataset Public.json").write_text('[{"qid": 1, "phrase_type": "test_para"}]')
    with pytest.raises(DataError, match="no column 'question' among qid, phrase_type"):
        read(folder)
