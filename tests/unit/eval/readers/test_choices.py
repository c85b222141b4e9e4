from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.errors import DataError
from unimedvl.eval.readers.choices import by_letter, by_text, chosen, lettered, options_of, yes_or_no
from unimedvl.eval.readers.tables import Entry
from unimedvl.eval.rows import LETTERS

HERE = Entry({}, "here, row 7", 6)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).map(str.strip).filter(bool)
OPTIONS = st.lists(TEXTS, min_size=2, max_size=len(LETTERS))


@given(OPTIONS, st.integers(0, 5), st.data())
def test_options_keep_their_letters(texts, absent, data):
    options = options_of([*texts, *[""] * absent], HERE)
    assert options == tuple(texts)
    at = data.draw(st.integers(0, len(texts) - 1))
    assert chosen(LETTERS[at], options, HERE, (by_letter, by_text)) == texts[at]
    assert chosen(texts[at], options, HERE, (by_text, by_letter)) == texts[at]
    assert lettered(dict(zip(LETTERS, texts, strict=False)), HERE) == options


@given(OPTIONS, st.data())
def test_an_option_that_is_lost_is_seen(texts, data):
    at = data.draw(st.integers(0, len(texts) - 2))
    with pytest.raises(DataError, match=f"option {LETTERS[at]} is empty, but option {LETTERS[len(texts) - 1]} is not"):
        options_of([*texts[:at], "", *texts[at + 1 :]], HERE)


@given(OPTIONS, st.text())
def test_a_chosen_answer_is_an_option_and_others_are_told(texts, answer):
    named = by_letter(answer, texts) or by_text(answer, texts)
    if named is None:
        with pytest.raises(DataError, match="here, row 7"):
            chosen(answer, texts, HERE, (by_letter, by_text))
        assert answer not in texts
    else:
        assert chosen(answer, texts, HERE, (by_letter, by_text)) == named
        assert named in texts


@pytest.mark.parametrize(
    ("answer", "found"),
    [("CT", "CT"), ("ct.", "CT"), (" X  ray ", "X Ray."), ("mri", None), ("A", None), ("MRI", "MRI"), ("Mri", None)],
)
def test_by_text(answer, found):
    """Two options that differ by their case alone are named by their exact text only."""
    assert by_text(answer, ("CT", "X Ray.", "MRI", "mRI")) == found


def test_letters_and_texts_in_both_orders():
    options = ("B", "A")
    assert chosen("A", options, HERE, (by_letter, by_text)) == "B"
    assert chosen("A", options, HERE, (by_text, by_letter)) == "A"


@pytest.mark.parametrize(
    ("answer", "ways", "message"),
    [
        ("D", (by_letter, by_text), r"the answer is D, but the options end at B \(here, row 7\)"),
        ("AB", (by_letter, by_text), "the answer 'AB' is none of the options 'CT', 'MRI'"),
        ("a", (by_letter, by_text), "the answer 'a' is none"),
        ("A", (by_text,), "the answer 'A' is none"),
        ("", (by_letter, by_text), "the answer '' is none"),
    ],
)
def test_answers_that_are_no_option(answer, ways, message):
    with pytest.raises(DataError, match=message):
        chosen(answer, ("CT", "MRI"), HERE, ways)


def test_options_that_cannot_be():
    assert options_of(["", ""], HERE) == ()
    for call, message in (
        (lambda: options_of(["CT", ""], HERE), "only one option, 'CT'"),
        (lambda: options_of(["x"] * 27, HERE), "27 options, but 26 letters"),
        (lambda: lettered({"A": "x", "AB": "y"}, HERE), "an option is called 'AB'"),
        (lambda: lettered({"1": "x"}, HERE), "an option is called '1'"),
        (lambda: lettered({"A": "x", "C": "y"}, HERE), "option B is empty"),
    ):
        with pytest.raises(DataError, match=message):
            call()


@pytest.mark.parametrize(
    ("answer", "closed"), [("yes", True), (" No.", True), ("YES", True), ("no tumor", False), ("", False), ("y", False)]
)
def test_yes_or_no(answer, closed):
    assert yes_or_no(answer) is closed
