"""Template texts are rewritten if every fact stays; those that lose, add or turn one leave the template."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.refine import from_templates, noted, refine, refinement_fault
from unimedvl.data.curation.templates import values_of, worded
from unimedvl.endpoint import Reply, UnreachedError

BARE = Pair("0", "s", "edit", "segmentation", modality="CT")
SHARPEN = noted(BARE, replace(BARE, question="Sharpen this MRI."))
CONVERT = noted(BARE, replace(BARE, question="Convert this T1 scan into T2.", text="The T2 scan is made."))


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
    made, decision = refine(SHARPEN, lambda messages: Reply(new, model="m-1"))
    assert made.question == "Sharpen that MRI."
    assert decision == Decision("0", "refine", "keep", "refined", "by m-1")
    assert made.more == {"templates": {"question": "Sharpen this MRI."}, "refined": {"model": "m-1"}}


def test_a_text_that_fails_stays_and_the_other_is_taken():
    def ask(messages):
        instruction = "this instruction" in messages[0]["content"]
        return Reply("Turn this T1 scan into CT." if instruction else "Made: the T2 scan.", model="m-1")

    made, decision = refine(CONVERT, ask, rounds=2)
    assert (made.question, made.text) == (CONVERT.question, "Made: the T2 scan.")
    told = "instruction: the modality 'T2' is lost (after 2 replies)"
    assert decision == Decision("0", "refine", "flag", "instruction faulty", told)
    assert made.more["templates"] == {"question": CONVERT.question, "text": CONVERT.text}


def test_a_pair_without_a_good_reply_stays_as_it_was():
    made, decision = refine(CONVERT, lambda messages: Reply("no"), rounds=1)
    assert made is CONVERT
    assert decision.reason == "instruction faulty, response faulty"


def test_no_reply_is_no_decision():
    def gone(messages):
        raise UnreachedError("gone", remedy="wait")

    with pytest.raises(UnreachedError):
        refine(CONVERT, gone)


def test_only_what_templates_gave_is_refined():
    given = replace(BARE, question="Outline the liver in this CT.", more={"anatomy": "liver"})
    pair = noted(given, worded(given, 0))
    assert list(pair.more["templates"]) == ["text"]
    asked = []

    def ask(messages):
        asked.append(messages[0]["content"])
        return Reply(pair.text + " It is done.")

    made, _ = refine(pair, ask)
    assert made.question == given.question
    assert made.text == pair.text + " It is done."
    assert len(asked) == 1
    assert from_templates(pair)
    assert not from_templates(made)
    whole = replace(given, text="Here.")
    assert not from_templates(noted(whole, worded(whole, 0)))


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("Insert a lung nodule of 3 mm at the left knee in this SPECT image.", ""),
        ("Insert lung nodules of 3 mm at the left knee in this SPECT image.", ""),
        ("Insert a lung mass of 3 mm at the left knee in this SPECT image.", "finding 'pulmonary nodule' is lost"),
        ("Insert a lung nodule of 3 mm at the left elbow in this SPECT image.", "anatomy 'knee' is lost"),
        ("Insert a lung nodule of 3 mm at the left knee in this image.", "modality 'SPECT' is lost"),
    ],
)
def test_facts_of_the_pair_that_no_list_knows_must_stay(new, told):
    more = {"finding": "pulmonary nodule", "anatomy": "knee", "side": "left", "change": "add", "place": "elsewhere"}
    old = "Add a pulmonary nodule of 3 mm to the left knee on this SPECT image."
    fault = refinement_fault(old, new, values_of(replace(BARE, modality="SPECT", more=more)))
    assert told in fault
    assert bool(fault) == bool(told)
