"""From raw folders to a corpus: planted faults are found, a kill loses nothing, and the result can be read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from unimedvl.data.curation.audit.dimensions import DIMENSIONS
from unimedvl.data.curation.audit.page import FORMAT, read_sheet
from unimedvl.data.sources import Source

LIMIT = 240
COUNT = 60


def picture(seed, side=160):
    """Shapes of random places and grays on a gradient: unlike all others."""
    generator = np.random.default_rng(seed)
    image = Image.fromarray(np.tile(np.linspace(0, 120, side), (side, 1)).astype(np.uint8)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = generator.integers(0, side, 2)
        radius, gray = int(generator.integers(8, 40)), int(generator.integers(60, 255))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(gray,) * 3)
    return image


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Captions with faults, and pairs of folders of which two are swapped."""
    folder = tmp_path_factory.mktemp("raw")
    rows = []

    def add(name, image, caption, split="train"):
        image.save(folder / name)
        rows.append({"image": name, "caption": caption, "split": split, "modality": ("CT", "MRI")[len(rows) % 2]})

    for n in range(COUNT):
        add(f"{n}.png", picture(n), f"A computed scan number {n} of the abdomen.", "test" if n < 6 else "train")
    add("tiny.png", picture(100).resize((64, 64)), "An image that is far too small.")
    add("short.png", picture(101), "Short.")
    add("long.png", picture(102), "Long words. " * 200)
    add("plain.png", Image.new("RGB", (160, 160), "gray"), "An image without anything in it.")
    picture(20).save(folder / "copy.jpg", quality=85)
    rows.append(
        {
            "image": "copy.jpg",
            "caption": "A computed scan number 20 of the abdomen.",
            "split": "train",
            "modality": "CT",
        }
    )
    add("leaked.png", picture(3).resize((200, 200)), "A held-out image under another text.")
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for side in ("input", "target"):
        (folder / "pairs" / side).mkdir(parents=True)
    for n in range(12):
        target = picture(200 + n)
        target.resize((40, 40)).resize((160, 160)).save(folder / "pairs" / "input" / f"{n:02d}.png")
        other = {10: 11, 11: 10}.get(n, n)
        target.save(folder / "pairs" / "target" / f"{other:02d}.png")
    reading = {"text_column": "caption", "split_column": "split", "modality_column": "modality", "family": "t2i"}
    sources = [
        {"reader": "table", "path": str(folder / "captions.jsonl"), "settings": {"source": "scans", **reading}},
        {"reader": "paired", "path": str(folder / "pairs"),
         "settings": {"source": "pairs", "family": "edit", "subtask": "super-resolution", "modality": "CT",
                      "input_folder": "input", "target_folder": "target"}},
    ]  # fmt: skip
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"sources": sources, "part_size": 10, "coarse": {"min_characters": 0}})
    )
    return folder


def curate(*words, code=0):
    return data("curate", *words, "--quiet", code=code)


