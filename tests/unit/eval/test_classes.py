"""AUROC and F1 by hand, by their definitions, and where they do not exist."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.classes import ImageJudge, class_scores, image_judge
from unimedvl.eval.classifier import Classifier, save_classifier


def column(*values):
    return np.array(values)[:, None]


def test_by_hand():
    """Positives 0.9, 0.4 against negatives 0.6, 0.1: three of four pairs are in order. At 0.5: one hit, one false."""
    scored = class_scores(["edema"], column(True, True, False, False), column(0.9, 0.4, 0.6, 0.1))
    edema = scored.classes["edema"]
    assert (edema.auroc, edema.f1) == (0.75, 0.5)
    assert (edema.positives, edema.count, edema.note) == (2, 4, "")
    assert (scored.auroc, scored.f1, scored.threshold) == (0.75, 0.5, 0.5)


def test_ties_count_half_and_the_threshold_is_reached():
    scored = class_scores(["x"], column(True, False), column(0.5, 0.5))
    assert scored.classes["x"].auroc == 0.5
    assert scored.classes["x"].f1 == pytest.approx(2 / 3)  # both count as shown
    assert class_scores(["x"], column(True, False), column(0.5, 0.5), threshold=0.6).f1 == 0


def test_against_the_definitions():
    generator = np.random.default_rng(0)
    wanted, probabilities = generator.random((60, 3)) < 0.3, generator.random((60, 3)).round(1)
    scored = class_scores("abc", wanted, probabilities)
    for number, name in enumerate("abc"):
        true, made = wanted[:, number], probabilities[:, number]
        pairs = [(p > q) + (p == q) / 2 for p in made[true] for q in made[~true]]
        assert scored.classes[name].auroc == pytest.approx(np.mean(pairs))
        shown = made >= 0.5
        assert scored.classes[name].f1 == pytest.approx(2 * (shown & true).sum() / (shown.sum() + true.sum()))
    assert scored.auroc == pytest.approx(np.mean([each.auroc or 0.0 for each in scored.classes.values()]))


def test_one_class_gives_a_word_instead_of_a_number():
    wanted = np.array([[True, False, True], [True, False, False]])
    scored = class_scores("abc", wanted, np.array([[0.9, 0.9, 0.8], [0.2, 0.1, 0.3]]))
    everywhere, nowhere, normal = scored.classes.values()
    assert (everywhere.auroc, everywhere.f1) == (None, pytest.approx(2 / 3))
    assert everywhere.note == "all 2 images should show it: no AUROC"
    assert (nowhere.auroc, nowhere.f1) == (None, None)
    assert nowhere.note == "none of 2 images should show it: no AUROC, no F1"
    assert (scored.auroc, scored.f1) == (normal.auroc, pytest.approx((2 / 3 + 1) / 2))
    assert class_scores("a", column(False), column(0.5)).auroc is None


BRIGHTNESS = ImageJudge(("bright",), lambda images: np.array([[np.asarray(image).mean() / 255] for image in images]))
GRAYS = [Image.new("RGB", (8, 8), (level,) * 3) for level in (250, 200, 20)]


def bright_judge():
    return BRIGHTNESS


def no_judge():
    return 3


def test_a_judge_is_plugged_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_judges", sys.modules[__name__])
    assert image_judge("my_judges:bright_judge") is BRIGHTNESS
    with pytest.raises(ConfigError, match="my_judges:no_judge gave a int"):
        image_judge("my_judges:no_judge")
    with pytest.raises(ConfigError, match="judge"):
        image_judge("my_judges:absent")


def test_the_modality_classifier_is_a_judge(tmp_path):
    model = Classifier(("CT", "MRI", "US")).eval()
    save_classifier(model, tmp_path / "c.safetensors")
    made = image_judge(f"classifier:{tmp_path}/c.safetensors")
    rows = made.probabilities(GRAYS * 40)  # more than a batch
    assert rows.shape == (120, 3)
    # float32 softmax.
    assert rows.sum(axis=1) == pytest.approx(np.ones(120), abs=1e-5)
    assert [made.names[number] for number in rows.argmax(axis=1)] == model.name(GRAYS * 40)
    with pytest.raises(ConfigError, match="no classifier"):
        image_judge(f"classifier:{tmp_path}/absent")


@pytest.mark.parametrize("bad", [[[1.5, 0]] * 3, [[np.nan, 0]] * 3, [[0.5]] * 3, [[0.5, 0.5]] * 2, []])
def test_probabilities_that_cannot_be(bad):
    wanted = np.array([[True, False], [False, True], [False, False]])
    with pytest.raises(DataError, match="probabilities"):
        class_scores("ab", wanted, np.array(bad))


@pytest.mark.parametrize("wanted", [np.ones((0, 2), bool), np.ones((2, 2), bool), np.ones(2, bool)])
def test_classes_that_do_not_match(wanted):
    with pytest.raises(DataError, match="for wanted .* 3 classes"):
        class_scores("abc", wanted, np.full(wanted.shape, 0.5))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ConfigError, match=r"scikit-learn.*unimedvl\[eval\]"):
        class_scores("a", column(True, False), column(0.5, 0.2))
