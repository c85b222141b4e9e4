"""Evaluation as processes: every family, killed, shared out, compared, and shown on a page."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from unimedvl.eval.__main__ import main

LIMIT = 240
STEPS = ("infer.t2i.steps=3", "infer.edit.steps=3", "infer.text.max_new_tokens=12", "seed=5")


def run(*words, cwd, code=0):
    command = [sys.executable, "-m", "unimedvl.eval", *map(str, words)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def records(folder, name, count, **fields):
    rows = []
    for n in range(count):
        row = {"modality": ("CT", "MRI")[n % 2], "sub_task_type": fields.get("kind", "modality")}
        row["main_task_type"] = fields["task"]
        if fields["task"] != "t2i":
            row["input_img"] = [{"path": f"{n}.png"}]
        if fields["task"] in ("t2i", "edit", "counterfactual"):
            row["output_img"] = [{"path": f"{n + 1}.png"}]
        mark = "<image>\n" if fields["task"] != "t2i" else ""
        row["message"] = [{"from": "human", "value": f"{mark}{fields['ask']}"}]
        if "truth" in fields:
            row["message"].append({"from": "gpt", "value": fields["truth"]})
        rows.append(row)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with ten images and records of each family about them."""
    folder = tmp_path_factory.mktemp("desk")
    generator = np.random.default_rng(0)
    for n in range(10):
        small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((128, 128), Image.Resampling.BICUBIC).save(folder / f"{n}.png")
    records(folder, "vqa", 6, task="understanding", ask="How was this image made?", truth="CT.")
    records(folder, "caption", 4, task="understanding", ask="Describe this image.", truth="A CT scan of the head.")
    records(folder, "t2i", 6, task="t2i", ask="Draw a CT scan of the head.")
    records(folder, "stain", 4, task="edit", ask="Stain it.", kind="virtual staining", truth="Stained.")
    records(folder, "masks", 4, task="edit", ask="Segment it.", kind="segmentation", truth="A mask.")
    records(folder, "without", 4, task="counterfactual", ask="Remove it.", truth="It is gone.")
    return folder


FAMILIES = {
    "vqa": ("vqa", "vqa.jsonl", {"accuracy", "unmatched"}),
    "reports": ("reports", "caption.jsonl", {"bleu-1", "bleu-4", "rouge-1", "rouge-l"}),
    "generation": ("generation", "t2i.jsonl", {"gfid", "kid", "precision", "recall", "copies"}),
    "interleaved": ("interleaved", "stain.jsonl", {"psnr", "ssim"}),
    "segmentation": ("segmentation", "masks.jsonl", {"dice", "iou"}),
    "counterfactual": ("counterfactual", "without.jsonl", {"gfid", "psnr", "rouge-l", "bleu-3"}),
    "autoencoder": ("autoencoder", "t2i.jsonl", {"rfid", "psnr", "ssim"}),
}


def words_of(name):
    benchmark, file, _ = FAMILIES[name]
    more = ["train=t2i.jsonl"] if name == "generation" else []
    features = ["extractor=vision:bundled"] if name in ("generation", "counterfactual", "autoencoder") else []
    texts = ["meteor=false"] if name in ("reports", "counterfactual") else []
    return [f"benchmark={benchmark}", f"data={file}", *texts, *features, *more, *STEPS]


@pytest.fixture(scope="module")
def results(desk):
    found = {}
    for name in FAMILIES:
        shown = run(*words_of(name), f"out=out/{name}", cwd=desk).stdout
        found[name] = json.loads((desk / "out" / name / "result.json").read_text()), shown
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_scores(results, desk, name):
    result, shown = results[name]
    metrics = {score["metric"] for score in result["scores"] if score["group"] == "all"}
    assert FAMILIES[name][2] <= metrics
    assert result["errors"] == 0
    assert all(np.isfinite(score["value"]) for score in result["scores"])
    about = result["about"]
    assert about["model_hash"]
    assert about["seed"] == 5
    assert about["inference"]["t2i"]["steps"] == 3
    assert about["versions"]["torch"]
    assert shown.splitlines()[0] == f"{FAMILIES[name][0]}: {result['count']} predictions of bundled, 0 failed"
    assert (desk / "out" / name / "table.txt").read_text() in shown
    assert (desk / "out" / name / "sheet.png").exists() == ("psnr" in metrics or "gfid" in metrics or "dice" in metrics)
    items = (desk / "out" / name / "items.jsonl").read_text().splitlines()
    assert len(items) == result["count"] == about["rows"]


def predictions(folder):
    found = {}
    for path in (folder / "predictions").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            assert record["name"] not in found
            image = record["image"] and np.asarray(Image.open(folder / record["image"])).astype(int)
            found[record["name"]] = record["text"], record["error"], image
    return found


def assert_same(first, second):
    """Rows computed in other batches may differ by one gray level."""
    assert first.keys() == second.keys()
    for name, (text, error, image) in first.items():
        assert (text, error) == second[name][:2]
        if image is not None:
            assert np.abs(image - second[name][2]).max() <= 1


