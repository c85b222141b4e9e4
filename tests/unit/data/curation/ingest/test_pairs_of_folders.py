"""Partners by name, and masks that can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped
from unimedvl.errors import ConfigError, DataError

paired, masks = READERS["paired"], READERS["masks"]


def test_partners_by_relative_stem(tmp_path, picture):
    for name in ("input/p/a.png", "target/p/a.jpg", "input/b.png", "target/b.png"):
        picture(tmp_path / name)
    pairs = list(paired(tmp_path, ReaderSettings(subtask="super-resolution")))
    assert [(pair.images[0], pair.target) for pair in pairs] == [
        (str(tmp_path / "input" / "b.png"), str(tmp_path / "target" / "b.png")),
        (str(tmp_path / "input" / "p" / "a.png"), str(tmp_path / "target" / "p" / "a.jpg")),
    ]
    assert {(pair.family, pair.subtask) for pair in pairs} == {("edit", "super-resolution")}


def test_folders_and_endings_of_ones_own(tmp_path, picture):
    for name in ("lo/a_x4.png", "hi/a_full.png", "hi/readme.png"):
        picture(tmp_path / name)
    settings = ReaderSettings(input_folder="lo", target_folder="hi", input_suffix="_x4", target_suffix="_full")
    (pair,) = paired(tmp_path, settings)
    assert pair.target.endswith("a_full.png")


@pytest.mark.parametrize(("alone", "other"), [("input/x.png", "target"), ("target/x.png", "input")])
def test_a_missing_partner_stops_or_counts(alone, other, tmp_path, picture):
    for name in (alone, "input/a.png", "target/a.png"):
        picture(tmp_path / name)
    with pytest.raises(DataError, match=f"no partner in {other} .*x.png"):
        list(paired(tmp_path, ReaderSettings()))
    skipped = Skipped()
    assert len(list(paired(tmp_path, ReaderSettings(on_missing="skip"), skipped))) == 1
    assert skipped.counts == {f"no partner in {other}": 1}


def test_two_files_that_could_be_meant(tmp_path, picture):
    for name in ("input/a.png", "input/a.jpg", "target/a.png"):
        picture(tmp_path / name)
    with pytest.raises(DataError, match=r"the same name as a\.(jpg|png)"):
        list(paired(tmp_path, ReaderSettings()))


def test_a_folder_that_is_not_there(tmp_path, picture):
    picture(tmp_path / "input" / "a.png")
    with pytest.raises(DataError, match="no such folder .*target"):
        list(paired(tmp_path, ReaderSettings()))


LABELS = np.array([[0, 1], [2, 3]], dtype=np.uint8)


def test_class_numbers_are_drawn_as_grays(tmp_path, picture):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "masks" / "a.png", LABELS)
    (pair,) = masks(tmp_path, ReaderSettings(highest_label=3, images_out=tmp_path / "out"))
    assert (pair.family, pair.subtask) == ("edit", "segmentation")
    assert np.asarray(Image.open(pair.target))[..., 0].tolist() == [[0, 85], [170, 255]]
    assert pair.steps == ("labels 0 to 3 as grays 0 to 255",)
    assert pair.more == {"classes": 3}


def test_a_palette_is_read_by_its_indices(tmp_path, picture):
    picture(tmp_path / "images" / "a.png")
    image = Image.fromarray(LABELS, mode="P")
    image.putpalette([0, 0, 0, 9, 9, 9, 250, 0, 0, 1, 2, 3])
    (tmp_path / "masks").mkdir()
    image.save(tmp_path / "masks" / "a.png")
    (pair,) = masks(tmp_path, ReaderSettings(highest_label=3, images_out=tmp_path / "out"))
    assert np.asarray(Image.open(pair.target))[..., 0].tolist() == [[0, 85], [170, 255]]


def test_a_mask_that_can_be_seen_stays_as_it_is(tmp_path, picture):
    picture(tmp_path / "images" / "a.png")
    mask = picture(tmp_path / "masks" / "a.png", LABELS // 2 * 255)
    (pair,) = masks(tmp_path, ReaderSettings())
    assert (pair.target, pair.steps, pair.more) == (str(mask), (), {})


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, "up to 3 is as good as black"), ({"highest_label": 2}, "class numbers from 0 to 3")]
)
def test_masks_that_cannot_be(settings, expected, tmp_path, picture):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "masks" / "a.png", LABELS)
    with pytest.raises(DataError, match=expected):
        list(masks(tmp_path, ReaderSettings(images_out=tmp_path / "out", **settings)))
    skipped = Skipped()
    given = ReaderSettings(images_out=tmp_path / "out", on_missing="skip", **settings)
    assert list(masks(tmp_path, given, skipped)) == []
    assert sum(skipped.counts.values()) == 1


def test_colors_are_no_class_numbers(tmp_path, picture):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "masks" / "a.png", np.zeros((4, 4, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="holds colors"):
        list(masks(tmp_path, ReaderSettings(highest_label=1, images_out=tmp_path / "out")))


def test_class_numbers_need_a_folder_for_images(tmp_path, picture):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "masks" / "a.png", LABELS)
    with pytest.raises(ConfigError, match="images_out"):
        list(masks(tmp_path, ReaderSettings(highest_label=3)))
