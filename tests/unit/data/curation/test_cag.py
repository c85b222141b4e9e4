"""The three steps of Caption Augmented Generation against a server that errs in form, in fact and in transport."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.data.curation.fake_endpoint import FAULTS, serving, settings, text_of
from unimedvl.data.curation.cag import augment, augment_all, description_fault, instruction_fault, response_fault
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.prompts import observation, refusal
from unimedvl.endpoint import Endpoint, Reply, UnreachedError
from unimedvl.errors import ConfigError
from unimedvl.replies import KeptReplies

ROOT = Path(__file__).parents[4]
DESCRIPTION = """Technique: frontal view of the chest, upright, moderate exposure.
Anatomy: both lungs, heart, mediastinum, diaphragm and the bony thorax.
Findings: a homogeneous opacity in the left lower zone with a meniscus, about a third of the height.
Impression: high contrast, dark lungs above a bright base."""
START = "Please generate a realistic chest X-ray image showing"
INSTRUCTION = f"{START} a left pleural effusion that fills a third of the hemithorax, with a meniscus."
PLAN = "I place the heart in the middle and lay a bright band over the left base whose upper border is to be concave."
CLOSING = "Here is the chest X-ray with a left pleural effusion."
RESPONSE = f"<think>{PLAN}</think> {CLOSING}"
CAPTION = "Left pleural effusion"


def step_of(messages):
    prompt = text_of(messages[0])
    return next(name for name, mark in MARKS.items() if mark in prompt)


MARKS = {"description": "on four levels", "instruction": "Begin with these words exactly", "response": "that draws"}
GOOD = {"description": DESCRIPTION, "instruction": INSTRUCTION, "response": RESPONSE}


def number_of(messages):
    """The pair that a conversation is about, which every text of these tests carries."""
    return int(re.search(r"#(\d+)", text_of(messages[0]))[1])


@pytest.fixture
def pair(tmp_path):
    Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "x.png")
    return Pair("0", "s", "t2i", text=CAPTION, modality="CXR", target=str(tmp_path / "x.png"), more={"row": 1})


class Model:
    """Gives its texts for a step in turn, the last one again and again."""

    def __init__(self, **texts):
        self.texts = {step: [good] for step, good in GOOD.items()} | texts
        self.asked = []

    def __call__(self, messages):
        step = step_of(messages)
        self.asked.append((step, messages))
        texts = self.texts[step]
        return Reply(texts.pop(0) if len(texts) > 1 else texts[0], model="m-1")


def test_a_pair_is_augmented_in_three_steps(pair):
    model = Model()
    made, reason = augment(pair, model)
    assert reason == ""
    assert (made.question, made.text) == (INSTRUCTION, RESPONSE)
    assert made.more == {"row": 1, "caption": CAPTION, "cag": {"description": DESCRIPTION, "model": "m-1"}}
    assert replace(made, question="", text=CAPTION, more={"row": 1}) == pair
    (one, first), (two, second), (three, third) = model.asked
    assert (one, two, three) == ("description", "instruction", "response")
    assert [part["type"] for part in first[0]["content"]] == ["image_url", "text"]
    assert CAPTION not in text_of(first[0])
    assert json.dumps(CAPTION) in second[0]["content"]
    assert json.dumps(DESCRIPTION) in second[0]["content"]
    assert json.dumps(INSTRUCTION) in third[0]["content"]
    assert augment(made, model) == (made, "is augmented already")


def test_replies_are_unwrapped(pair):
    model = Model(
        description=[f"<think>Let me see.</think>\n{DESCRIPTION}"],
        instruction=[f'"{INSTRUCTION.replace("chest X-ray", "Chest x-ray", 1)}"'],
        response=[f"<think>\n{PLAN}\n</think>\n\n{CLOSING}\n"],
    )
    made, reason = augment(pair, model)
    assert (made.question, made.text, reason) == (INSTRUCTION, RESPONSE, "")
    assert made.more["cag"]["description"] == DESCRIPTION


@pytest.mark.parametrize("step", list(GOOD))
def test_a_fault_is_named_and_mended(pair, step):
    model = Model(**{step: ["I'm sorry, I can't help with that.", "In this image there is a lung.", GOOD[step]]})
    made, reason = augment(pair, model)
    assert reason == ""
    assert made.question == INSTRUCTION
    asked = [messages for name, messages in model.asked if name == step]
    assert [len(messages) for messages in asked] == [1, 3, 5]
    assert "declines" in asked[1][-1]["content"]
    assert len(model.asked) == 5


@pytest.mark.parametrize("step", list(GOOD))
def test_a_lasting_fault_leaves_the_pair_and_ends_the_steps(pair, step):
    model = Model(**{step: ["no"]})
    assert augment(pair, model, rounds=2)[0] is pair
    again, reason = augment(pair, model, rounds=2)
    assert again is pair
    assert reason.startswith(f"{step}: ")
    assert reason.endswith("(after 2 replies)")
    assert model.asked[-1][0] == step


def test_no_reply_leaves_the_pair_and_a_refused_key_ends_the_run(pair):
    def gone(messages):
        raise UnreachedError("gone", remedy="wait")

    assert augment(pair, gone) == (pair, "description: endpoint: gone; wait")

    def refused(messages):
        raise ConfigError("no key", remedy="set it")

    with pytest.raises(ConfigError):
        augment(pair, refused)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"text": " "}, "no caption"),
        ({"target": ""}, "no image"),
        ({"modality": ""}, "no modality"),
        ({"target": "/none.png"}, "image: no such file"),
    ],
)
def test_pairs_that_cannot_be_asked(pair, change, told):
    model, pair = Model(), replace(pair, **change)
    same, reason = augment(pair, model)
    assert same is pair
    assert reason.startswith(told)
    assert not model.asked


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (DESCRIPTION, ""),
        (re.sub(r"^(\w+):", r"**\1:**", DESCRIPTION, flags=re.M), ""),
        (re.sub(r"^(\w+):", r"- \1 :", DESCRIPTION, flags=re.M), ""),
        (DESCRIPTION.replace("Anatomy", "Structure"), "do not begin with"),
        (DESCRIPTION.replace("Anatomy", "X").replace("Findings", "Anatomy").replace("X", "Findings"), "in this order"),
        (re.sub("Findings: .*", "Findings: none", DESCRIPTION), "Findings says nothing"),
        (DESCRIPTION + " dark" * 700, "characters"),
        (DESCRIPTION.replace("a homogeneous", "the image shows a homogeneous"), "'the image shows'"),
        ("I cannot analyze medical images.", "declines"),
        ("", "do not begin"),
    ],
)
def test_descriptions(text, told):
    assert told in description_fault(text)
    assert bool(description_fault(text)) == bool(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (INSTRUCTION, ""),
        (INSTRUCTION.replace("chest X-ray", "CT"), "does not begin with"),
        (INSTRUCTION.replace("chest X-ray", "MRI chest X-ray"), "does not begin with"),
        (f"Sure! {INSTRUCTION}", "does not begin with"),
        (INSTRUCTION.replace("showing", "that shows"), "does not begin with"),
        (START, "nothing follows"),
        (START + "s a left effusion of some size", "nothing follows"),
        (f"{START} left.", "characters"),
        (f"{START} left {'effusion ' * 200}", "characters"),
        (INSTRUCTION.replace("left", "right"), "caption's 'left' is lost"),
        (INSTRUCTION + "\nI hope this helps.", "one paragraph"),
        (INSTRUCTION + " <think>hm</think>", "one paragraph"),
        (INSTRUCTION + " As seen, it is large.", "'As seen'"),
        (INSTRUCTION + " It lies where the arrow points.", "'arrow'"),
        ("I'm unable to help.", "declines"),
    ],
)
def test_instructions(text, told):
    fault = instruction_fault(text, "CXR", CAPTION)
    assert told in fault
    assert bool(fault) == bool(told)


@pytest.mark.parametrize(
    ("modality", "word"),
    [("CFP", "color fundus"), ("CT", "CT"), ("HIS", "histopathology"), ("MRI", "MRI"), ("OCT", "OCT"),
     ("Ultrasound", "ultrasound"), ("endoscopy", "endoscopy"), ("SPECT", "SPECT")],
)  # fmt: skip
def test_the_start_names_the_modality(modality, word):
    text = f"Please generate a realistic {word} image showing a round lesion of moderate size."
    assert instruction_fault(text, modality, "lesion") == ""
    assert instruction_fault(text, "CXR", "lesion") != ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (RESPONSE, ""),
        (CLOSING, "no <think>"),
        (f"<think>{PLAN} {CLOSING}", "exactly one"),
        (f"<think></think> {CLOSING}", "nothing stands between"),
        (f"<think>{PLAN}</think>", "nothing stands after"),
        (f"Here: <think>{PLAN}</think> {CLOSING}", "begins with"),
        (f"<think>hm</think> {CLOSING}", "the plan has 2 characters"),
        (f"<think>{PLAN}</think> Done.", "what follows the plan"),
        (f"<think>{PLAN} We can see a meniscus.</think> {CLOSING}", "'We can see'"),
        (f"<think>{PLAN}</think> {CLOSING} This image shows it.", "'This image shows'"),
        (f"<think>{PLAN}</think> I'm sorry, but I can't do that.", "declines"),
        ("As an AI language model, I do not draw.", "declines"),
    ],
)
def test_responses(text, told):
    assert told in response_fault(text)
    assert bool(response_fault(text)) == bool(told)


@pytest.mark.parametrize(
    "text",
    [
        "in this image", "In the given picture", "the image shows", "The scan clearly demonstrates", "as seen",
        "as can be seen", "as is shown", "is observed", "can be appreciated", "we see", "you can observe",
        "the provided image", "according to the caption", "this radiograph reveals", "See figure 3", "the arrowheads",
        "upon inspection", "as\nseen", "within this slide",
    ],
)  # fmt: skip
def test_words_of_looking(text):
    assert observation(f"A mass, {text}, of 3 cm.")


@pytest.mark.parametrize(
    "text",
    [
        "The patient has seen better days", "imaging showing a mass", "the image is to be bright", "overseen borders",
        "the image should show a mass", "a narrow band", "configure 3 lobes", "whereas shown-like", "the scan plane",
        "a realistic CT image showing a mass", "notes of yellow", "the field of view", "a seen-through pane",
        "we seek contrast",
    ],
)  # fmt: skip
def test_other_words(text):
    assert observation(text) == ""


@pytest.mark.parametrize(
    "text", ["I can\u2019t assist with it", "I am not able to view it", "As an AI", "I do not see an image"]
)
def test_refusals(text):
    assert refusal(text)


@pytest.mark.parametrize("text", ["The mass cannot be delineated", "unable to see the border is typical", "I place it"])
def test_no_refusals(text):
    assert not refusal(text)


def pairs_of(folder, count):
    """Pairs of different images; the number goes through all three steps."""
    made = []
    for number in range(count):
        Image.new("RGB", (40, 40), (number, 9, 9)).save(folder / f"{number}.png")
        made.append(Pair(str(number), "s", "t2i", text=f"Left effusion #{number}", modality="CXR",
                         target=str(folder / f"{number}.png")))  # fmt: skip
    return made


def answer(messages):
    """Good texts that carry the pair's number; every third pair's instruction is wrong at first, #7's always."""
    step = step_of(messages)
    if step == "description":
        return DESCRIPTION
    number = number_of(messages)
    if step == "instruction" and (number == 7 or (number % 3 == 0 and len(messages) == 1)):
        return f"The image shows #{number}"
    return GOOD[step].replace("effusion", f"effusion #{number}")


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with serving(answer) as server:
        yield server