def test_killed_and_resumed_loses_nothing(results, desk):
    words = [*words_of("generation"), "out=killed", "batch_size=1"]
    command = [sys.executable, "-m", "unimedvl.eval", *words]
    process = subprocess.Popen(command, cwd=desk, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = desk / "killed" / "predictions" / "000-of-001.jsonl"
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and not (journal.exists() and journal.read_text().count("\n") >= 2):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=LIMIT)
    before = journal.read_text().count("\n")
    assert 2 <= before < 6
    said = run(*words, cwd=desk).stderr
    assert f"{6 - before} predictions made, {before} were there" in said
    assert_same(predictions(desk / "out" / "generation"), predictions(desk / "killed"))


def test_shared_out_equals_alone(results, desk):
    words = [*words_of("vqa"), "out=shared"]
    first = run(*words, "shard=0/2", cwd=desk)
    assert "this shard is done" in first.stderr
    assert not (desk / "shared" / "result.json").exists()
    run(*words, "shard=1/2", cwd=desk)
    assert_same(predictions(desk / "out" / "vqa"), predictions(desk / "shared"))
    alone, shared = results["vqa"][0], json.loads((desk / "shared" / "result.json").read_text())
    assert alone["scores"] == shared["scores"]


def test_comparison_and_leaderboard(results, desk):
    run(*words_of("vqa"), "out=other", "infer.text.max_new_tokens=1", cwd=desk)
    shown = run("compare", "out/vqa", "other", "--names", "long", "short", "--out", "compared", cwd=desk).stdout
    assert "accuracy" in shown
    assert "long" in shown
    assert Image.open(desk / "compared" / "compare.png").size[0] > 300
    named = [f"{name}=out/{name}" for name in FAMILIES]
    run("leaderboard", "short=other", *named, "--out", "board.md", cwd=desk)
    board = (desk / "board.md").read_text()
    for benchmark, _, _ in FAMILIES.values():
        assert f"## {benchmark}\n" in board
    assert "UniMedVL 14B, published" in board
    assert "<table" in (desk / "board.html").read_text()


def test_questions_of_a_public_benchmark(desk):
    """A VLMEvalKit TSV with base64 images, and an endpoint-free score."""
    image = base64.b64encode((desk / "0.png").read_bytes()).decode()
    lines = ["index\timage\tquestion\tA\tB\tanswer\tcategory\tsplit"]
    lines += [f"{n}\t{image if n == 0 else 0}\tWhich?\tCT\tMRI\tA\tModality\tval" for n in range(3)]
    (desk / "GMAI-MMBench_VAL.tsv").write_text("\n".join(lines) + "\n")
    shown = run("benchmark=gmai_mmbench", "data=GMAI-MMBench_VAL.tsv", "out=gmai", *STEPS, cwd=desk).stdout
    assert re.search(r"^accuracy .* 0\.608$", shown, re.M)  # the paper's number beside ours
    items = [json.loads(line) for line in (desk / "gmai" / "items.jsonl").read_text().splitlines()]
    assert items[0]["question"] == "Which?"
    assert items[0]["verdict"] in ("right", "wrong", "unmatched")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("benchmark=none",), "benchmark none (eval); give one of mini, efficiency, vqa_rad"),
        ((), "benchmark missing"),
        (("benchmark=vqa",), "no data"),
        (("benchmark=vqa", "data=nowhere.jsonl"), "nowhere.jsonl"),
        (("benchmark=vqa", "data=vqa.jsonl", "limit=0"), "limit is 0"),
        (("benchmark=vqa", "data=vqa.jsonl", "shard=2/2"), "shard is '2/2'"),
        (("benchmark=vqa", "data=vqa.jsonl", "judge.url=http://x"), "half of a judge"),
        (("benchmark=vqa", "data=vqa.jsonl", "infer.t2i.stepz=3"), "unknown setting stepz"),
        (("benchmark=generation", "data=t2i.jsonl", "extractor=inception:w.pth"), "Inception weights are absent"),
        (("benchmark=generation", "data=t2i.jsonl", "clip=nowhere"), "no open_clip_config.json"),
        (("benchmark=vqa", "data=vqa.jsonl", "extractor=x:y"), "vqa does nothing with extractor"),
        (("benchmark=generation", "data=t2i.jsonl", "classifier=vqa.jsonl"), "not a modality classifier"),
        (("benchmark=generation", "data=vqa.jsonl", "extractor=vision:bundled", "out=wrong"), "no target picture"),
        (("benchmark=reports", "data=t2i.jsonl", "meteor=false"), "no reference report"),
        (("compare", "nowhere", "out/vqa", "--out", "x"), "no result"),
        (("leaderboard", "nowhere", "--out", "x.md"), "'nowhere'"),
    ],
)
def test_errors_are_one_line(desk, words, told, monkeypatch, capsys):
    """In this process: a process each would take a minute."""
    monkeypatch.chdir(desk)
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert told in said[-1]
    assert said[-1].startswith("error: ")
    assert not (desk / "x").exists()
