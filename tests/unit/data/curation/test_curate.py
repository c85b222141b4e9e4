"""The whole way in one process: what starts again, what is refused, and what nothing overwrites."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.curation.curate import curate, held
from unimedvl.data.curation.ingest import ReaderSettings
from unimedvl.data.curation.settings import BackendSettings, CurateSettings, SourceSettings
from unimedvl.errors import ConfigError, DataError


def picture(path, seed, side=140):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def raw(tmp_path):
    for number in range(4):
        picture(tmp_path / "raw" / f"{number}.png", number)
    table(tmp_path, [(f"{number}.png", f"A picture with the number {number}.") for number in range(4)])
    return tmp_path


def table(folder, rows):
    lines = ["image,caption", *(f"{image},{caption}" for image, caption in rows)]
    (folder / "raw" / "captions.csv").write_text("\n".join(lines) + "\n")


def run(folder, out=None, path=None, reader="table", reading=None, **more):
    source = SourceSettings(reader, path or folder / "raw" / "captions.csv", reading or ReaderSettings(family="t2i"))
    settings = CurateSettings(sources=(source,), out=out or folder / "out", **more)
    return curate(settings, lambda name, total: nullcontext(lambda: None))


def texts(folder, name="t2i", out="out"):
    lines = (folder / out / "train" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line)["message"][0]["value"] for line in lines]


def test_rows_that_were_read_before_a_failure_are_no_ghosts(raw):
    table(
        raw, [("0.png", "A row that stays."), ("1.png", "A row that is wrong."), ("gone.png", "A row without image.")]
    )
    with pytest.raises(DataError, match=r"gone\.png"):
        run(raw, part_size=1)
    table(raw, [("0.png", "A row that stays.")])
    run(raw, part_size=1)
    assert texts(raw) == ["A row that stays."]


def test_sources_that_have_changed_are_read_again(raw):
    run(raw)
    table(raw, [("0.png", "A caption that was mended."), ("1.png", "A picture with the number 1.")])
    run(raw)
    assert texts(raw) == ["A caption that was mended.", "A picture with the number 1."]


def test_a_file_more_in_a_folder_is_seen(raw):
    reading = ReaderSettings(input_folder="in", target_folder="out", subtask="segmentation")
    for number in range(2):
        picture(raw / "pairs" / "in" / f"{number}.png", number)
        picture(raw / "pairs" / "out" / f"{number}.png", number)
    pairs = {"path": raw / "pairs", "reader": "paired", "reading": reading}
    assert run(raw, **pairs).rows == {"train/interleaved.jsonl": 2}
    picture(raw / "pairs" / "in" / "2.png", 2)
    picture(raw / "pairs" / "out" / "2.png", 2)
    assert run(raw, **pairs).rows == {"train/interleaved.jsonl": 3}


def test_nothing_is_done_again_for_the_same(raw):
    run(raw)
    times = {path: path.stat().st_mtime_ns for path in (raw / "out" / "work").rglob("part-*")}
    run(raw)
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("subtask", ["", "denoising"])
def test_edits_that_nobody_gives_an_instruction_are_no_records(raw, subtask):
    for number in range(2):
        picture(raw / "pairs" / "input" / f"{number}.png", number)
        picture(raw / "pairs" / "target" / f"{number}.png", number)
    with pytest.raises(DataError, match=r"no pair is left.*decisions\.jsonl"):
        run(raw, path=raw / "pairs", reader="paired", reading=ReaderSettings(subtask=subtask))
    decisions = [json.loads(line) for line in (raw / "out" / "decisions.jsonl").read_text().splitlines()]
    dropped = [each for each in decisions if each["action"] == "drop"]
    assert [each["reason"] for each in dropped] == ["no template suits it"] * 2
    assert "set its subtask to one of" in dropped[0]["detail"]


def test_a_corpus_does_not_lie_inside_its_source(raw):
    with pytest.raises(ConfigError, match="inside its source"):
        run(raw, out=raw / "raw" / "corpus", path=raw / "raw", reader="folder", reading=ReaderSettings(family="t2i"))
    assert not (raw / "raw" / "corpus").exists()


def test_a_moved_corpus_is_made_again(raw):
    run(raw)
    first = run(raw, out=raw / "a")
    (raw / "a").rename(raw / "b")
    assert run(raw, out=raw / "b").digest == first.digest


def test_where_one_stands_changes_nothing(raw, monkeypatch):
    monkeypatch.chdir(raw)
    source = SourceSettings("table", (raw / "raw" / "captions.csv").relative_to(raw), ReaderSettings(family="t2i"))
    settings = CurateSettings(sources=(source,), out=raw / "out")
    curate(settings, lambda name, total: nullcontext(lambda: None))
    images = [json.loads(line)["path"] for line in (raw / "out" / "images.jsonl").read_text().splitlines()]
    assert all((raw / "out" / image).is_file() for image in images)


def test_files_of_something_else_are_not_overwritten(raw):
    (raw / "out").mkdir()
    (raw / "out" / "README.md").write_text("mine")
    with pytest.raises(DataError, match=r"would be overwritten.*README\.md.*give another out"):
        run(raw)
    assert (raw / "out" / "README.md").read_text() == "mine"
    (raw / "out" / "README.md").rename(raw / "out" / "corpus.yaml")
    run(raw)


def test_two_at_once_do_not_mix(raw):
    with held(raw / "out"), pytest.raises(DataError, match="another curation works here"):
        run(raw)
    run(raw)


def test_a_damaged_stage_begins_again(raw):
    digest = run(raw).digest
    (raw / "out" / "work" / "01-coarse" / "stage.json").write_text("{")
    assert run(raw).digest == digest


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"files": {"t2i": ".."}}, "plain name"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_settings_that_cannot_be(more, told):
    with pytest.raises(ConfigError, match=told):
        CurateSettings(**more)


def test_a_scorer_alone_is_refused():
    with pytest.raises(ConfigError, match="without a captioner"):
        BackendSettings(scorer="unimedvl:bundled")
