"""The three steps of Caption Augmented Generation with models that err in form and in fact."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from PIL import Image

from tests.unit.data.curation.fake_endpoint import text_of
from unimedvl.data.curation.cag import augment, captioned, description_fault, instruction_fault, response_fault
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.prompts import observation, refusal, version
from unimedvl.endpoint import RefusedError, Reply, UnreachedError, UnusableError
from unimedvl.errors import ConfigError

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
    made, decision = augment(pair, model)
    assert decision == Decision("0", "augment", "keep", "augmented", "by m-1")
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
    assert captioned(pair)
    assert not captioned(made)


def test_replies_are_unwrapped(pair):
    model = Model(
        description=[f"<think>Let me see.</think>\n{DESCRIPTION}"],
        instruction=[f'"{INSTRUCTION.replace("chest X-ray", "Chest x-ray", 1)}"'],
        response=[f"<think>\n{PLAN}\n</think>\n\n{CLOSING}\n"],
    )
    made, decision = augment(pair, model)
    assert (made.question, made.text, decision.action) == (INSTRUCTION, RESPONSE, "keep")
    assert made.more["cag"]["description"] == DESCRIPTION


@pytest.mark.parametrize("step", list(GOOD))
def test_a_fault_is_named_and_mended(pair, step):
    model = Model(**{step: ["I'm sorry, I can't help with that.", "In this image there is a lung.", GOOD[step]]})
    made, decision = augment(pair, model)
    assert decision.action == "keep"
    assert made.question == INSTRUCTION
    asked = [messages for name, messages in model.asked if name == step]
    assert [len(messages) for messages in asked] == [1, 3, 5]
    assert "declines" in asked[1][-1]["content"]
    assert len(model.asked) == 5


@pytest.mark.parametrize("step", list(GOOD))
def test_a_lasting_fault_leaves_the_pair_and_ends_the_steps(pair, step):
    model = Model(**{step: ["no"]})
    same, decision = augment(pair, model, rounds=2)
    assert same is pair
    assert (decision.action, decision.reason) == ("flag", f"{step} faulty")
    assert decision.detail.endswith("(after 2 replies)")
    assert model.asked[-1][0] == step


@pytest.mark.parametrize("step", list(GOOD))
@pytest.mark.parametrize(
    ("error", "kind"),
    [(RefusedError("too long", remedy="cut"), "refused"), (UnusableError("babble", remedy="ask"), "garbled")],
)
def test_what_the_endpoint_says_of_one_request_is_flagged(pair, step, error, kind):
    model = Model()

    def ask(messages):
        if step_of(messages) == step:
            raise error
        return model(messages)

    assert augment(pair, ask) == (pair, Decision("0", "augment", "flag", f"{step} {kind}", str(error)))


@pytest.mark.parametrize("error", [UnreachedError("gone", remedy="wait"), ConfigError("no key", remedy="set it")])
def test_no_reply_and_a_refused_key_are_no_decision(pair, error):
    def ask(messages):
        raise error

    with pytest.raises(type(error), match=error.problem):
        augment(pair, ask)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": " "}, "no caption"),
        ({"target": ""}, "no image"),
        ({"modality": ""}, "no modality"),
        ({"target": "/none.png"}, "unreadable image"),
    ],
)
def test_pairs_that_cannot_be_asked(pair, change, reason):
    model, pair = Model(), replace(pair, **change)
    same, decision = augment(pair, model)
    assert same is pair
    assert (decision.action, decision.reason) == ("flag", reason)
    assert not model.asked


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({}, True),
        ({"modality": ""}, True),  # is told what it lacks
        ({"family": "understanding"}, False),
        ({"question": "Draw it."}, False),
        ({"more": {"turns": [["human", "a"], ["gpt", "b"], ["human", "c"]]}}, False),
    ],
)
def test_which_pairs_are_augmented(pair, change, is_one):
    assert captioned(replace(pair, **change)) is is_one


def test_prompts_have_versions():
    assert len({version(stage) for stage in ("augment", "reason", "refine")}) == 3


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
