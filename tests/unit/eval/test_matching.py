"""Answers as models give them, one case each, and what must hold for any answer."""

from __future__ import annotations

import csv
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.errors import DataError
from unimedvl.eval.answer_words import spoken
from unimedvl.eval.answers import normalized
from unimedvl.eval.choices import choose
from unimedvl.eval.exact import exact, token_f1, token_recall, yes_no
from unimedvl.eval.matching import verdict
from unimedvl.eval.rows import LETTERS, Row

# Answers with "\n" for a line break and "\\" for a backslash, the options between "|", and the letter, "-" for none.
with open(Path(__file__).with_name("answers.tsv"), encoding="utf-8", newline="") as file:
    TABLE = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
ORGANS = ("Liver", "Spleen", "Kidney", "Lung")


def said(row):
    return "\\".join(part.replace("\\n", "\n") for part in row["answer"].split("\\\\"))


def named(answer, options):
    found = choose(answer, options)
    return "-" if found is None else LETTERS[found]


def test_the_table_is_whole():
    assert len({row["id"] for row in TABLE}) == len(TABLE) >= 90
    assert all(set(row) == {"id", "options", "answer", "expected"} and None not in row.values() for row in TABLE)


@pytest.mark.parametrize("row", TABLE, ids=[row["id"] for row in TABLE])
def test_choose(row):
    assert named(said(row), row["options"].split("|")) == row["expected"]


@pytest.mark.parametrize("change", [str.upper, str.lower, "\n\t {} \n\n".format], ids=["upper", "lower", "spaced"])
@pytest.mark.parametrize("row", TABLE, ids=[row["id"] for row in TABLE])
def test_space_and_case_change_nothing(row, change):
    assert named(change(said(row)), row["options"].split("|")) == row["expected"]


# Words of letters that are neither option letters nor words of the phrases below.
words = st.text("bcdfghjkmpqrvwxz", min_size=3, max_size=8)
texts = st.lists(words, min_size=1, max_size=3).map(" ".join)
several = st.lists(texts, min_size=2, max_size=8, unique_by=lambda text: tuple(sorted(text.split())))


PHRASES = ["The answer is ({}).", "{}", "({})", "Answer: {}", "Option {} is correct."]


@given(st.data(), several, st.sampled_from(PHRASES))
def test_a_declared_letter_is_found(data, options, phrase):
    at = data.draw(st.integers(0, len(options) - 1))
    assert choose(phrase.format(LETTERS[at]), options) == at


@given(st.data(), several, st.sampled_from(["The answer is {}.", "{}", "It is the {}, I think.", "{} IS SEEN"]))
def test_shuffled_options_keep_the_text(data, options, phrase):
    wanted = data.draw(st.sampled_from(options))
    shuffled = data.draw(st.permutations(options))
    answer = phrase.format(wanted)
    assert choose(answer, options) == options.index(wanted)
    assert choose(answer, shuffled) == shuffled.index(wanted)


@given(st.data(), several)
def test_two_texts_are_not_decided(data, options):
    one, two = data.draw(st.permutations(options))[:2]
    assert choose(f"Here are {one} and also, perhaps, {two}", options) is None


@given(st.data(), several)
def test_letters_and_texts_that_disagree_are_not_decided(data, options):
    one, two = data.draw(st.permutations(range(len(options))))[:2]
    assert choose(f"The answer is {LETTERS[one]}: {options[two]}", options) is None


@given(st.text(max_size=200), st.lists(st.text(max_size=20), max_size=30))
def test_any_text_can_be_read(answer, options):
    found = choose(answer, options)
    assert found is None or 0 <= found < len(options)
    assert yes_no(answer) in (True, False, None)
    assert 0 <= token_recall(answer, " ".join(options)) <= 1


# What runaway generation looks like. Work that grows linearly takes 0.3 s here; what grew quadratically took 5 to 50.
RUNAWAY = [
    "no, ",
    "A or ",
    "liver ",
    "B: ",
    "the answer is B ",
    "the answer is ",
    "I cannot ",
    "would be ",
    "wait, ",
    "so ",
]


@pytest.mark.parametrize("piece", [*RUNAWAY, "\n", "1-1", "("])
def test_endless_repetition_is_quick(piece):
    start = time.perf_counter()
    choose(piece * 4000 + "B", ORGANS)
    yes_no(piece * 4000 + "no")
    assert time.perf_counter() - start < 3


YES_NO = {
    "Yes": True,
    "no.": False,
    "**Yes**": True,
    "YES!!": True,
    "yes<|im_end|>": True,
    "Yes, there is a mass": True,
    "No, I cannot see any fracture.": False,
    "No evidence of fracture": False,
    "There is no fracture": None,
    "There is no.": None,
    "The answer is yes.": True,
    "Answer: No": False,
    "The answer to this question is: no": False,
    "I would say yes": True,
    "It is normal, yes.": True,
    "Is there a mass? Yes.": True,
    "A. Yes": True,
    "Yes, there is no effusion, so no pneumonia.": True,
    "There is no effusion. The answer is no.": False,
    "No mass is seen. Therefore, the answer is yes.": True,
    "<think>yes</think> no": False,
    "No doubt, yes.": True,
    "Yes and no": None,
    "Yes or no": None,
    "Yes/No": None,
    "yes, no": None,
    "No, wait, yes": None,
    "Not yes": None,
    "The answer is not yes": None,
    "No idea": None,
    "No answer": None,
    "None": None,
    "Norway": None,
    "Yesterday": None,
    "Maybe": None,
    "The lesion is not visible": None,
    "": None,
}