def check(done, count):
    for number, (pair, reason) in enumerate(done):
        assert pair.id == str(number)
        if number == 7:
            assert pair.text == "Left effusion #7"
            assert "instruction: it speaks about looking" in reason
        else:
            assert reason == ""
            assert f"effusion #{number} " in pair.question
            assert pair.text.startswith("<think>")
    assert len(done) == count


REQUESTS = 12 * 3 + 4 - 1 + 2  # 0, 3, 6 and 9 need a second instruction; 7 needs two more and gets no response


def test_a_bad_server_loses_nothing_and_is_asked_nothing_twice(server, tmp_path):
    pairs = pairs_of(tmp_path, 12)
    # Two faults before each good answer, of all kinds; three attempts.
    server.fault = lambda text, before: FAULTS[(len(text) + before) % len(FAULTS)] if before < 2 else None
    results = []
    for workers in (4, 1):
        with KeptReplies(Endpoint(**settings(server)), tmp_path / "r.jsonl") as kept:
            results.append(augment_all(pairs, kept, workers=workers))
    check(results[0], 12)
    assert results[0] == results[1]
    assert set(server.answered.values()) == {1}
    assert server.answered.total() == REQUESTS
    assert server.asked.total() == 3 * REQUESTS


def test_pairs_without_a_reply_are_told_and_asked_in_the_next_run(server, tmp_path):
    pairs = pairs_of(tmp_path, 12)
    server.fault = lambda text, before: "503" if "#4" in text and "that draws" in text else None
    with KeptReplies(Endpoint(**settings(server)), tmp_path / "r.jsonl") as kept:
        done = augment_all(pairs, kept, workers=4)
    assert done[4][0] == pairs[4]
    assert done[4][1].startswith("response: endpoint: the endpoint does not answer after 3 attempts: HTTP 503")
    server.fault = lambda text, before: None
    before = server.asked.total()
    with KeptReplies(Endpoint(**settings(server)), tmp_path / "r.jsonl") as kept:
        check(augment_all(pairs, kept, workers=4), 12)
    assert server.asked.total() == before + 1
    assert set(server.answered.values()) == {1}


