"""The command line as a user runs it: real processes, from another directory, on the tiny checkpoint."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LIMIT = 120  # seconds for one command on a busy machine


@pytest.fixture(scope="module")
def desk(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "scans").mkdir()
    for number, image in enumerate(images):
        image.save(folder / "scans" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def infer(saved_tiny, desk):
    def run(*arguments, model=True, code=0, stdin=None):
        command = [sys.executable, "-m", "unimedvl.infer", *map(str, arguments)]
        if model:
            command[4:4] = ["--model", str(saved_tiny), "--device", "cpu"]
        result = subprocess.run(
            command, cwd=desk, capture_output=True, text=True, timeout=LIMIT, input=stdin, check=False
        )
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        return result

    return run


def only_object(result):
    """stdout is exactly one JSON object."""
    return json.loads(result.stdout)


TEXT = ("--max-new-tokens", 4)
DRAW = ("--steps", 3)


@pytest.mark.parametrize("task", ["vqa", "report", "caption"])
def test_text_tasks(infer, task):
    prompt = ("--prompt", "What is shown?") if task == "vqa" else ()
    record = only_object(infer(task, "--image", "scans/0.png", *prompt, *TEXT, "--json"))
    assert record["text"]
    assert record["settings"]["task"] == task
    assert record["settings"]["inputs"][0] == {"image": "scans/0.png", "steps": []}
    assert "Not for diagnosis" in record["notice"]
    plain = infer(task, "--image", "scans/0.png", *prompt, *TEXT)
    assert plain.stdout.rstrip("\n") == record["text"].rstrip("\n")
    if task == "report":
        assert record["text"].endswith("For research use only. Not for diagnosis.")


def test_several_images_are_one_question_and_a_folder_is_many(infer):
    one = only_object(
        infer("vqa", "--image", "scans/0.png", "--image", "scans/1.png", "--prompt", "Compare.", *TEXT, "--json")
    )
    assert [item for item in one["settings"]["inputs"] if isinstance(item, dict)] == [
        {"image": f"scans/{n}.png", "steps": []} for n in range(2)
    ]
    for pattern in ("scans", "scans/*.png"):
        many = only_object(infer("caption", "--image", pattern, *TEXT, "--json"))
        assert [r["settings"]["inputs"][0]["image"] for r in many["results"]] == [f"scans/{n}.png" for n in range(3)]


def test_text_to_image(infer, desk):
    record = only_object(
        infer("t2i", "--prompt", "A brain MRI.", "--size", "64x48", *DRAW, "--seed", 5, "--out", "a/b.png", "--json")
    )
    image = Image.open(desk / record["image"])
    assert image.size == (64, 48)
    assert json.loads(image.text["unimedvl"]) == record["settings"]
    assert record["settings"]["image"]["seed"] == 5
    planned = only_object(
        infer("t2i", "--prompt", "A brain.", "--size", "64x48", *DRAW, *TEXT, "--think", "--out", "a", "--json")
    )
    assert planned["text"]
    assert planned["settings"]["system"]
    assert planned["image"] == "a/t2i-0000.png"


@pytest.mark.parametrize("subtask", ["super-resolution", "staining", "translation", "segmentation"])
def test_edit_subtasks(infer, desk, subtask):
    record = only_object(
        infer("edit", "--image", "scans/1.png", "--subtask", subtask, *TEXT, *DRAW, "--out", f"{subtask}.png", "--json")
    )
    assert record["text"] is not None
    assert Image.open(desk / f"{subtask}.png").size == (64, 64)


def test_other_image_tasks(infer, desk):
    paths = set()
    for arguments in (
        ("edit", "--prompt", "Stain it.", "--mode", "understand", *TEXT),
        ("counterfactual", *TEXT),
        ("reconstruct",),
        ("reconstruct", "--through", "model"),
    ):
        record = only_object(infer(*arguments, "--image", "scans/0.png", *DRAW, "--out", "more", "--json"))
        assert (desk / record["image"]).is_file()
        paths.add(record["image"])
    assert len(paths) == 4, "no image overwrites another"


def test_one_bad_image_of_a_folder_does_not_stop_the_others(infer, desk):
    (desk / "mixed").mkdir()
    for name in ("a.png", "c.png"):
        (desk / "mixed" / name).write_bytes((desk / "scans" / "0.png").read_bytes())
    (desk / "mixed" / "b.png").write_text("words")
    result = infer("caption", "--image", "mixed", *TEXT, "--json", code=2)
    records = only_object(result)["results"]
    assert ["error" in record for record in records] == [False, True, False]
    assert "1 of 3 images failed" in result.stderr


def test_reconstruction_of_several_images(infer, desk):
    arguments = ("reconstruct", "--image", "scans/0.png", "--image", "scans/1.png", "--out", "again", "--json")
    records = only_object(infer(*arguments))["results"]
    assert [record["settings"]["inputs"][0]["image"] for record in records] == ["scans/0.png", "scans/1.png"]
    assert len({record["image"] for record in records}) == 2


def test_published_directories_take_model_overrides(infer, tiny_directory):
    words = ["model.max_latent_size=16", "model.vae={base_channels: 32, channel_multipliers: [1, 1, 2, 2]}"]
    words += ["model.vae.num_res_blocks=1", "model.vae.latent_channels=4", "t2i.seed=7"]
    arguments = ("t2i", "--model", tiny_directory, "--prompt", "x", "--size", "32x32", *DRAW, "--json")
    record = only_object(infer(*arguments, *words, model=False))
    assert record["settings"]["image"]["seed"] == 7


def test_overrides_and_settings_files(infer, desk):
    (desk / "s.yaml").write_text("t2i: {steps: 9}\n")
    record = only_object(
        infer("t2i", "--prompt", "x", "--size", "32x32", "--config", "s.yaml", "t2i.guidance.text_scale=2", "--json")
    )
    assert record["settings"]["image"]["steps"] == 9
    assert record["settings"]["image"]["guidance"]["text_scale"] == 2.0


def test_chat(infer):
    lines = (
        "/image scans/0.png\nWhat is this?\n/undo\n/image nowhere.png\nAnd now?\n/reset\nHello?\n/what\n/help\n/quit\n"
    )
    result = infer("chat", *TEXT, stdin=lines)
    assert len([line for line in result.stdout.splitlines() if line]) >= 3
    assert "scans/0.png: 112 x 80" in result.stderr
    assert "error: no such file (nowhere.png)" in result.stderr
    assert "no command is called /what" in result.stderr
    assert "/undo" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vqa", "--image", "none.png", "--prompt", "x"), "no such file (none.png)"),
        (("vqa", "--image", "text.png", "--prompt", "x"), "not an image (text.png)"),
        (("vqa", "--image", "torn.png", "--prompt", "x"), "the image is damaged"),
        (("vqa", "--image", "bomb.png", "--prompt", "x"), "decompression bomb"),
        (("vqa", "--image", "empty", "--prompt", "x"), "no image found"),
        (("vqa", "--image", "scans/0.png", "--prompt", " "), "the text is empty"),
        (("vqa", "--image", "scans/0.png", "--prompt", "word " * 5000), "exceed the 4096 that the model was made for"),
        (("t2i", "--prompt", "x", "--size", "65x48"), "multiples of 16"),
        (("t2i", "--prompt", "x", "--size", "512x512"), "at most 256"),
        (("t2i", "--prompt", "x", "--size", "big"), "size is 'big'"),
        (("t2i", "--prompt", "x", "--steps", "1"), "at least 2"),
        (("edit", "--image", "scans/0.png"), "edit needs a prompt"),
        (("t2i", "--prompt", "x", "--und-only"), "without the half that makes images"),
        (("vqa", "--image", "scans/0.png", "--prompt", "x", "--window", "1"), "window is '1'"),
        (("vqa", "--image", "scans/0.png", "--prompt", "x", "text.speed=1"), "unknown setting speed"),
        (("vqa", "--image", "scans/0.png", "--prompt", "x", "--dtype", "int4"), "dtype is 'int4'"),
        (("vqa", "--image", "scans/0.png", "--prompt", "x", "--attention", "flash"), "no attention backend"),
        (("vqa", "--image", "scans/0.png", "--prompt", "x", "--device", "foo"), "device 'foo'"),
        (("vqa", "--image", "scans/0.png", "--prompt", "x", "model.latent=3"), "unknown setting latent"),
        (("t2i", "--prompt", "x", "--size", "32x32", "--out", "text.png/x.png"), "text.png is a file"),
        (("t2i", "--prompt", "x", "--size", "32x32", "--out", "x.jpg"), "ends in .png"),
        (("t2i", "--prompt", "x", "--seed", str(10**22)), "seed is"),
        (("reconstruct", "--image", "scans", "--out", "x.png"), "3 images and one file"),
    ],
)
def test_bad_input_is_one_line_and_code_two(infer, desk, arguments, message):
    (desk / "text.png").write_text("words")
    (desk / "empty").mkdir(exist_ok=True)
    whole = (desk / "scans" / "0.png").read_bytes()
    (desk / "torn.png").write_bytes(whole[: len(whole) // 2])
    if not (desk / "bomb.png").exists():
        Image.fromarray(np.zeros((20000, 20000), dtype=np.uint8)).save(desk / "bomb.png")
    result = infer(*arguments, code=2)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith(" ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_model_that_is_not_there(infer):
    result = infer("vqa", "--model", "nowhere", "--image", "scans/0.png", "--prompt", "x", model=False, code=2)
    assert result.stderr.startswith("error: nowhere is not a directory")


def test_help_is_quick_and_says_what_this_is_not_for(infer):
    times = []
    for arguments in ((), ("edit",), ("batch",)):
        start = time.perf_counter()
        result = infer(*arguments, "--help", model=False)
        times.append(time.perf_counter() - start)
        assert "Not for diagnosis" in " ".join(result.stdout.split())
    assert statistics.median(times) < 1.5


# --- batch ------------------------------------------------------------------------------------------------


def requests_file(desk, count=12):
    rows = []
    for number in range(count):
        if number % 3 == 0:
            rows.append({"id": f"q{number}", "task": "vqa", "images": ["scans/0.png"], "prompt": f"Question {number}?"})
        elif number % 3 == 1:
            rows.append({"task": "t2i", "prompt": f"Brain {number}", "size": [32, 32], "steps": 3, "seed": number})
        else:
            rows.append({"task": "edit", "images": ["scans/1.png"], "prompt": f"Stain {number}", "steps": 3})
    path = desk / "requests.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def content(folder: Path):
    """Line -> everything of its record but timings, with the pixels of its image."""
    records = {}
    for path in sorted(folder.glob("results*.jsonl")):
        for text in path.read_text().splitlines():
            record = json.loads(text)
            assert record["line"] not in records, "a record is doubled"
            record.pop("timings", None)
            if record.get("image"):
                record["pixels"] = np.asarray(Image.open(folder / record["image"])).tolist()
            records[record["line"]] = record
    return records


def same_up_to_rounding(first, second):
    """Rows computed in other batches may differ by one gray level."""
    assert first.keys() == second.keys()
    for line, record in first.items():
        other = dict(second[line])
        pixels, others = record.get("pixels"), other.pop("pixels", None)
        assert {k: v for k, v in record.items() if k != "pixels"} == other
        if pixels is not None:
            assert np.abs(np.array(pixels) - np.array(others)).max() <= 1


def test_batch_killed_and_resumed_loses_and_doubles_nothing(infer, desk, saved_tiny):
    requests = requests_file(desk)
    arguments = ("batch", requests, *TEXT, "--batch-size", 2)
    infer(*arguments, "--out", "whole")
    expected = content(desk / "whole")
    assert len(expected) == 12

    command = [sys.executable, "-m", "unimedvl.infer", "batch", "--model", str(saved_tiny), "--device", "cpu"]
    command += [str(argument) for argument in arguments[1:]] + ["--out", "killed"]
    process = subprocess.Popen(command, cwd=desk, stderr=subprocess.DEVNULL, start_new_session=True)
    results = desk / "killed" / "results.jsonl"
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and not (results.exists() and results.read_text().count("\n") >= 3):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=LIMIT)
    before = results.read_text()
    assert 3 <= before.count("\n") < 12
    with open(results, "a") as file:
        file.write('{"line": 9, "torn')  # what a kill in the middle of a write leaves

    counts = only_object(infer(*arguments, "--out", "killed", "--json"))
    assert counts["done before"] == before.count("\n")
    assert counts["done before"] + counts["done now"] == 12
    assert results.read_text().startswith(before[: before.rfind("\n") + 1])
    same_up_to_rounding(content(desk / "killed"), expected)
    assert only_object(infer(*arguments, "--out", "killed", "--json"))["done now"] == 0

    for shard in range(3):
        infer(*arguments, "--out", "sharded", "--shard", f"{shard}/3")
    same_up_to_rounding(content(desk / "sharded"), expected)


def test_batch_records_errors_and_goes_on(infer, desk):
    rows = [
        '{"task": "vqa", "images": ["scans/0.png"], "prompt": "What?"}',
        '{"task": "vqa", "images": ["none.png"], "prompt": "What?", "id": 7}',
        "{broken",
        '{"task": "t2i", "prompt": "x", "size": [65, 48]}',
        '{"task": "t2i", "prompt": "x", "steps": "many"}',
        '{"task": "paint", "prompt": "x"}',
        '{"prompt": "x"}',
        "",
        '{"task": "vqa", "prompt": 5}',
        '{"task": "vqa", "prompt": "x", "seed": "y"}',
        '{"task": "t2i", "prompt": "x", "size": [32]}',
        '{"task": "vqa", "prompt": "x", "history": ["ab"]}',
        '{"task": "vqa", "prompt": "x", "max_new_tokens": 2.5}',
        '{"task": "vqa", "prompt": "PARAGRAPH"}'.replace("PARAGRAPH", "a\u2028b"),
        '{"task": "vqa", "prompt": "Describe pneumonia.", "history": [["What?", "A lung."]]}',
    ]
    path = desk / "faulty.jsonl"
    path.write_text("\n".join(rows))
    counts = only_object(infer("batch", path, *TEXT, "--batch-size", 4, "--out", "faulty", "--json"))
    assert counts["errors"] == 11
    records = content(desk / "faulty")
    assert sorted(records) == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15]
    assert records[1]["text"]
    assert records[14]["text"]
    assert records[15]["text"]
    again = only_object(infer("batch", path, *TEXT, "--batch-size", 4, "--out", "faulty", "--json"))
    assert again["done now"] == 0
    expected = {
        2: "no such file",
        3: "not JSON",
        4: "multiples of 16",
        5: "'many' (steps); give int",
        9: "the prompt is a int",
        10: "'y' (seed); give int",
        11: "[32] (size)",
        12: "a turn is no pair",
        13: "2.5 (max_new_tokens); give int",
        6: "no task is called 'paint'",
        7: "names no task",
    }
    for line, message in expected.items():
        assert message in records[line]["error"]
    assert records[2]["id"] == 7


def test_batch_refuses_results_of_other_requests(infer, desk):
    path = desk / "two.jsonl"
    path.write_text('{"task": "vqa", "prompt": "One?"}\n')
    infer("batch", path, *TEXT, "--out", "two")
    path.write_text('{"task": "vqa", "prompt": "Another?"}\n')
    result = infer("batch", path, *TEXT, "--out", "two", code=2)
    assert "the record of line 1 belongs to another request" in result.stderr
    path.write_text('{"task": "vqa", "prompt": "One?"}\n')
    result = infer("batch", path, "--max-new-tokens", 5, "--out", "two", code=2)
    assert "another request, model or setting" in result.stderr
    (desk / "two" / "results.jsonl").write_text("garbage\n")
    assert "no record: 'garbage'" in infer("batch", path, *TEXT, "--out", "two", code=2).stderr
    for arguments in (("--shard", "3/3"), ("--shard", "x"), ("--batch-size", "0")):
        assert "error:" in infer("batch", path, *arguments, "--out", "three", code=2).stderr
    assert "cannot be read" in infer("batch", "absent.jsonl", code=2).stderr
