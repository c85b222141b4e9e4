from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
pytest.importorskip("nilearn")
pytest.importorskip("data_store")
pytest.importorskip("wsidicom_data")

from unimedvl.data.curation.pairs import SPLITS
from unimedvl.data.curation.settings import CurateSettings
from unimedvl.data.mini.build import TASKS, _make_room, build, settings_of
from unimedvl.data.mini.dialogues import facts
from unimedvl.data.mini.views import SIDE, VOLUME, bands, block_split, check_tissues
from unimedvl.data.sources import Source
from unimedvl.errors import DataError
from unimedvl.settings import override


@pytest.fixture(scope="module")
def mini(unimed_mini):
    return unimed_mini


@pytest.fixture(scope="module")
def index(mini):
    """All images but a few tissue maps that look as if something were written in them, of which no facts are told."""
    index = [json.loads(line) for line in (mini.folder / "images.jsonl").read_text().splitlines()]
    told = [item for item in index if "facts" in item]
    assert {item["subtask"] for item in index if item not in told} == {"cross-modal"}
    assert len(index) - len(told) < 12
    return told


def rows(mini, split, task):
    return [json.loads(line) for line in (mini.folder / split / f"{task}.jsonl").read_text().splitlines()]


def pixels(mini, split, reference):
    return np.asarray(Image.open(mini.folder / split / reference["path"])).astype(int)