@pytest.mark.parametrize("answer", YES_NO)
def test_yes_no(answer):
    for changed in (answer, answer.upper(), f" \n{answer}\n"):
        assert yes_no(changed) is YES_NO[answer]


SAME = [
    ("CT", "computed tomography"),
    ("Computed tomography.", "CT scan"),
    ("The answer is MRI.", "Magnetic Resonance Imaging"),
    ("MR", "MRI"),
    ("X-ray", "radiograph"),
    ("xray", "X-rays"),
    ("chest x-ray", "CXR"),
    ("Two kidneys", "2 kidney"),
    ("one", "1"),
    ("the left kidney", "Left  kidney."),
    ("5mm", "5 mm"),
    ("biopsies", "biopsy"),
    ("masses", "mass"),
    ("tumours", "tumor"),
    ("T2-weighted", "t2 weighted"),
    ("Sjögren", "sjogren"),
    ("answer", "Answer"),
    ("<think>CT or MRI?</think>MRI<|im_end|>", "mri"),
]
OTHER = [
    ("It is a CT", "CT"),
    ("kidney", "left kidney"),
    ("left kidney", "kidney"),
    ("hepatitis", "hepatitis A"),
    ("ER", "ER+"),
    ("1.5", "15"),
    ("-5", "5"),
    ("pelvis", "pelvi"),
    ("us", "ultrasound"),
    ("", ""),
    ("...", ""),
]


@pytest.mark.parametrize(("answer", "truth"), SAME)
def test_exact(answer, truth):
    assert exact(answer, ["something else", truth])
    assert exact(truth, [answer])


@pytest.mark.parametrize(("answer", "truth"), OTHER)
def test_not_exact(answer, truth):
    assert not exact(answer, [truth])


@given(st.text(string.ascii_letters + string.digits + " ", max_size=40))
def test_a_text_is_exactly_itself(text):
    assert exact(text, [f" {text.swapcase()}!"]) or not normalized(text)


@pytest.mark.parametrize(
    ("answer", "truth", "recall", "f1"),
    [
        ("The left lung and the heart.", "left lung", 1.0, 2 * 2 / (4 + 2)),  # left lung and heart: 2 of 4, 2 of 2
        ("left", "left lung", 0.5, 2 / 3),
        ("heart", "left lung", 0.0, 0.0),
        ("two", "2 lesions", 0.5, 2 / 3),
        ("lung lung", "lung", 1.0, 2 / 3),
        ("lung", "lung, lung and heart", 1 / 3, 2 / 5),  # the truth's different words: lung, and, heart
        ("", "lung", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("lung", "", 0.0, 0.0),
        ("<think>heart</think>lung", "lung heart", 0.5, 2 / 3),
    ],
)
def test_shares_of_words(answer, truth, recall, f1):
    assert token_recall(answer, truth) == pytest.approx(recall)
    assert token_f1(answer, truth) == pytest.approx(f1)


def test_spoken_keeps_the_case():
    assert spoken("<think>Hm</think>\nThe Liver</s>") == "The Liver"
    assert spoken("<THINK>a</THINK>B") == "B"
    assert spoken("<think>never ended") == ""


@pytest.mark.parametrize(
    ("row", "answer", "expected"),
    [
        (Row("r", "vqa", options=ORGANS, truths=("Spleen",)), "The answer is B.", "right"),
        (Row("r", "vqa", options=ORGANS, truths=(" spleen",)), "spleen", "right"),
        (Row("r", "vqa", options=ORGANS, truths=("Spleen",)), "A. Liver", "wrong"),
        (Row("r", "vqa", options=ORGANS, truths=("Spleen",)), "A or B", "unmatched"),
        (Row("r", "vqa", options=("Yes", "No"), truths=("No",)), "There is no fracture, so the answer is B.", "right"),
        (Row("r", "vqa", truths=("yes",)), "Yes, there is.", "right"),
        (Row("r", "vqa", truths=("Yes.",)), "No.", "wrong"),
        (Row("r", "vqa", truths=("no",), closed=True), "There is no fracture.", "unmatched"),
        (Row("r", "vqa", truths=("no",)), "", "unmatched"),
        (Row("r", "vqa", truths=("left lung", "lung")), "The lung.", "right"),
        (Row("r", "vqa", truths=("yes", "present")), "present", "right"),
        (Row("r", "vqa", truths=("left lung",)), "heart", "wrong"),
        (Row("r", "vqa", truths=("left lung",)), " ... ", "unmatched"),
        (Row("r", "vqa", truths=("left lung",)), "<think>It is the left lung", "unmatched"),
        (Row("r", "vqa", truths=("left lung",)), "I cannot determine this from the image.", "unmatched"),
        (Row("r", "vqa", truths=("left lung",)), "I'm sorry, no image was provided.", "unmatched"),
        (Row("r", "vqa", truths=("cannot be determined",)), "Cannot be determined.", "right"),
    ],
)
def test_verdict(row, answer, expected):
    assert verdict(row, answer) == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Row("slake-7", "vqa"), "no truth"),
        (Row("slake-7", "vqa", options=("Liver", "Lung"), truths=("Heart",)), "'Heart' is no option"),
    ],
)
def test_a_row_that_cannot_be_scored_is_told(row, said):
    with pytest.raises(DataError, match=f"{said}.*slake-7"):
        verdict(row, "Liver")
