"""Folders of pictures and their captions."""

from __future__ import annotations

import pytest

from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped
from unimedvl.errors import DataError

read = READERS["folder"]


def test_captions_beside_the_pictures(tmp_path, picture):
    for name in ("a.png", "b.jpg", "c.png", "d.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("A chest.\n")
    (tmp_path / "b.json").write_text('{"caption": "A skull.", "view": "lateral", "PatientName": "DOE"}')
    (tmp_path / "c.json").write_text('"A hand."')
    pairs = list(read(tmp_path, ReaderSettings(more_columns=("view",))))
    assert [pair.text for pair in pairs] == ["A chest.", "A skull.", "A hand.", ""]
    assert [pair.more for pair in pairs] == [{}, {"view": "lateral"}, {}, {}]
    assert pairs[0].images == (str(tmp_path / "a.png"),)
    assert {pair.source for pair in pairs} == {tmp_path.name}
    assert {pair.family for pair in pairs} == {"understanding"}
    assert "DOE" not in repr(pairs)


def test_a_text_is_the_caption_under_any_name_of_the_column(tmp_path, picture):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("A chest.")
    assert next(read(tmp_path, ReaderSettings(text_column="report"))).text == "A chest."


def test_folders_have_meanings(tmp_path, picture):
    picture(tmp_path / "val" / "fundus" / "drusen" / "x.png")
    picture(tmp_path / "train" / "ct" / "normal" / "deep" / "y.png")
    pairs = list(read(tmp_path, ReaderSettings(levels=("split", "modality", "label"))))
    assert [(pair.split, pair.modality, pair.more) for pair in pairs] == [
        ("train", "CT", {"label": "normal"}),
        ("validation", "CFP", {"label": "drusen"}),
    ]
    (pair, _) = read(tmp_path, ReaderSettings(levels=("", "", "label"), split="test"))
    assert (pair.split, pair.modality, pair.more) == ("test", "", {"label": "normal"})


def test_ids_stay_when_the_folder_moves(tmp_path, picture):
    for place in ("one", "two"):
        picture(tmp_path / place / "in" / "a.png")
    first, second = (list(read(tmp_path / place, ReaderSettings(source="s"))) for place in ("one", "two"))
    assert first[0].id == second[0].id


def test_text_to_image_has_a_target(tmp_path, picture):
    path = picture(tmp_path / "a.png")
    (pair,) = read(tmp_path, ReaderSettings(family="t2i"))
    assert (pair.images, pair.target, pair.picture) == ((), str(path), str(path))


def test_a_split_that_is_none(tmp_path, picture):
    picture(tmp_path / "holdout" / "a.png")
    with pytest.raises(DataError, match="no known split: 'holdout'"):
        list(read(tmp_path, ReaderSettings(levels=("split",))))


@pytest.mark.parametrize("content", [b'{"caption"', b"[1]", b"\xff"])
def test_a_caption_that_cannot_be_read(content, tmp_path, picture):
    picture(tmp_path / "a.png")
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        list(read(tmp_path, ReaderSettings()))


def test_pictures_with_a_faulty_caption_or_split_are_counted(tmp_path, picture):
    for name in ("train/a.png", "train/b.png", "DOE/c.png"):
        picture(tmp_path / name)
    (tmp_path / "train" / "a.json").write_text("{torn")
    skipped = Skipped()
    (pair,) = read(tmp_path, ReaderSettings(levels=("split",), on_missing="skip"), skipped)
    assert pair.images == (str(tmp_path / "train" / "b.png"),)
    assert skipped.counts == {"no known split": 1, "no caption": 1}
