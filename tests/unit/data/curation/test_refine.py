"""Rewritings that keep every fact are taken; those that lose, add or turn one leave the template."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.curation.fake_endpoint import serving, settings, text_of
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.refine import lost, refine, refine_all, refinement_fault, sides
from unimedvl.endpoint import Endpoint, Reply, UnreachedError
from unimedvl.replies import KeptReplies

KEPT = [
    ("Convert this T1 scan of the brain into T2.", "Using this T1-weighted cerebral scan, generate the T2 one."),
    ("Synthesize the T2 image from T1.", "From the T1 picture, please produce its T2 counterpart."),
    ("Enhance the chest X-ray by 4x.", "Raise the thoracic radiograph's resolution 4-fold."),
    ("Stain the H&E slide as HER2 IHC.", "Render the hematoxylin and eosin slide as HER2 immunohistochemistry."),
    ("The left upper lobe holds a mass of 3 cm.", "A 3 cm mass lies in the superior lobe on the left."),
    ("There is no pleural effusion.", "The pleura is without effusion."),
    ("No effusion or pneumothorax.", "Neither effusion nor pneumothorax."),
    ("Effusion is absent.", "There is no effusion."),
    ("Segment the kidneys on the axial CT.", "Outline both renal contours in the transverse computed tomography."),
    ("A defect of 0.5 \u00b5m at 40\u00d7.", "At 40x, a 0.5 \u03bcm defect."),
]
BAD = [
    ("Convert this T1 scan into T2.", "Convert this T2 scan into T1.", "T1 was given and is now wanted"),
    ("Synthesize T2 from T1.", "Synthesize T1 from T2.", "T1 was given"),
    ("Convert this T1 scan into T2.", "Convert this scan into T2.", "modality 'T1' is lost"),
    ("Make a CT of it.", "Make a cone-beam CT of it.", "modality 'CT' is lost"),
    ("Sharpen this MRI.", "Sharpen this CT.", "modality 'MRI' is lost"),
    ("Sharpen this picture.", "Sharpen this MRI.", "modality 'MRI' is added"),
    ("A mass in the liver.", "A mass in the spleen.", "anatomy 'liver' is lost"),
    ("A mass in the left lung.", "A mass in the right lung.", "position 'left' is lost"),
    ("A mass in the left lung.", "A mass in the lung.", "position 'left' is lost"),
    ("A mass in the lung.", "A mass in the left lung.", "position 'left' is added"),
    ("The upper pole.", "The lower pole.", "position 'upper' is lost"),
    ("The medial wall.", "The lateral wall.", "position 'medial' is lost"),
    ("Bilateral opacities.", "Lateral opacities.", "position 'bilateral' is lost"),
    ("A node of 3 mm.", "A node of 3 cm.", "number '3 mm' is lost"),
    ("A node of 3 mm.", "A node of 8 mm.", "number '3 mm' is lost"),
    ("A node of 3.5 mm.", "A node of 35 mm.", "number '3.5 mm' is lost"),
    ("Density of -50 HU.", "Density of 50 HU.", "number '-50 hu' is lost"),
    ("A 5 ms echo.", "A 5 m echo.", "number '5 ms' is lost"),
    ("Make it larger.", "Make it 2x larger.", "number '2 x' is added"),
    ("There is no effusion.", "There is an effusion.", "negation of 'effusion' is lost"),
    ("There is an effusion.", "There is no effusion.", "negation of 'effusion' is added"),
    ("No effusion. Edema is present.", "Effusion is present. No edema.", "negation of 'effusion' is lost"),
    ("The heart isn't enlarged.", "The heart is enlarged.", "negation"),
    ("Free of metastases.", "Full of metastases.", "negation"),
    ("No effusion, mass or cyst.", "No effusion or cyst, but a mass.", "negation of 'mas' is lost"),
    ("No mass in the left lung. Edema.", "A mass. No edema in the left lung.", "negation of 'mas' is lost"),
    ("The heart is normal.", "The heart is not normal.", "negation of 'normal' is added"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), KEPT)
def test_the_same_in_other_words(old, new):
    assert lost(old, new) == ""
    assert lost(new, old) == ""
    assert lost(old, old) == ""


WORDS = """no not without mass left right lung T1 T2 MRI from to generate 3 mm 4x absent . ; but effusion"""


@given(st.text() | st.lists(st.sampled_from(WORDS.split())).map(" ".join))
def test_a_text_says_what_it_says(text):
    assert lost(text, text) == ""


@pytest.mark.parametrize(("old", "new", "told"), BAD)
def test_another_fact(old, new, told):
    assert told in lost(old, new)


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("", "empty"),
        ("<think>hm</think>", "empty"),
        ("I'm sorry, but I cannot help with that.", "declines"),
        ("Sharpen this MRI.\nOr: improve this MRI.", "several paragraphs"),
        ("Sharpen this <image> MRI.", "<image>"),
        ("MRI.", "characters"),
        ("MRI " * 60, "characters"),
    ],
)
def test_forms(new, told):
    assert told in refinement_fault("Sharpen this MRI.", new)


@pytest.mark.parametrize(
    "new", ['"Sharpen that MRI."', "```\nSharpen that MRI.\n```", "<think>so</think> Sharpen that MRI."]
)
def test_wrapping_is_taken_off(new):
    pair, reason = refine(Pair("0", "s", "edit", question="Sharpen this MRI."), lambda messages: Reply(new))
    assert (pair.question, reason) == ("Sharpen that MRI.", "")
    assert pair.more == {"templates": {"question": "Sharpen this MRI."}}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the LEFT lung", {"left"}),
        ("bilaterally", {"left", "right"}),
        ("cleft, bright", set()),
        ("left and right", {"left", "right"}),
    ],
)
def test_sides(text, found):
    assert sides(text) == found


PAIR = Pair("0", "s", "edit", question="Convert this T1 scan into T2.", text="The T2 scan is made.")


def test_a_text_that_fails_stays_and_the_other_is_taken():
    def ask(messages):
        return Reply(
            "Turn this T1 scan into CT." if "this instruction" in messages[0]["content"] else "Made: the T2 scan."
        )

    pair, reason = refine(PAIR, ask)
    assert (pair.question, pair.text) == (PAIR.question, "Made: the T2 scan.")
    assert reason == "instruction: the modality 'T2' is lost (after 2 replies)"
    assert pair.more == {"templates": {"text": PAIR.text}}


def test_nothing_is_taken_where_no_reply_comes():
    def ask(messages):
        raise UnreachedError("gone", remedy="wait")

    assert refine(PAIR, ask) == (PAIR, "instruction: endpoint: gone; wait; response: endpoint: gone; wait")
    assert refine(Pair("0", "s", "edit"), ask) == (Pair("0", "s", "edit"), "no text")


def test_a_named_fault_is_mended(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def answer(messages):
        if len(messages) == 1:
            return "Turn this T1 scan around."
        assert "modality 'T2' is lost" in text_of(messages[-1])
        return f"Turn this T1 scan into T2{'.' * (len(messages) // 2)}"

    with serving(answer) as server:
        pairs = [Pair(str(n), "s", "edit", question=f"Convert this T1 scan into T2{'!' * n}") for n in range(6)]
        for _ in range(2):
            with KeptReplies(Endpoint(**settings(server)), tmp_path / "r.jsonl") as kept:
                done = refine_all([*pairs, *pairs], kept, workers=4)
        assert {pair.question for pair, _ in done} == {"Turn this T1 scan into T2."}
        assert {reason for _, reason in done} == {""}
        assert set(server.asked.values()) == {1}
        assert server.asked.total() == 12
