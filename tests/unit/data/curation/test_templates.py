from __future__ import annotations

import difflib
import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.data.curation.templates import SLOTS, TASKS, library, missing, slots_in, task_of, values_of, worded
from unimedvl.errors import ConfigError, DataError

FULL = {"target_modality": "HER2", "anatomy": "lung", "side": "left", "finding": "effusion", "scale": 4}


def pair(task, number=0, modality="CT", **more):
    family = "counterfactual" if task == "counterfactual" else "edit"
    return Pair(pair_id("x", str(number)), "x", family, task, modality, images=("a.png",), target="b.png", more=more)


@pytest.mark.parametrize("task", TASKS)
def test_there_are_enough_of_each(task):
    for kind, least in (("instructions", 20), ("responses", 10)):
        texts = [template.text for template in library()[task, kind]]
        assert len(set(texts)) == len(texts) >= least
        assert all(slots_in(text) <= set(SLOTS) for text in texts)


@pytest.mark.parametrize("kind", ["instructions", "responses"])
def test_no_two_are_nearly_the_same(kind):
    """The two directions of a counterfactual may differ only in what they do with a finding."""
    for task in TASKS:
        for one, two in combinations(library()[task, kind], 2):
            if one.change == two.change:
                ratio = difflib.SequenceMatcher(None, one.text.lower(), two.text.lower(), autojunk=False).ratio()
                assert ratio < 0.8, (one.text, two.text)
                first, second = (set(re.findall(r"\w+", each.text.lower())) for each in (one, two))
                assert len(first & second) / len(first | second) < 0.7, (one.text, two.text)


def test_no_article_stands_before_a_slot_that_could_begin_with_a_vowel():
    texts = [template.text for templates in library().values() for template in templates]
    assert not [text for text in texts if re.search(r"\ban? \{", text, re.IGNORECASE)]


@given(
    task=st.sampled_from(TASKS),
    given_slots=st.sets(st.sampled_from(sorted(FULL))),
    modality=st.sampled_from(["", "CT", "CFP", "MRI"]),
    change=st.sampled_from(["add", "remove"]),
    seed=st.integers(0, 9),
    number=st.integers(0, 200),
)
def test_any_pair_is_worded_without_open_slots_and_keeps_its_target(task, given_slots, modality, change, seed, number):
    facts = {name: FULL[name] for name in given_slots}
    one = pair(task, number, modality, change=change, **facts)
    done = worded(one, seed)
    assert done == worded(one, seed)
    assert not re.search(r"[{}]", done.question + done.text)
    if task == "counterfactual" and "finding" in facts:
        assert "effusion" in done.question
    if task == "segmentation" and given_slots & {"finding", "anatomy"}:
        assert ("effusion" if "finding" in facts else "lung") in done.question
    if task in ("virtual staining", "cross-modal synthesis") and "target_modality" in facts:
        assert "HER2" in done.question


def test_all_suitable_ones_are_drawn_by_seed_and_id():
    drawn = {worded(pair("super-resolution", number, **FULL), 0).question for number in range(600)}
    assert len(drawn) == len(library()["super-resolution", "instructions"])
    assert {worded(pair("super-resolution", 1, **FULL), seed).question for seed in range(600)} == drawn


def test_a_finding_is_added_or_removed_as_the_pair_says():
    for change, word in (("add", "without"), ("remove", "introduce")):
        texts = [worded(pair("counterfactual", number, change=change, **FULL), 0).question for number in range(100)]
        assert not [text for text in texts if re.search(rf"\b{word}\b", text.lower())]
    with pytest.raises(DataError, match='give more\\["change"\\]'):
        worded(pair("counterfactual", **FULL), 0)


def test_texts_of_the_source_stay():
    one = Pair("0" * 16, "x", "edit", "segmentation", "CT", text="Its own.", question="Ask.")
    assert (worded(one, 0).question, worded(one, 0).text) == ("Ask.", "Its own.")


@pytest.mark.parametrize(
    ("subtask", "family", "task"),
    [
        ("super_resolution", "edit", "super-resolution"),
        ("Virtual Staining", "edit", "virtual staining"),
        ("cross-modal", "edit", "cross-modal synthesis"),
        ("", "counterfactual", "counterfactual"),
        ("", "edit", None),
        ("segmentation", "t2i", None),
    ],
)
def test_tasks_by_name(subtask, family, task):
    assert task_of(Pair("0" * 16, "x", family, subtask)) == task


def test_a_pair_without_a_task():
    with pytest.raises(DataError, match="no templates for edit 'painting'.*set its subtask"):
        worded(Pair("0" * 16, "x", "edit", "painting"), 0)


def test_values():
    assert values_of(pair("segmentation", modality="CFP", side="Left", scale=4.0, anatomy=" eye ")) == {
        "modality": "fundus", "side": "left", "scale": "4", "anatomy": "eye",
    }  # fmt: skip
    assert values_of(pair("segmentation", modality="", side="bilateral", finding="")) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The left lung on CT.", []),
        ("The lung on CT.", ["side"]),
        ("The right lung on CT.", ["side"]),
        ("The left lung, not the right, on CT.", ["side"]),
        ("The left lungs of an octopus.", ["modality", "anatomy"]),
    ],
)
def test_words_that_are_lost(text, expected):
    assert missing(text, {"modality": "CT", "anatomy": "lung", "side": "left"}) == expected


OWN = """
counterfactual:
  - change: add
    instructions: ["Show an opacity in the {place} part."]
    responses: ["It lies in the {place} part now."]
  - change: remove
    instructions: [Show it without the opacity.]
    responses: ["The {place} part is clear."]
denoising:
  - instructions: [Take the noise away.]
    responses: ["Less noise of level {noise}."]
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    return path


def test_wordings_of_ones_own_with_own_slots_and_tasks(own):
    added = worded(pair("counterfactual", change="add", place="upper left", side="right"), 0, own)
    assert (added.question, added.text) == (
        "Show an opacity in the upper left part.",
        "It lies in the upper left part now.",
    )
    noisy = pair("denoising", noise=0.5)
    assert task_of(noisy) is None
    assert (worded(noisy, 0, own).question, worded(noisy, 0, own).text) == (
        "Take the noise away.",
        "Less noise of level 0.5.",
    )


def test_tasks_that_a_file_does_not_name_keep_the_wordings_of_the_library(own):
    one = pair("segmentation", **FULL)
    assert worded(one, 3, own) == worded(one, 3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a list", "no wordings"),
        ("denoising: [{instructions: [x]}]", "denoising has no responses"),
        ("denoising: [{instructions: [x], responses: [y], answer: z}]", "answer in a group"),
        ("denoising: [{instructions: ['{open'], responses: [y]}]", "no wordings"),
        ("a: [}", "no wordings"),
        ("denoising: 3", "no wordings"),
    ],
)
def test_files_of_another_form(tmp_path, text, problem):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        library(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_of_wordings(tmp_path):
    with pytest.raises(ConfigError, match="no such file of wordings"):
        library(tmp_path / "absent.yaml")
