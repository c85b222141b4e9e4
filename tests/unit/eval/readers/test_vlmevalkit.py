from __future__ import annotations

import base64
import io

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.eval.readers.vlmevalkit import read
from unimedvl.eval.rows import LETTERS


def encoded(width=8):
    file = io.BytesIO()
    Image.new("RGB", (width, 6), (width, 0, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


ROW = {
    "index": 0,
    "image": encoded(),
    "question": "Which organ is shown?",
    "A": "Liver",
    "B": "Kidney",
    "C": "Spleen",
    "D": "Lung",
    "E": None,
    "answer": "B",
    "category": "Organ Recognition - Abdomen",
    "l2-category": "CT",
    "clinical vqa task": "Organ Recognition - Abdomen",
    "department": "Urology",
    "perceptual granularity": "image",
    "modality": "CT",
    "split": "val",
}


def table(path, *changes, drop=()):
    """Written by pandas, as such tables are."""
    rows = [{"index": number, **change} for number, change in enumerate(changes)]
    frame = pd.DataFrame([{**ROW, **row} for row in rows])
    frame.drop(columns=list(drop)).to_csv(path, sep="\t", index=False)
    return path


def test_gmai_mmbench(tmp_path):
    path = table(
        tmp_path / "GMAI-MMBench_VAL.tsv",
        {},
        {"image": "0", "E": "Heart", "answer": "E", "clinical vqa task": "Counting"},
        {"image": encoded(9), "hint": "Mind the\nscale.", "C": "None", "D": None, "answer": "C"},
    )
    rows = read(path)
    assert [(row.name, row.kind, row.truths, len(row.options)) for row in rows] == [
        ("GMAI-MMBench_VAL-0", "Organ Recognition - Abdomen", ("Kidney",), 4),
        ("GMAI-MMBench_VAL-1", "Counting", ("Heart",), 5),
        ("GMAI-MMBench_VAL-2", "Organ Recognition - Abdomen", ("None",), 3),
    ]
    assert (rows[0].modality, rows[0].closed, rows[0].options[0]) == ("CT", True, "Liver")
    assert rows[2].prompt == "Mind the\nscale.\nWhich organ is shown?"
    assert [row.inputs[0].width for row in rows] == [8, 8, 9]
    assert rows[0].images[0].data is rows[1].images[0].data
    assert read(tmp_path) == rows == read(path, "val")


def test_a_reference_to_a_row_further_down_and_through_another(tmp_path):
    path = table(tmp_path / "t.tsv", {"image": "1"}, {"image": "2"}, {"image": encoded(5)})
    assert [row.inputs[0].width for row in read(path)] == [5, 5, 5]


def test_several_images_and_equal_ones(tmp_path):
    path = table(tmp_path / "t.tsv", {"image": repr([encoded(5), encoded(6)])}, {"image": encoded(6)})
    rows = read(path)
    assert [image.width for image in rows[0].inputs] == [5, 6]
    assert rows[0].images[1].data is rows[1].images[0].data


def test_images_by_path(tmp_path):
    (tmp_path / "images/t").mkdir(parents=True)
    for name in ("a.png", "images/b.png", "images/t/c.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    paths = [{"image_path": "a.png"}, {"image_path": "['b.png', 'c.png']"}]
    rows = read(table(tmp_path / "t.tsv", *paths, drop=["image"]))
    assert [[image.path for image in row.images] for row in rows] == [["a.png"], ["images/b.png", "images/t/c.png"]]
    assert rows[1].inputs[1].size == (8, 6)
    with pytest.raises(DataError, match=r"no image file .*d\.png .*t\.tsv, line 2\)"):
        read(table(tmp_path / "t.tsv", {"image_path": "d.png"}, drop=["image"]))


def test_a_letter_is_a_letter_even_if_an_option_says_it(tmp_path):
    rows = read(table(tmp_path / "t.tsv", {"A": "B", "B": "A", "answer": "A"}, {"answer": "kidney"}))
    assert [row.truth for row in rows] == ["B", "Kidney"]


def test_questions_without_options(tmp_path):
    none = dict.fromkeys("ABCD")
    path = table(tmp_path / "t.tsv", {**none, "answer": "a kidney"}, {**none, "answer": "['two', 'a pair']"})
    assert [(row.truths, row.options, row.closed) for row in read(path)] == [
        (("a kidney",), (), None), (("two", "a pair"), (), None)]  # fmt: skip


def test_files_by_their_names(tmp_path):
    for name in ("GMAI-MMBench_VAL.tsv", "GMAI_mm_bench_TEST_part_1.tsv", "GMAI_mm_bench_TEST_part_2.tsv"):
        table(tmp_path / name, {})
    assert [row.name for row in read(tmp_path, "val")] == ["GMAI-MMBench_VAL-0"]
    assert len(read(tmp_path, "test")) == 2
    with pytest.raises(DataError, match="no file name says the split 'dev'.*GMAI-MMBench_VAL"):
        read(tmp_path, "dev")
    table(tmp_path / "GMAI-MMBench_VAL_new.tsv", {})
    with pytest.raises(DataError, match=r"several files could be meant: GMAI-MMBench_VAL\.tsv, GMAI-MMBench_VAL_new"):
        read(tmp_path, "val")


def test_a_file_of_several_splits(tmp_path):
    path = table(tmp_path / "t.tsv", {"split": "dev"}, {"split": "test", "image": "0"}, {"split": "dev", "answer": "Z"})
    assert [row.name for row in read(path, "test")] == ["t-1"]
    with pytest.raises(DataError, match="no row is of the split 'train'.*use one of dev, test"):
        read(path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, "the answer is E, but the options end at D"),
        ({"answer": "Heart"}, "the answer 'Heart' is none of the options 'Liver'"),
        ({"answer": "AB"}, "the answer 'AB' is none"),
        ({"answer": None}, "no answer .*choose a split whose answers are public"),
        ({"question": ""}, "'question' is empty"),
        ({"C": None}, "option C is empty, but option D is not"),
        ({"image": None}, "neither image nor image_path"),
        ({"image": "7"}, "image is '7', neither base64 nor the index of a row"),
        ({"image": "1"}, "image points to row 1, which has no image of its own"),
        ({"image": encoded()[:100] + "%%%%"}, "is not base64"),
        ({"image": "[]"}, "a question without an image"),
        ({"index": 0}, "a second row with the index 0"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, change, message):
    path = table(tmp_path / "t.tsv", {}, change)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.where == f"{path}, line 3"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["index", "question", "answer", "image"])
def test_columns_that_are_missing(tmp_path, column):
    with pytest.raises(DataError, match=f"no column '{column}'|no answer|neither image"):
        read(table(tmp_path / "t.tsv", {}, drop=[column]))


def test_empty_files(tmp_path):
    for content in ("", "index\timage\tquestion\tA\tB\tanswer\n"):
        (tmp_path / "t.tsv").write_text(content)
        with pytest.raises(DataError, match="no row to ask"):
            read(tmp_path / "t.tsv")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1, max_size=12)
OPTIONS = st.lists(TEXTS.map(str.strip).filter(bool), min_size=2, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)  # one folder for all examples
@given(rows=st.lists(OPTIONS.flatmap(lambda texts: st.tuples(st.just(texts), st.integers(0, len(texts) - 1)))))
def test_letters_name_their_options(tmp_path, rows):
    changes = [{**dict.fromkeys("ABCD"), **dict(zip(LETTERS, texts, strict=False)), "answer": LETTERS[right]}
               for texts, right in rows]  # fmt: skip
    found = read(table(tmp_path / "h.tsv", {}, *changes))[1:]
    assert [(row.options, row.truths) for row in found] == [(tuple(texts), (texts[at],)) for texts, at in rows]
