"""Settings that cannot be, that a reader has no use for, and what was left out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped
from unimedvl.data.curation.pairs import pair_id
from unimedvl.errors import ConfigError, DataError
from unimedvl.settings import build, override


@pytest.mark.parametrize(
    "values",
    [
        {"split": "holdout"},
        {"family": "caption"},
        {"family": "reconstruction"},
        {"axes": (3,)},
        {"axes": ()},
        {"axes": (1, 1)},
        {"step": -1},
        {"step": 2, "spacing": 1.0},
        {"percentiles": (99.0, 1.0)},
        {"window": (40.0, 0.0)},
        {"least_filled": 2.0},
        {"highest_label": -1},
    ],
)
def test_values_that_cannot_be(values):
    with pytest.raises(ConfigError, match=str(next(iter(values)))):
        ReaderSettings(**values)


def test_the_known_families_are_told():
    with pytest.raises(ConfigError, match=r"'caption'.*understanding, text, t2i, edit, counterfactual, or leave it"):
        build(ReaderSettings, {"family": "caption"}, "test")


def test_a_source_with_nothing_in_it_is_told_after_one_with_something_skipped(tmp_path, picture):
    picture(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "x.json").write_text("{")
    (tmp_path / "b").mkdir()
    skipped, given = Skipped(), ReaderSettings(on_missing="skip")
    assert list(READERS["folder"](tmp_path / "a", given, skipped)) == []
    with pytest.raises(DataError, match="nothing of the layout"):
        list(READERS["folder"](tmp_path / "b", given, skipped))


def test_settings_come_from_a_file():
    values = {"window": [40, 400], "axes": [0, 2], "images_out": "out", "on_missing": "skip", "contrasts": ["a-b"]}
    settings = build(ReaderSettings, values, "test")
    assert settings.window == (40.0, 400.0)
    assert settings.axes == (0, 2)
    assert str(settings.out()) == "out"


@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_what_it_does_not_use_and_a_root_that_is_not_there(name, tmp_path):
    reader = READERS[name]
    foreign: dict[str, Any] = {"levels": ("label",), "contrasts": ("a-b",)}
    useless = next(key for key in foreign if key not in reader.uses)
    with pytest.raises(ConfigError, match=f"{useless} is of no use"):
        reader(tmp_path, ReaderSettings(**{useless: foreign[useless]}))
    with pytest.raises(DataError, match="no such file or folder"):
        reader(tmp_path / "absent", ReaderSettings())


@pytest.mark.parametrize("name", sorted(READERS.keys() - {"unimed_mini"}))  # its pictures lie in packages
def test_every_reader_tells_a_wrong_layout_in_one_line(name, tmp_path):
    (tmp_path / "notes.md").write_text("nothing to see")
    with pytest.raises(DataError) as caught:
        list(READERS[name](tmp_path, ReaderSettings(images_out=tmp_path / "out") if "images_out" in READERS[name].uses
                           else ReaderSettings()))  # fmt: skip
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.remedy


def test_what_is_set_stands_before_what_is_found():
    settings = ReaderSettings(source="mine", modality="CT", license="CC0-1.0")
    pair = settings.pair("a", "1", family="t2i", modality="MRI", split="test")
    assert (pair.id, pair.source, pair.modality) == (pair_id("mine", "a", "1"), "mine", "CT")
    assert (pair.family, pair.split, pair.license) == ("t2i", "test", "CC0-1.0")


def test_facts_from_a_file_and_from_words(tmp_path):
    (tmp_path / "own.yaml").write_text("facts: {target_modality: PET, anatomy: lung}\n")
    settings = override(ReaderSettings(), ["facts.anatomy=liver", "facts.scale=4"], tmp_path / "own.yaml")
    assert settings.facts == {"target_modality": "PET", "anatomy": "liver", "scale": 4.0}
    with pytest.raises(ConfigError, match=r"False \(settings, facts, finding\); give str or float"):
        override(ReaderSettings(), ["facts.finding=no"])


@pytest.mark.parametrize("name", ["folder", "table", "records", "paired", "masks", "nifti", "dicom"])
def test_facts_reach_the_pairs_of_every_reader(name, tmp_path, picture, volume, dicom):
    root = tmp_path / "raw"
    for path in ("input/a.png", "target/a.png", "images/a.png", "masks/a.png"):
        picture(root / path, 200)
    volume(root / "a.nii.gz", np.arange(60, dtype=np.float32).reshape(4, 5, 3))
    dicom(root / "a.dcm", np.arange(16).reshape(4, 4), BodyPartExamined="CHEST")
    line = {"image": "images/a.png", "caption": "A lung.", "message": [{"from": "human", "value": "A lung."}],
            "main_task_type": "t2i", "output_img": [{"path": "images/a.png"}]}  # fmt: skip
    (root / "a.jsonl").write_text(json.dumps(line) + "\n")
    at = root / "a.jsonl" if name in ("table", "records") else root
    out = {"images_out": tmp_path / "out"} if "images_out" in READERS[name].uses else {}
    pairs = list(READERS[name](at, ReaderSettings(facts={"anatomy": "liver", "note": "mine"}, **out)))
    assert pairs
    for pair in pairs:
        # What the source says of a pair stands before.
        assert pair.more["anatomy"] == ("chest" if name == "dicom" else "liver")
        assert pair.more["note"] == "mine"


def test_the_first_three_places_are_kept():
    skipped, settings = Skipped(), ReaderSettings(on_missing="skip")
    for number in range(5):
        skipped.missing(settings, "gone", f"file {number}", "look")
    assert skipped.counts == {"gone": 5}
    assert skipped.first == {"gone": ["file 0", "file 1", "file 2"]}
    with pytest.raises(DataError, match=r"gone \(file 9\); look, or set on_missing=skip"):
        skipped.missing(ReaderSettings(), "gone", "file 9", "look")


def test_images_need_a_folder():
    with pytest.raises(ConfigError, match="images_out"):
        ReaderSettings().out()
