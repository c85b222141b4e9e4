"""What classifiers see in drawn pictures, by hand."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.records import ImageRef
from unimedvl.errors import DataError
from unimedvl.eval.classes import ImageJudge
from unimedvl.eval.classifier import Classifier
from unimedvl.eval.families import generation
from unimedvl.eval.families.context import Context
from unimedvl.eval.predict import Ask, Prediction
from unimedvl.eval.rows import Row
from unimedvl.eval.settings import EvalSettings


class ByBrightness(Classifier):
    """Bright images are CT."""

    def name(self, images):
        return ["CT" if np.asarray(image).mean() > 100 else "MRI" for image in images]


def shares(images):
    return np.array([[np.asarray(image).mean() / 255, 1 - np.asarray(image).mean() / 255] for image in images])


def judge():
    return ImageJudge(("bright", "dark"), shares)


def narrow_judge():
    return ImageJudge(("bright", "dark"), lambda images: shares(images)[:, :1])


@pytest.fixture
def drawn(tmp_path):
    """Makes the predictions of rows (modality, level of the target, level of the drawing or None for none)."""

    def make(*rows):
        return [made(number, *row) for number, row in enumerate(rows)]

    def made(number, modality, wanted, level):
        data = io.BytesIO()
        gray(wanted).save(data, "PNG")
        row = Row(str(number), "t2i", modality=modality, wanted=ImageRef(data=data.getvalue()))
        path = tmp_path / f"{number}.png"
        if level is None:
            return Prediction(Ask(row), "", None, "failed", 0.1)
        gray(level).save(path)
        return Prediction(Ask(row), "", path, None, 0.1)

    return make


def gray(level):
    return Image.new("RGB", (8, 8), (level,) * 3)


def test_modalities_that_a_classifier_recognizes(drawn, tmp_path, monkeypatch):
    """Three of four; neither a modality that it does not know nor a row without a picture counts."""
    monkeypatch.setattr("unimedvl.eval.features.read_classifier", lambda _: ByBrightness(("CT", "MRI")))
    rows = drawn(("CT", 9, 250), ("CT", 9, 240), ("MRI", 9, 5), ("MRI", 9, 230), ("US", 9, 0), ("CT", 9, None))
    found = generation.score(rows, Context(EvalSettings(classifier=tmp_path / "c"), tmp_path))
    (overall,) = [each for each in found.scores if each.metric == "recognized" and each.group == "all"]
    assert (overall.value, overall.count) == (0.75, 4)
    assert [item.more.get("recognized_as") for item in found.items] == ["CT", "CT", "MRI", "CT", None]
    assert "the classifier does not know US" in found.notes
    assert "1 rows without a picture are left out" in found.notes


def findings(rows, tmp_path, function):
    return list(generation.findings(rows, Context(EvalSettings(findings=f"my_judges:{function}"), tmp_path)))


def test_findings_of_drawings_against_those_of_their_targets(drawn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_judges", sys.modules[__name__])
    right = findings(drawn(("", 250, 220), ("", 200, 140), ("", 20, 60), ("", 9, None)), tmp_path, "judge")
    assert {(each.metric, each.group): each.value for each in right} == {
        (metric, group): 1.0 for metric in ("auroc", "f1") for group in ("all", "class=bright", "class=dark")
    }
    assert {each.count for each in right} == {3}
    # Of two bright targets one is drawn darker than the dark one: one of two pairs, one of two found, none in vain.
    half = findings(drawn(("", 250, 220), ("", 200, 40), ("", 20, 60)), tmp_path, "judge")
    by_name = {(each.metric, each.group): each.value for each in half}
    assert by_name["auroc", "class=bright"] == 0.5
    assert by_name["f1", "class=bright"] == pytest.approx(2 / 3)


def test_nothing_drawn_has_no_findings(drawn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_judges", sys.modules[__name__])
    assert findings(drawn(("", 9, None)), tmp_path, "judge") == []


def test_a_judge_that_gives_too_few_columns(drawn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_judges", sys.modules[__name__])
    with pytest.raises(DataError, match="2 classes"):
        findings(drawn(("", 250, 220)), tmp_path, "narrow_judge")
