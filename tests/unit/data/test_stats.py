"""Statistics: counts, lengths and tokens are those of the rows, and tokens those of training."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.figures import need_matplotlib
from unimedvl.data.plots import write
from unimedvl.data.records import ImageRef, RecordError, parse_record
from unimedvl.data.sources import Source
from unimedvl.data.stats import (
    COUNTED,
    ESTIMATED,
    Stats,
    collect,
    image_size,
    summary,
    tokens_of,
)
from unimedvl.data.tasks import Drafter, Dropout, TrainTransforms
from unimedvl.errors import DataError
from unimedvl.processor import ImageTransform

SIZES = {"a.png": (300, 200), "b.jpg": (64, 500), "c.tif": (1200, 900)}


@pytest.fixture
def folder(tmp_path):
    for name, size in SIZES.items():
        Image.new("RGB", size, "gray").save(tmp_path / name)
    return tmp_path


def source_of(folder, *rows):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return Source("test", [folder / "rows.jsonl"], cache=folder / "cache")


def row(task, human, answer, inputs=(), outputs=(), **more):
    message = [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]
    return {"main_task_type": task, "message": message, "input_img": inputs, "output_img": outputs, **more}


ROWS = (
    row("vqa", "<image>What?", "A lung.", ["a.png"], modality="CXR", sub_task_type="vqa"),
    row("vqa", "See <image> and <image>: differ?", "Yes, they do.", ["a.png", "b.jpg"], modality="CT"),
    row("text", "Hello", "Good day"),
    row("t2i", "A lung", "I plan it", (), ["c.tif"], dataset="d"),
    row("edit", "Sharpen", "Done", ["a.png"], ["c.tif"]),
    row("counterfactual", "Heal it", "It is healed", ["b.jpg"], ["a.png"]),
    row("reconstruction", "Repeat", "So it is", ["a.png", "c.tif"]),
    {"image": "c.tif", "captions": ["short", "a longer caption", "mid size"]},
)


def test_counts_and_lengths(folder):
    stats = collect(source_of(folder, *ROWS, "{", row("vqa", "<image>?", "x", ["gone.png"])))
    assert stats.counts["family"] == Counter(understanding=2, t2i=2, text=1, edit=1, counterfactual=1, reconstruction=1)
    assert stats.counts["modality"] == {"CXR": 1, "CT": 1, "(none)": 6}
    assert stats.report.counts == {"bad JSON": 1, "missing image": 1}
    assert (stats.report.rows, stats.report.good) == (10, 8)
    assert list(stats.measures["human text, characters"][:2]) == [5, len("See  and : differ?")]
    assert list(stats.measures["human text, characters"][-3:]) == [5, 16, 8]  # every caption
    assert stats.measures["gpt text, characters"][0] == len("A lung.")
    assert list(stats.measures["image width, pixels"][:3]) == [300, 300, 64]
    assert stats.values()["distributions"]["image height, pixels"]["max"] == 900
    assert ESTIMATED in stats.measures
    assert COUNTED not in stats.measures


def test_the_number_of_jobs_does_not_matter(folder):
    source = source_of(folder, *ROWS * 9, "{")
    assert collect(source, jobs=1).values() == collect(source, jobs=2).values()


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_tokens_are_those_of_training(folder, codec, tiny_config, number):
    transforms = TrainTransforms(ImageTransform(112, 28, 14, 112 * 100), ImageTransform(128, 32, 16))
    vit, stride = tiny_config.vit, tiny_config.latent_stride
    transforms = TrainTransforms(
        replace(transforms.vit, stride=vit.patch_size, max_side=vit.max_side * vit.patch_size, min_side=vit.patch_size),
        replace(transforms.vae, stride=stride, max_side=tiny_config.max_latent_size * stride, min_side=stride),
    )
    record = parse_record(ROWS[number])
    if record.captions:
        record = replace(record, captions=record.captions[1:2])
    sizes = {ref: SIZES[str(ref.path)] for ref in record.inputs + record.outputs}
    drafter = Drafter(codec, tiny_config, transforms, Dropout(0, 0, 0))
    draft = drafter.draft(record, lambda ref: (ref.read(folder), ""), np.random.SeedSequence(0))
    assert tokens_of(record, sizes, transforms, codec) == draft.tokens
    assert tokens_of(parse_record(ROWS[number]), sizes, transforms, codec) == draft.tokens


def test_a_tokenizer_counts(folder, codec):
    stats = collect(source_of(folder, ROWS[2]), codec=codec)
    human, answer = len(codec.encode("Hello")), len(codec.encode("Good day"))
    assert list(stats.measures["human text, tokens"]) == [human]
    assert list(stats.measures[COUNTED]) == [human + answer + 4]
    estimated = collect(source_of(folder, ROWS[2]))
    assert list(estimated.measures[ESTIMATED]) == [2 + 2 + 2 + 2]  # 5 and 8 characters
    assert "tokens per sample (estimate)" in str(estimated)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_sizes_are_of_upright_images(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / f"x.{suffix}", exif=exif)
    ref = ImageRef(f"x.{suffix}")
    assert image_size(ref, tmp_path) == ref.read(tmp_path).size


def test_sizes_come_from_headers_and_other_readers(tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((50, 40), 50).save(buffer, "PNG")
    assert image_size(ImageRef(data=buffer.getvalue()[:200]), tmp_path) == (50, 40)
    with pytest.raises(RecordError, match="not an image"):
        image_size(ImageRef(data=b"nothing"), tmp_path)
    with pytest.raises(RecordError, match="no such file"):
        image_size(ImageRef("gone.png"), tmp_path)
    Image.new("1", (20_000, 9_000)).save(tmp_path / "huge.png")
    with pytest.raises(RecordError) as caught:
        image_size(ImageRef("huge.png"), tmp_path)
    assert caught.value.reason == "huge image"


def test_sizes_of_dicom(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = pydicom.data.get_testdata_file("CT_small.dcm")
    assert image_size(ImageRef(path), tmp_path) == (128, 128)


def test_summary():
    assert summary([1, 2, 6]) == {"n": 3, "min": 1, "median": 2, "mean": 3, "p95": pytest.approx(5.6), "max": 6}
    assert summary([7]) == {"n": 1, "min": 7, "median": 7, "mean": 7, "p95": 7, "max": 7}


def many() -> Stats:
    stats = Stats()
    stats.report.rows = 500
    for number in range(100):
        stats.counts["dataset"][f"$set {number}$ with a very long name that goes on and on"] = 100 - number
    for kind in ("family", "subtask", "modality"):
        stats.counts[kind]["one"] = 5050
    return stats


def test_long_tables_are_cut(folder):
    text = str(many())
    assert "(86 others)" in text
    blocks = [block.splitlines() for block in text.split("\n\n")[1:]]
    assert [len(block) for block in blocks] == [3, 3, 3, 17]
    for block in blocks:
        assert len({len(line) for line in block}) == 1
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("few", [True, False])
def test_plots(folder, few):
    pytest.importorskip("matplotlib")
    stats = many()
    stats.add(collect(source_of(folder, *(ROWS[:1] if few else ROWS))))
    paths = write(stats, folder / "deep" / "out")
    assert [path.name for path in paths] == ["stats.json", "counts.png", "texts.png", "images.png", "tokens.png"]
    for path in paths[1:]:
        assert Image.open(path).width == 960
    assert json.loads(paths[0].read_text()) == stats.values()
    assert len(stats.values()["counts"]["dataset"]) == 101 + (not few)


def test_rows_without_images_or_none_at_all(folder):
    pytest.importorskip("matplotlib")
    names = [path.name for path in write(collect(source_of(folder, ROWS[2])), folder / "text")]
    assert names == ["stats.json", "counts.png", "texts.png", "tokens.png"]
    empty = collect(source_of(folder, "{"))
    assert [path.name for path in write(empty, folder / "none")] == ["stats.json"]
    assert str(empty).startswith("1 rows: 0 good, 1 bad")


def test_without_matplotlib(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DataError, match=r"plots need matplotlib.*pip install 'unimedvl\[ui\]'"):
        need_matplotlib()
    stats = collect(source_of(folder, ROWS[2]))
    with pytest.raises(DataError):
        write(stats, folder / "out")
    assert not (folder / "out").exists()
    assert [path.name for path in write(stats, folder / "out", plots=False)] == ["stats.json"]
    with pytest.raises(DataError, match="cannot be written"):
        write(stats, folder / "a.png" / "out", plots=False)