CHILD = """
import json, sys
from pathlib import Path
from tests.unit.data.curation.test_cag import pairs_of
from unimedvl.data.curation.cag import augment_all
from unimedvl.endpoint import Endpoint
from unimedvl.replies import KeptReplies
folder = Path(sys.argv[2])
with KeptReplies(Endpoint(**json.loads(sys.argv[1])), folder / "r.jsonl") as kept:
    augment_all(pairs_of(folder, 12), kept, workers=4)
"""


def test_a_killed_build_goes_on_with_the_rest(server, tmp_path):
    server.hold = 17
    patient = {**settings(server), "timeout": 60}
    child = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(patient), str(tmp_path)], cwd=ROOT)
    journal, deadline = tmp_path / "r.jsonl", time.monotonic() + 240
    try:
        while not (journal.exists() and journal.read_bytes().count(b"\n") == 17 and server.asked.total() == 21):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    server.hold = None
    with KeptReplies(Endpoint(**patient), journal) as kept:
        check(augment_all(pairs_of(tmp_path, 12), kept, workers=4), 12)
        assert kept.cost.asked == REQUESTS - 17
    assert set(server.answered.values()) == {1}
    assert server.answered.total() == REQUESTS
    assert server.asked.total() == REQUESTS + 4  # those that were under way at the kill
