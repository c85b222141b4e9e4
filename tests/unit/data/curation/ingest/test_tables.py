"""Tables of images and captions."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unimedvl.data.curation.corpus import record
from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped
from unimedvl.data.curation.pairs import pair_id
from unimedvl.data.records import parse_record
from unimedvl.errors import ConfigError, DataError

read = READERS["table"]


def table(folder, *values, name="x.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values))
    return folder / name


def test_columns_have_names_of_ones_own(tmp_path, picture):
    picture(tmp_path / "in" / "a.png")
    row = {"file": "in/a.png", "said": "A chest.", "ask": "What is it?", "part": "valid", "kind": "x-ray", "age": 3}
    path = table(tmp_path, row)
    settings = ReaderSettings(image_column="file", text_column="said", question_column="ask", split_column="part",
                              modality_column="kind", more_columns=("age",))  # fmt: skip
    (pair,) = read(path, settings)
    assert pair.images == (str(tmp_path / "in" / "a.png"),)
    assert (pair.text, pair.question, pair.split, pair.modality) == ("A chest.", "What is it?", "validation", "XR")
    assert pair.more == {"age": 3}
    assert pair.source == "x"


def test_the_tables_of_a_folder_and_several_images(tmp_path, picture):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    table(tmp_path, {"image": "b.png", "caption": "two"}, name="2.jsonl")
    table(tmp_path, {"image": ["a.png", "b.png"], "caption": "one"}, name="1.jsonl")
    pairs = list(read(tmp_path, ReaderSettings()))
    assert [pair.text for pair in pairs] == ["one", "two"]
    assert len(pairs[0].images) == 2
    assert len({pair.id for pair in pairs}) == 2


def test_targets(tmp_path, picture):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    path = table(tmp_path, {"image": "a.png", "to": "b.png", "caption": "Done."})
    (edit,) = read(path, ReaderSettings(family="edit", target_column="to"))
    assert (edit.family, edit.images, edit.target) == ("edit", (str(tmp_path / "a.png"),), str(tmp_path / "b.png"))
    (t2i,) = read(path, ReaderSettings(family="t2i"))
    assert (t2i.images, t2i.target) == ((), str(tmp_path / "a.png"))


def test_images_in_the_rows_become_files(tmp_path, picture):
    data = picture(tmp_path / "a.png", np.arange(48, dtype=np.uint8).reshape(6, 8)).read_bytes()
    rows = [{"image": {"bytes": data, "path": "a.png"}, "caption": "x"}, {"image": {"bytes": b"no", "path": ""}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    skipped = Skipped()
    settings = ReaderSettings(images_out=tmp_path / "out", on_missing="skip")
    (pair,) = read(tmp_path / "x.parquet", settings, skipped)
    assert np.asarray(Image.open(pair.images[0]))[..., 0].tolist() == np.arange(48).reshape(6, 8).tolist()
    assert skipped.counts == {"not an image": 1}
    with pytest.raises(ConfigError, match="images_out"):
        list(read(tmp_path / "x.parquet", ReaderSettings()))


def test_a_missing_image_stops_or_counts(tmp_path, picture):
    picture(tmp_path / "a.png")
    path = table(tmp_path, {"image": "gone.png", "caption": "x"}, {"image": "a.png", "caption": "y"})
    with pytest.raises(DataError, match=r"no such image .*line 1: gone\.png"):
        list(read(path, ReaderSettings()))
    skipped = Skipped()
    assert [pair.text for pair in read(path, ReaderSettings(on_missing="skip"), skipped)] == ["y"]
    assert skipped.counts == {"no such image": 1}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"caption": "x"}, "no column 'image'"),
        ({"image": "a.png"}, "no column 'caption'"),
        ({"image": "", "caption": "x"}, "names no image"),
        ({"image": [], "caption": "x"}, "names no image"),
        ({"image": 3, "caption": "x"}, "names no image"),
    ],
)
def test_rows_that_cannot_be(row, expected, tmp_path, picture):
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=expected):
        list(read(table(tmp_path, row), ReaderSettings()))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "in", "../gone.png"])
def test_names_that_no_file_has(name, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="no such image"):
        list(read(table(tmp_path, {"image": name, "caption": "x"}), ReaderSettings()))


def test_an_unknown_split_and_two_targets(tmp_path, picture):
    picture(tmp_path / "a.png")
    path = table(tmp_path, {"image": ["a.png", "a.png"], "caption": "x", "split": "holdout"})
    with pytest.raises(DataError, match="no known split: 'holdout'"):
        list(read(path, ReaderSettings(split_column="split")))
    with pytest.raises(DataError, match="several images to make"):
        list(read(path, ReaderSettings(family="t2i")))


def test_faulty_rows_are_counted_with_their_places(tmp_path, picture):
    picture(tmp_path / "a.png")
    good = {"image": "a.png", "caption": "x", "split": "train"}
    bad = {"'image' names no image": {"image": ""}, "no known split": {"split": "DOE"}, "no column 'caption'": None}
    rows = [{**good, **change} if change else {"image": "a.png", "split": ""} for change in bad.values()]
    skipped = Skipped()
    given = ReaderSettings(split_column="split", on_missing="skip")
    path = table(tmp_path, good, *rows, good)
    pairs = list(read(path, given, skipped))
    assert [pair.id for pair in pairs] == [pair_id("x", "x.jsonl", number) for number in ("0", "4")]
    assert skipped.counts == dict.fromkeys(bad, 1)
    assert skipped.first == {reason: [f"{path}, line {number}"] for number, reason in enumerate(bad, 2)}


def test_a_table_with_images_to_make_holds_edits(tmp_path, picture):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    path = table(tmp_path, {"image": "a.png", "to": "b.png", "caption": "Done."})
    (pair,) = read(path, ReaderSettings(target_column="to"))
    assert (pair.family, pair.target) == ("edit", str(tmp_path / "b.png"))
    (pair,) = read(path, ReaderSettings(target_column="to", family="counterfactual"))
    assert pair.family == "counterfactual"
    for family in ("understanding", "t2i", "text"):
        with pytest.raises(ConfigError, match=f"target_column for the family {family}"):
            list(read(path, ReaderSettings(target_column="to", family=family)))


def test_marks_of_images_in_texts_are_left_out(tmp_path, picture):
    picture(tmp_path / "a.png")
    row = {"image": "a.png", "caption": "<image> A chest\n<image>\nof <image> a child.", "ask": "<image>\nWhat?"}
    (pair,) = read(table(tmp_path, row), ReaderSettings(question_column="ask"))
    assert (pair.question, pair.text) == ("What?", "A chest\n\nof a child.")
    made = parse_record(record(pair, tmp_path))
    assert [turn.text for turn in made.turns] == ["<image>\nWhat?", "A chest\n\nof a child."]


def test_rows_are_read_when_they_are_asked_for(tmp_path, picture):
    picture(tmp_path / "a.png")
    path = table(tmp_path, {"image": "a.png", "caption": "x"})
    with path.open("a") as file:
        file.write("broken\n")
    assert next(iter(read(path, ReaderSettings()))).text == "x"
