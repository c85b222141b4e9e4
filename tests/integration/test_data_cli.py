"""The command line of data as a user runs it: real processes, from another directory."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from unimedvl.data.sources import Source

LIMIT = 120  # seconds for one command on a busy machine


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Good images, and bad ones."""
    folder = tmp_path_factory.mktemp("desk")
    for number in range(3):
        Image.effect_noise((60 + number, 40), 60).convert("RGB").save(folder / f"{number}.png")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:2000])
    Image.new("1", (20_000, 9_000)).save(folder / "huge.png")
    return folder


@pytest.fixture(scope="module")
def data(desk):
    def run(*arguments, code=0):
        result = subprocess.run(
            [sys.executable, "-m", "unimedvl.data", *map(str, arguments)],
            cwd=desk,
            env={**os.environ, "HF_DATASETS_CACHE": str(desk / "cache"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        return result

    return run


def row(image, *, question="<image>What is it?", answer="A lung.", **size):
    message = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"main_task_type": "vqa", "input_img": [{"path": image, **size}], "message": message, "modality": "CXR"}


GOOD = [row("0.png", width=60, height=40), row("1.png"), row("2.png", height=40)]
FAULTS = {
    "bad JSON": '{"main_task_type": "vqa", ',
    "missing image": row("gone.png"),
    "damaged image": row("cut.png"),
    "image count": row("0.png", question="<image><image>What?"),
    "huge image": row("huge.png"),
    "wrong size": row("0.png", width=61, height=40),
    "empty text": row("0.png", answer="  "),
}


@pytest.fixture(scope="module")
def planted(desk):
    """A good row, a bad one, a good one, ..."""
    lines = [each for number, fault in enumerate(FAULTS.values()) for each in (GOOD[number % 3], fault)]
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (desk / "planted.jsonl").write_text(text)
    (desk / "good.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in GOOD))
    return "planted.jsonl"


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_planted_fault_is_found(data, planted, jobs):
    report = json.loads(data("validate", planted, "--json", "--jobs", jobs, code=1).stdout)
    assert (report["rows"], report["good"], report["bad"]) == (14, 7, 7)
    assert report["reasons"] == dict.fromkeys(FAULTS, 1)
    found = {reason: [one["where"] for one in offenders] for reason, offenders in report["first"].items()}
    assert found == {reason: [f"planted.jsonl:{2 * number + 2}"] for number, reason in enumerate(FAULTS)}


def test_the_report_is_readable(data, planted):
    result = data("validate", planted, "good.jsonl", code=1)
    assert result.stdout.startswith("17 rows: 10 good, 7 bad\n")
    assert "\nmissing image: 1\n  planted.jsonl:4: input image 1: no such file (gone.png)\n" in result.stdout
    assert "says 61 x 40 (width x height), the image is 60 x 40" in result.stdout
    assert not result.stderr


def test_good_files(data, planted, desk):
    assert data("validate", "good.jsonl").stdout == "3 rows: 3 good, 0 bad\n"
    assert data("validate", planted, "--limit", 1).stdout == "1 rows: 1 good, 0 bad\n"
    (desk / "sub").mkdir(exist_ok=True)
    (desk / "sub" / "rows.json").write_text(json.dumps(GOOD))
    data("validate", "sub/rows.json", "--root", ".", "--cache", "cache2")
    data("validate", "sub/rows.json", code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("validate", "none.jsonl"), "no such data file"),
        (("validate", "0.png"), "'.png' is no data file"),
        (("validate", "good.jsonl", "--root", "none"), "no such folder"),
        (("validate", "good.jsonl", "--jobs", "0"), "0 jobs"),
        (("stats", "good.jsonl", "--out", "x", "--no-plots", "--vit-sides", "9,3"), "give MIN,MAX"),
        (("stats", "good.jsonl", "--out", "x", "--no-plots", "--tokenizer", "none"), "check --tokenizer"),
        (("stats", "good.jsonl", "--out", "x", "--no-plots", "--tokenizer", "."), "no tokenizer files"),
        (("convert", "good.jsonl", "--out", "."), "the folder is not empty"),
    ],
)
def test_errors_are_one_line(data, planted, arguments, message):
    result = data(*arguments, code=2)
    assert message in result.stderr
    assert re.fullmatch(r"error: .*; .*\n", result.stderr)
    assert not result.stdout


def test_stats(data, planted, desk, tiny_directory):
    pytest.importorskip("matplotlib")
    flags = ("--tokenizer", tiny_directory, "--vit-sides", "28,56", "--vae-sides", "32,64")
    result = data("stats", planted, "--out", "report", *flags)
    assert "tokens per sample  " in result.stdout
    assert "estimate" not in result.stdout
    stats = json.loads((desk / "report" / "stats.json").read_text())
    # The size of a damaged or wrongly declared image can be told; one that is huge or missing counts as bad.
    assert stats["rows"]["reasons"] == dict.fromkeys(("bad JSON", "missing image", "image count", "huge image"), 1) | {
        "empty text": 1
    }
    assert stats["counts"]["modality"] == {"CXR": 9}
    assert {path.name for path in (desk / "report").iterdir()} == {
        "stats.json",
        "counts.png",
        "texts.png",
        "images.png",
        "tokens.png",
    }


def test_stats_without_plots(data, planted, desk):
    result = data("stats", "good.jsonl", "--out", "plain", "--no-plots", "--json")
    assert json.loads(result.stdout) == json.loads((desk / "plain" / "stats.json").read_text())
    assert "tokens per sample (estimate)" in json.loads(result.stdout)["distributions"]


def test_convert_then_validate(data, planted, desk):
    report = json.loads(data("convert", planted, "--out", "shards", "--rows-per-shard", 4, "--json", code=1).stdout)
    # Images are not decoded, so those that cannot be are carried along.
    assert report["reasons"] == {"bad JSON": 1, "empty text": 1, "image count": 1, "missing image": 1}
    assert [path.rsplit("/")[-1] for path in report["shards"]] == [f"part-0000{n}-of-00003.parquet" for n in range(3)]
    moved = desk / "elsewhere"
    (desk / "shards").rename(moved)
    found = json.loads(data("validate", "elsewhere/*.parquet", "--json", code=1).stdout)
    assert found["reasons"] == {"damaged image": 1, "huge image": 1, "wrong size": 1}
    source = Source("moved", [moved / "part-00000-of-00003.parquet"], cache=desk / "cache")
    assert source.record(0).inputs[0].data == (desk / "0.png").read_bytes()
    data("convert", "good.jsonl", "--out", "elsewhere", "--overwrite")
    assert [path.name for path in moved.iterdir()] == ["part-00000-of-00001.parquet"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to count processes")
def test_an_interrupt_ends_all_processes_quietly(planted, desk):
    lines = (desk / "good.jsonl").read_text() * 20_000
    (desk / "long.jsonl").write_text(lines)
    command = [sys.executable, "-m", "unimedvl.data", "validate", "long.jsonl", "--jobs", "2", "--cache", "cache"]
    process = subprocess.Popen(command, cwd=desk, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + LIMIT
    while len(children.read_text().split()) < 3:  # two, and the keeper of their semaphores
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does, while the processes still import
    assert process.communicate(timeout=LIMIT)[1] == "interrupted\n"
    assert process.returncode == 130


def test_help_answers_at_once():
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "unimedvl.data", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert statistics.median(seconds() for _ in range(3)) < 1  # torch or datasets alone take longer


def test_build_is_told_what_to_build(data):
    assert "choose from" in data("build", "maxi", code=2).stderr
    assert "--seed" in data("build", "mini", "--help").stdout
