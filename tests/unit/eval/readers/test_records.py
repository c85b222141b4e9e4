from __future__ import annotations

import base64
import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unimedvl.data.records import ImageRef
from unimedvl.errors import DataError
from unimedvl.eval.readers.records import read


def png(width=8):
    file = io.BytesIO()
    Image.new("RGB", (width, 6), (width, 0, 0)).save(file, "PNG")
    return file.getvalue()


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def record(**changes):
    return {
        "main_task_type": "understanding",
        "sub_task_type": "vqa",
        "modality": "CT",
        "input_img": [{"path": "a.png"}],
        "message": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}],
        **changes,
    }


def plain(**changes):
    return {"image": "a.png", "question": "Which?", "answer": "CT", **changes}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png(9))
    return tmp_path


@pytest.mark.parametrize("nested", [True, False])
def test_records_in_parquet_with_base64_images(tmp_path, nested):
    """The form of UniMedVL-5M; ``message`` may be JSON in a text."""
    rows = [
        record(input_img=[{"base64": base64.b64encode(png(width)).decode(), "height": 6, "width": width}])
        for width in (5, 7)
    ]
    if not nested:
        rows = [{**row, "message": json.dumps(row["message"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part2.parquet")
    found = read(tmp_path / "part2.parquet")
    assert [(row.name, row.task, row.kind, row.modality, row.prompt, row.truths) for row in found] == [
        (f"part2-0000{number}", "vqa", "vqa", "CT", "What?", ("This.",)) for number in (0, 1)
    ]
    assert [row.inputs[0].size for row in found] == [(5, 6), (7, 6)]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_records_by_path(folder, suffix):
    edit = record(main_task_type="edit", output_img=[{"path": "b.png"}])
    llava = {"conversations": record()["message"], "image": "a.png"}
    path = lines(folder / f"test.{suffix}", record(), edit, llava)
    if suffix == "json":
        path.write_text(json.dumps([record(), edit, llava]))
    rows = read(folder)
    assert [(row.task, len(row.inputs), row.target is None) for row in rows] == [
        ("vqa", 1, True), ("edit", 1, False), ("vqa", 1, True)]  # fmt: skip


@pytest.mark.parametrize("changes", [{"input_img": ["c.png"]}, {"main_task_type": "edit", "output_img": ["c.png"]}])
def test_records_whose_image_is_absent(folder, changes):
    path = lines(folder / "test.jsonl", record(), record(**changes))
    with pytest.raises(DataError, match=r"no image file .*c\.png .*test\.jsonl, row 2\)"):
        read(path)


def test_a_damaged_record(folder):
    with pytest.raises(DataError, match=r"1 <image> marks for 0 input images .*test\.jsonl:2\)"):
        read(lines(folder / "test.jsonl", record(), record(input_img=[])))


def test_the_plain_form(folder):
    rows = read(
        lines(
            folder / "mine.jsonl",
            plain(category="modality", modality="CT", answer=["CT", "computed tomography"]),
            plain(image=["a.png", "b.png"], question="<image><image>\nSame?", answer="no", id="pair"),
            plain(options=["MRI", "CT"]),
            plain(options={"A": "CT", "B": "MRI", "C": None}, answer="B"),
            plain(A="CT", B="MRI", answer="MRI"),
            plain(answer=3),
        )
    )
    assert [(row.name, row.kind, row.truths, row.options, row.closed) for row in rows] == [
        ("mine-00000", "modality", ("CT", "computed tomography"), (), None),
        ("mine-pair", "", ("no",), (), None),
        ("mine-00002", "", ("CT",), ("MRI", "CT"), True),
        ("mine-00003", "", ("MRI",), ("CT", "MRI"), True),
        ("mine-00004", "", ("MRI",), ("CT", "MRI"), True),
        ("mine-00005", "", ("3",), (), None),
    ]
    assert rows[1].prompt == "Same?"
    assert [image.width for image in rows[1].inputs] == [8, 9]


def test_a_letter_that_is_also_a_text(folder):
    assert read(lines(folder / "t.jsonl", plain(options=["B", "A"], answer="A")))[0].truths == ("A",)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "parquet"])
def test_the_plain_form_in_every_kind_of_file(folder, suffix):
    rows = [
        plain(options=["MRI", "CT"], image=["a.png", "b.png"], answer=["CT"]),
        plain(options=["CT", "MRI"], image=["b.png"], answer=["A"]),
    ]
    path = folder / f"mine.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        written = [{name: json.dumps(value) for name, value in row.items()} for row in rows]
        written[1]["answer"] = "A"
        pd.DataFrame(written).to_csv(path, sep="\t" if suffix == "tsv" else ",", index=False)
    found = read(path)
    assert [(row.truths, row.options, len(row.inputs)) for row in found] == [
        (("CT",), ("MRI", "CT"), 2), (("CT",), ("CT", "MRI"), 1)]  # fmt: skip


def test_images_inside_a_table(folder):
    rows = [{"image": {"bytes": png(width), "path": None}, "question": "q?", "answer": "a"} for width in (5, 5, 6)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    found = read(folder / "t.parquet")
    assert [row.inputs[0].width for row in found] == [5, 5, 6]
    assert found[0].images[0].data is found[1].images[0].data
    assert read(lines(folder / "t.jsonl", plain()))[0].images == (ImageRef("a.png"),)


def test_texts_in_brackets_stay(folder):
    (folder / "t.csv").write_text("image,question,answer\na.png,[T2] bright?,[unclear]\n")
    (row,) = read(folder / "t.csv")
    assert (row.prompt, row.truths) == ("[T2] bright?", ("[unclear]",))


def test_splits(folder):
    path = lines(folder / "mine.jsonl", plain(split="train"), plain(split="test", answer="MRI"))
    assert [(row.name, row.truth) for row in read(path)] == [("mine-00001", "MRI")]
    with pytest.raises(DataError, match="no row is of the split 'val'.*use one of test, train"):
        read(path, "val")
    lines(folder / "val.jsonl", plain())
    assert [row.name for row in read(folder, "validation")] == ["val-00000"]
    with pytest.raises(DataError, match=r"the folder holds no test\.jsonl"):
        read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, "'question' is empty"),
        ({"question": "<image>"}, "'question' is empty"),
        ({"answer": []}, "'answer' is empty"),
        ({"answer": ["a", ""]}, "'answer' is empty"),
        ({"answer": True}, "'answer' is bool, not a text"),
        ({"image": None}, "has neither path, bytes nor base64"),
        ({"image": "c.png"}, r"no image file .*c\.png"),
        ({"image": {"base64": "abcde"}}, "is not base64"),
        ({"options": ["CT", "MRI"], "answer": "C"}, "the answer is C, but the options end at B"),
        ({"options": ["CT", "MRI"], "answer": "US"}, "the answer 'US' is none of the options 'CT', 'MRI'"),
        ({"options": ["CT", "MRI"], "answer": ["CT", "MRI"]}, "2 answers to a question with options"),
        ({"options": ["CT"]}, "only one option"),
        ({"options": ["", "CT"]}, "option A is empty"),
        ({"options": {"1": "CT", "2": "MRI"}}, "an option is called '1'"),
        ({"options": "CT or MRI"}, "options 'CT or MRI' are no list"),
        ({"options": 4}, "options are int, not a list"),
    ],
)
def test_rows_that_cannot_be_used(folder, change, message):
    with pytest.raises(DataError, match=rf"{message}.*t\.jsonl, line 2\)"):
        read(lines(folder / "t.jsonl", plain(), plain(**change)))


def test_files_that_cannot_be_used(folder):
    for name, content, message in (
        ("t.jsonl", "", "no row to ask"),
        ("t.json", "[]", "no row to ask"),
        ("t.csv", "question,answer\na,b\n", "no column 'image' among question, answer"),
        ("t.csv", "image,answer\na.png,b\n", "no column 'question'"),
        ("t.csv", "image,question\na.png,b\n", "no column 'answer'"),
        ("t.xlsx", "x", "'.xlsx' is no table"),
    ):
        (folder / name).write_text(content)
        with pytest.raises(DataError, match=message):
            read(folder / name)
