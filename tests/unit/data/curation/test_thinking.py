"""Reasoning is kept only before the right answer, and only in its form."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.thinking import answered, options_of, reasoning_fault, same_answer, think
from unimedvl.endpoint import Reply, UnreachedError

THOUGHTS = "The left lower zone is opaque with a meniscus, which fluid makes; so the answer is effusion."
OPTIONS = ("Effusion", "Pneumothorax", "Lung mass", "E. coli")


@pytest.mark.parametrize(
    ("answer", "truth", "options", "same"),
    [
        ("B", "B", (), True),
        ("(b)", "B.", (), True),
        ("B. Pneumothorax", "B", (), True),
        ("B. Pneumothorax", "pneumothorax", (), True),
        ("B. Pneumothorax", "B. Effusion", (), False),
        ("A", "B", (), False),
        ("B", "Pneumothorax", OPTIONS, True),
        ("Pneumothorax.", "B", OPTIONS, True),
        ("The answer is B) pneumothorax", "B: Pneumothorax", OPTIONS, True),
        ("**B**", "Pneumothorax", OPTIONS, True),
        ("B. Effusion", "Pneumothorax", OPTIONS, False),
        ("B. Effusion", "Effusion", OPTIONS, False),
        ("A", "Pneumothorax", OPTIONS, False),
        ("G", "G", OPTIONS, False),
        ("E. coli", "D", OPTIONS, True),
        ("A lung mass", "C", OPTIONS, True),
        ("the lung mass", "Lung Mass", (), True),
        ("Yes", "yes.", (), True),
        ("Yes, there is one.", "yes", (), True),
        ("Yes, or no.", "yes", (), False),
        ("No", "yes", (), False),
        ("no effusion", "effusion", (), False),
        ("left lung", "right lung", (), False),
        ("left lung and liver", "left lung", (), False),
        ("3.5 cm", "3.5cm", (), True),
        ("3.5 cm", "35 cm", (), False),
        ("-5", "5", (), False),
        ("\u22125", "-5", (), True),
        ("5%", "5", (), False),
        ("<5", "5", (), False),
        ("5", "5.", (), True),
        ("M\u00e9ni\u00e8re disease", "meniere disease", (), True),
        ("", "", (), False),
        ("...", "!", (), False),
    ],
)
def test_same_answers(answer, truth, options, same):
    assert same_answer(answer, truth, options) is same
    assert same_answer(truth, answer, options) is same


@given(st.text(), st.text(), st.lists(st.text(), max_size=4))
def test_any_text_can_be_compared(answer, truth, options):
    assert same_answer(answer, truth, options) == same_answer(truth, answer, options)


@pytest.mark.parametrize(
    ("question", "more", "options"),
    [
        ("What?\nA. Effusion\nB. Lung mass\nC. None", {}, ("Effusion", "Lung mass", "None")),
        ("What? (A) Effusion (B) Lung mass", {}, ("Effusion", "Lung mass")),
        ("What? A) Effusion, B) Lung mass", {}, ("Effusion", "Lung mass")),
        ("What? A: one; B: two", {}, ("one", "two")),
        ("Is E. coli seen?", {}, ()),
        ("Which? B. one C. two", {}, ()),
        ("Which?", {"options": ["A. one", "two"]}, ("one", "two")),
        ("Which?", {"options": {"B": "two", "A": "one"}}, ("one", "two")),
        ("Which?", {}, ()),
    ],
)
def test_options(question, more, options):
    assert options_of(Pair("0", "s", "understanding", question=question, more=more)) == options


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"<think>{THOUGHTS}</think> effusion", ""),
        ("effusion", "no <think>"),
        (f"<think>{THOUGHTS} effusion", "exactly one"),
        (f"{THOUGHTS}</think> effusion", "exactly one"),
        (f"</think>{THOUGHTS}<think> effusion", "exactly one"),
        (f"<think>{THOUGHTS}</think><think>{THOUGHTS}</think> effusion", "exactly one"),
        ("<think> \n</think> effusion", "nothing stands between"),
        (f"<think>{THOUGHTS}</think> ", "nothing stands after"),
        (f"Sure. <think>{THOUGHTS}</think> effusion", "begins with 'Sure.'"),
        ("<think>short</think> effusion", "the reasoning has 5 characters"),
        (f"<think>{THOUGHTS}</think> {'effusion ' * 50}", "the answer after"),
        (f"<think>{THOUGHTS} This fits the reference answer.</think> effusion", "an answer that was given"),
        ("I'm sorry, I cannot interpret medical images.", "declines"),
    ],
)
def test_forms(text, told):
    fault = reasoning_fault(text)
    assert told in fault
    assert bool(fault) == bool(told)


@pytest.fixture
def pair(tmp_path):
    Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "x.png")
    question = "What is in the left lung? A. Effusion B. Mass"
    return Pair("0", "s", "understanding", text="Effusion", question=question, images=(str(tmp_path / "x.png"),))


def test_the_right_answer_keeps_its_reasoning_and_the_truth_its_words(pair):
    asked = []

    def ask(messages):
        asked.append(messages)
        return Reply(f"<think>\n{THOUGHTS}\n</think>\n\nA. effusion", model="m-1")

    made, decision = think(pair, ask)
    assert decision == Decision("0", "reason", "keep", "reasoned", "by m-1")
    assert made.text == f"<think>{THOUGHTS}</think> Effusion"
    assert made.more == {"reasoning": {"model": "m-1", "answer": "A. effusion"}}
    (image, text) = asked[0][0]["content"]
    assert image["type"] == "image_url"
    assert '"What is in the left lung? A. Effusion B. Mass"' in text["text"]
    assert answered(pair)
    assert not answered(made)


def test_a_wrong_answer_is_not_asked_again(pair):
    asked = []

    def ask(messages):
        asked.append(messages)
        return Reply(f"<think>{THOUGHTS}</think> B", model="m-1")

    assert think(pair, ask) == (pair, Decision("0", "reason", "flag", "another answer", "'B'"))
    assert len(asked) == 1


def test_the_comparison_can_be_replaced(pair):
    made, decision = think(pair, lambda messages: Reply(f"<think>{THOUGHTS}</think> fluid"), same=lambda *_: True)
    assert (made.text, decision.action) == (f"<think>{THOUGHTS}</think> Effusion", "keep")


def test_an_image_that_cannot_be_read_is_flagged_without_asking(pair, tmp_path):
    def never(messages):
        raise AssertionError

    bad = replace(pair, images=(str(tmp_path / "none.png"),))
    same, decision = think(bad, never)
    assert same is bad
    assert (decision.action, decision.reason) == ("flag", "unreadable image")


def test_a_lasting_fault_is_flagged(pair):
    same, decision = think(pair, lambda messages: Reply("Effusion"), rounds=2)
    assert same is pair
    assert (decision.reason, decision.detail) == ("reasoning faulty", "it has no <think> (after 2 replies)")


def test_no_reply_is_no_decision(pair):
    def gone(messages):
        raise UnreachedError("gone", remedy="wait")

    with pytest.raises(UnreachedError):
        think(pair, gone)


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({}, True),
        ({"split": "train"}, True),
        ({"split": "test"}, False),
        ({"split": "validation"}, False),
        ({"family": "t2i"}, False),
        ({"question": " "}, False),
        ({"text": " "}, False),
        ({"text": "A report of several sentences. " * 20}, False),  # no reply could be compared with it
        ({"more": {"turns": [["human", "a"], ["gpt", "b"], ["human", "c"]]}}, False),
    ],
)
def test_which_pairs_get_reasoning(pair, change, is_one):
    assert answered(replace(pair, **change)) is is_one