def test_built_twice_it_is_the_same(mini, tmp_path, monkeypatch):
    shutil.copytree(mini.folder, tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    again = build(".")  # over an earlier build, which lay elsewhere
    assert again.folder == tmp_path / "again"
    assert again.digest == mini.digest
    one, two = (json.loads((built.folder / "manifest.json").read_text()) for built in (mini, again))
    assert one["files"] == two["files"]
    assert {"images.jsonl", "tokenizer/tokenizer.json", "test/staining.jsonl"} <= one["files"].keys()


def test_built_where_it_stands_nothing_is_done_again(mini):
    parts = {path: path.stat().st_mtime_ns for path in (mini.folder / "work").rglob("part-*.parquet")}
    assert build(mini.folder).digest == mini.digest
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_the_config_for_the_command_line_says_the_same(mini):
    """But for the files by task, and where things lie."""
    config = override(CurateSettings(), [f"out={mini.folder}"], Path("configs/curation/mini.yaml"))
    own = settings_of(mini.folder)
    source = replace(config.sources[0].settings, images_out=own.sources[0].settings.images_out)
    assert source == own.sources[0].settings
    wording = replace(config.wording, file=Path(str(config.wording.file)).resolve())
    changed = {"files": own.files, "sources": own.sources, "wording": wording}
    assert replace(config, **changed) == own


def test_a_folder_with_something_else_is_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="holds something else than UniMed-Mini"):
        build(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "x"


def test_an_earlier_version_makes_room(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "old.png").write_text("x")
    (tmp_path / "images" / "mine.png").write_text("x")
    manifest = {"name": "UniMed-Mini", "version": 1, "files": {"images/old.png": "0" * 64}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    _make_room(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.png"]


def test_six_modalities_and_every_task_in_every_split(mini, index):
    counted = Counter((item["modality"], item["split"]) for item in index)
    for modality in ("CFP", "CXR", "CT", "HIS", "MRI", "US"):
        assert all(counted[modality, split] >= 7 for split in SPLITS), modality
    for split in SPLITS:
        for task in TASKS:
            assert rows(mini, split, task), (split, task)
    assert sum(item["source"].endswith(VOLUME) for item in index) > 150


def test_every_row_is_a_record_whose_images_are_there(mini):
    for split in SPLITS:
        source = Source("mini", [mini.folder / split / "*.jsonl"], cache=mini.folder.parent / "cache")
        for number in range(len(source)):
            record = source.record(number)
            for ref in (*record.inputs, *record.outputs):
                assert ref.location(source.root(number)).is_file()


def test_no_test_pixel_is_in_training(index):
    """Regions of different splits are apart: boxes do not touch, frames and slices of a plane keep their gap."""
    by_place = defaultdict(list)
    for item in index:
        region = item["facts"]["region"]
        by_place[item["source"], region.get("axis")].append((item["split"], region))
    for (source, _), regions in by_place.items():
        for split, region in regions:
            for other, its in regions:
                if split == other:
                    continue
                if "slice" in region:
                    assert abs(region["slice"] - its["slice"]) > 3, source
                elif "frame" in region:
                    assert abs(region["frame"] - its["frame"]) > 5, source
                else:
                    (left, top, right, bottom), box = region["box"], its["box"]
                    assert right <= box[0] or box[2] <= left or bottom <= box[1] or box[3] <= top, source


def test_planes_do_not_cross(index):
    """The parts of the volume that the planes cut share no voxel."""
    facts = [item["facts"] for item in index if item["source"] == f"UniMed-Mini {VOLUME}"]
    boxes = {each["plane"]: each["region"]["voxels"] for each in facts}
    assert len(boxes) == 3
    for one, two in combinations(boxes.values(), 2):
        assert any(a[1] <= b[0] or b[1] <= a[0] for a, b in zip(one, two, strict=True))


def test_no_answer_contradicts_another(mini):
    """CT is made with X-rays; a chest may show a shoulder."""
    for split in SPLITS:
        for row in rows(mini, split, "vqa"):
            question, answer = (turn["value"] for turn in row["message"])
            assert not (row["modality"] == "CT" and "by X-ray" in question)
            assert not (row["modality"] == "CXR" and "shoulder" in question and answer == "No.")


def test_no_picture_is_in_two_splits(mini):
    seen = defaultdict(set)
    for path in (mini.folder / "images").rglob("*.png"):
        if "segmentation" not in path.name and path.parent.name in SPLITS:  # empty masks are alike
            seen[path.read_bytes()].add(path.parent.name)
    assert all(len(splits) == 1 for splits in seen.values())


def test_bands_and_blocks_leave_gaps():
    for length in (92, 240, 1955):
        places = sorted((start, stop) for _, start, stop in bands(length))
        assert places[0][0] == 0
        assert places[-1][1] == length
        assert all(next_start - stop >= 1 for (_, stop), (next_start, _) in pairwise(places))
    splits = [block_split(index) for index in range(160)]
    assert Counter(splits)["train"] == 88
    for number, split in enumerate(splits):
        near = set(splits[max(0, number - 3) : number + 4]) - {None}
        assert split is None or near == {split}


def test_yes_and_no_are_balanced(mini):
    said = Counter(
        (row["sub_task_type"], row["message"][1]["value"])
        for split in SPLITS
        for row in rows(mini, split, "vqa")
        if "yes/no" in row["sub_task_type"]
    )
    for kind in ("modality yes/no", "body part yes/no"):
        yes, no = said[kind, "Yes."], said[kind, "No."]
        # Four standard deviations of a fair coin.
        assert abs(yes - no) < 4 * (yes + no) ** 0.5, kind


def test_low_resolution_is_a_quarter_of_the_target(mini):
    for row in rows(mini, "test", "super_resolution")[::20]:
        low = pixels(mini, "test", row["input_img"][0])
        target = Image.open(mini.folder / "test" / row["output_img"][0]["path"])
        small = np.asarray(target.resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC))
        assert np.array_equal(low[::4, ::4], small)
        assert np.array_equal(low, low[::4, ::4].repeat(4, 0).repeat(4, 1))


def test_masks_are_binary_and_inside_the_brain(mini):
    for row in rows(mini, "test", "segmentation"):
        slice_, mask = pixels(mini, "test", row["input_img"][0]), pixels(mini, "test", row["output_img"][0])
        assert set(np.unique(mask)) <= {0, 255}
        assert (slice_[mask > 0] > 20).mean() > 0.97


def test_counterfactuals_change_one_place_only(mini):
    for row in rows(mini, "test", "counterfactual"):
        before, after = pixels(mini, "test", row["input_img"][0]), pixels(mini, "test", row["output_img"][0])
        changed = np.abs(before - after).max(axis=-1) > 1
        assert 0.01 < changed.mean() < 0.4
        assert np.abs(before - after).max() >= 50  # to be seen
        assert "rendered" in row["message"][1]["value"]
        ys, xs = np.nonzero(changed)
        assert ys.max() - ys.min() < SIDE * 0.8
        assert xs.max() - xs.min() < SIDE * 0.8


def test_facts_are_tested_in_other_words():
    train, test = dict(facts("train")), dict(facts("test"))
    assert not train.keys() & test.keys()
    assert set(test.values()) <= set(train.values())


def test_tissue_maps_are_checked():
    t1 = np.full((100, 100, 100), 100, dtype=np.uint8)
    gray, white = np.zeros_like(t1), np.zeros_like(t1)
    gray[:60], white[60:] = 200, 200
    t1[60:] = 150
    check_tissues(t1, gray, white)
    for broken in ((t1, gray, gray), (255 - t1, gray, white), (t1, gray // 3, white)):
        with pytest.raises(DataError, match="tissue maps do not fit"):
            check_tissues(*broken)


def test_the_card_says_what_is_missing(mini):
    card = (mini.folder / "README.md").read_text()
    assert "Optical coherence tomography and endoscopy are not" in card
    for source in {json.loads(line)["source"] for line in (mini.folder / "images.jsonl").read_text().splitlines()}:
        assert f"| {source.removeprefix('UniMed-Mini ')} |" in card
    assert {path.stem for path in Path(mini.folder / "sheets").glob("*.png")} >= {"task-counterfactual", "modality-US"}