def data(*words, code=0):
    command = [sys.executable, "-m", "unimedvl.data", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def files_of(out):
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "work" not in path.relative_to(out).parts and path.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def corpus(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "out"
    shown = curate(f"config={raw / 'config.yaml'}", f"out={out}", "coarse.min_characters=10").stdout
    return out, shown


def decisions(out, action="drop"):
    found = [json.loads(text) for text in (out / "decisions.jsonl").read_text().splitlines()]
    return [each for each in found if each["action"] == action]


def test_every_planted_fault_is_found_and_nothing_else(corpus):
    out, shown = corpus
    dropped = [(each["stage"], each["reason"]) for each in decisions(out)]
    stages = [stage for stage, _ in dropped]
    assert stages.count("coarse") == 4, dropped
    assert stages.count("registration") == 2, dropped
    assert stages.count("duplicates") == 2, dropped
    assert len(dropped) == 8
    assert f"{COUNT + 10} records" in shown


def test_the_corpus_can_be_read_and_trained_on(corpus):
    out, _ = corpus
    source = Source("t2i", [out / "train" / "t2i.jsonl"])
    assert len(source) == COUNT - 6
    record = source.record(0)
    assert record.family == "t2i"
    assert record.outputs[0].read(source.root(0)).size == (160, 160)
    assert len(Source("test", [out / "test" / "t2i.jsonl"])) == 6
    edit = Source("edit", [out / "train" / "interleaved.jsonl"])
    assert edit.record(0).inputs[0].read(edit.root(0)).size == (160, 160)


def test_card_and_manifest(corpus):
    out, _ = corpus
    card = (out / "README.md").read_text()
    assert f"| 00-ingest | {COUNT + 6 + 12} |" in card
    assert "| CT |" in card
    assert "| scans |" in card
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["rows"]["test/t2i.jsonl"] == 6
    assert set(manifest["files"]) == {*manifest["rows"], "images.jsonl"}


def test_killed_and_resumed_is_the_same(raw, corpus, tmp_path):
    words = [f"config={raw / 'config.yaml'}", f"out={tmp_path / 'out'}", "coarse.min_characters=10"]
    command = [sys.executable, "-m", "unimedvl.data", "curate", *words, "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, stages = time.monotonic() + LIMIT, tmp_path / "out" / "work"
    while time.monotonic() < deadline and len(list(stages.glob("0[1-4]*/part-*"))) < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=LIMIT)
    assert not (tmp_path / "out" / "manifest.json").exists()
    curate(*words)
    relative = {
        name: content
        for name, content in files_of(tmp_path / "out").items()
        if name.endswith(("README.md", "decisions.jsonl"))
    }
    assert relative == {name: content for name, content in files_of(corpus[0]).items() if name in relative}
    assert "nothing" not in curate(*words).stdout


def test_experts_rate_a_sample_and_failing_rows_go(raw, corpus, tmp_path):
    out = tmp_path / "corpus"
    shutil.copytree(corpus[0], out)
    data("audit", "page", out, "--out", tmp_path / "audit.html", "--size", "6")
    sheet = json.loads((tmp_path / "audit.json").read_text())
    ids = list(read_sheet(tmp_path / "audit.json").modalities)
    assert len(ids) == 6
    scores = {
        name: {dimension.key: (0 if name == ids[0] else dimension.highest) for dimension in DIMENSIONS} for name in ids
    }
    rows = {name: {"scores": own, "comment": ""} for name, own in scores.items()}
    saved = {"format": FORMAT, "audit": sheet["audit"], "rater": "A", "ratings": rows}
    (tmp_path / "a.json").write_text(json.dumps(saved))
    shown = data("audit", "read", tmp_path / "audit.json", tmp_path / "a.json", "--remove-from", out).stdout
    assert "1 records removed" in shown
    assert ids[0] in shown
    texts = "".join(path.read_text() for path in out.glob("t*/*.jsonl"))
    assert ids[0] not in texts
    assert ids[1] in texts
    assert any(each["pair"] == ids[0] and each["stage"] == "audit" for each in decisions(out))
    again = data("audit", "read", tmp_path / "audit.json", tmp_path / "a.json", "--remove-from", out).stdout
    assert "0 records removed" in again


@pytest.mark.slow
def test_four_workers_make_the_same_corpus(raw, corpus, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    out = tmp_path / "out"
    curate(f"config={raw / 'config.yaml'}", f"out={out}", "coarse.min_characters=10", "workers=4")
    assert (out / "decisions.jsonl").read_bytes() == (corpus[0] / "decisions.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "no sources"),
        (("config=nowhere.yaml",), "no such settings file"),
        (("sources=[{reader: nothing, path: x}]",), "no reader 'nothing'"),
        (("sources=[{reader: table, path: nowhere.jsonl}]", "out=/tmp/never"), "no such file or folder"),
        (("workers=0",), "workers is 0"),
    ],
)
def test_errors_are_one_line(words, told, tmp_path):
    words = [word.replace("/tmp/never", str(tmp_path)) for word in words]
    said = curate(*words, code=2).stderr.strip().splitlines()
    assert told in said[-1]
