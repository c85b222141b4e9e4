from __future__ import annotations

import base64
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.curation.audit.dimensions import BY_KEY
from unimedvl.data.curation.audit.page import FORMAT, Sheet, embedded, read_sheet, sheet_of, write_page
from unimedvl.data.curation.audit.ratings import Ratings, read_ratings
from unimedvl.data.curation.audit.summary import failing, summarize
from unimedvl.data.curation.audit.table import text_table
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError

SHEET = Sheet("a" * 16, {"p0": "CT", "p1": "CT", "p2": "MRI", "p3": "MRI"})
KEYS = list(BY_KEY)


def scores(*values):
    return dict(zip(KEYS, values, strict=False))


def write(path, given, rater="Dr A", /, **changes):
    rows = {pair: {"scores": own, "comment": ""} for pair, own in given.items()}
    content = {"format": FORMAT, "audit": SHEET.audit, "rater": rater, "ratings": rows} | changes
    path.write_text(json.dumps(content))
    return path


def test_files_of_two_raters(tmp_path):
    one = write(tmp_path / "1.json", {"p0": scores(1, 4, 3, 5, 4, 4, None), "p1": scores(0, 2)})
    two = write(tmp_path / "2.json", {}, "B", ratings={"p2": {"scores": {}, "comment": " blurred "}})
    first, second = read_ratings(SHEET, [one, two])
    assert first.scores == {"p0": scores(1, 4, 3, 5, 4, 4, None), "p1": scores(0, 2)}
    assert (first.complete, second.complete, second.scores, second.comments) == (1, 0, {}, {"p2": "blurred"})
    # Modality match 1 counts 5; reasoning does not apply.
    assert first.mean("p0") == pytest.approx((5 + 4 + 3 + 5 + 4 + 4) / 6)
    assert first.mean("p1") == pytest.approx(1)
    assert first.mean("p3") is None


@pytest.mark.parametrize(
    ("ratings", "changes", "problem"),
    [
        ({"px": scores(1)}, {}, "the sample has no such id .*px"),
        ({"p0": {"modality": 2}}, {}, "modality 2 .*p0.*from 0 to 1"),
        ({"p0": {"accuracy": -1}}, {}, "accuracy -1 "),
        ({"p0": {"accuracy": 2.5}}, {}, "accuracy 2.5 .*whole number from 0 to 5"),
        ({"p0": {"accuracy": True}}, {}, "accuracy True "),
        ({"p0": {"accuracy": "4"}}, {}, "accuracy '4' "),
        ({"p0": {"beauty": 3}}, {}, "no dimension is called 'beauty'"),
        ({}, {"audit": "b" * 16}, f"ratings of the audit {'b' * 16}, not {'a' * 16}"),
        ({}, {"format": "other"}, "no ratings of an audit"),
        ({}, {"rater": "  "}, "without the rater's name"),
        ({}, {"ratings": []}, "without the rater's name, or none at all"),
        ({}, {"ratings": {"p0": 3}}, "no scores and comment"),
        ({}, {"ratings": {"p0": {"scores": {}, "comment": 3}}}, "no scores and comment"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, ratings, changes, problem):
    path = write(tmp_path / "r.json", ratings, **changes)
    with pytest.raises(DataError, match=problem) as error:
        read_ratings(SHEET, [path])
    assert "\n" not in str(error.value)
    assert "r.json" in str(error.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "r.json").write_text("{")
    for path in (tmp_path / "r.json", tmp_path / "absent.json"):
        with pytest.raises(DataError, match="cannot be read"):
            read_ratings(SHEET, [path])
    with pytest.raises(DataError, match="no files"):
        read_ratings(SHEET, [])
    twice = [write(tmp_path / f"{number}.json", {}, name) for number, name in enumerate(("Dr A", "dr  a "))]
    with pytest.raises(DataError, match="two files of dr  a .*0.json and .*1.json"):
        read_ratings(SHEET, twice)


def test_means_and_intervals_by_hand():
    raters = [
        Ratings("A", {"p0": scores(1, 4), "p1": scores(1, 2), "p2": scores(0, 5)}, {}),
        Ratings("B", {"p0": scores(1, 2), "p2": {"accuracy": None}}, {}),
    ]
    found = {(score.dimension, score.modality): score for score in summarize(SHEET, raters).scores}
    accuracy = found["accuracy", None]
    assert (accuracy.value, accuracy.count) == (pytest.approx((3 + 2 + 5) / 3), 3)
    generator = np.random.default_rng(5)
    means = [generator.choice([3, 2, 5], 3).mean() for _ in range(20_000)]
    # Of three values the quantiles are the lowest and highest means but one; both sets of draws find them.
    assert [accuracy.low, accuracy.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-9)
    assert found["accuracy", "CT"].value == 2.5
    lone = found["accuracy", "MRI"]
    assert (lone.value, lone.low, lone.high, lone.count) == (5, None, None, 1)
    assert ("position", None) not in found
    # p0: A 4.5, B 3.5; p1: 3.5; p2: A (0 + 5) / 2, of B nothing applies.
    assert found["mean", None].value == pytest.approx((4 + 3.5 + 2.5) / 3)
    assert summarize(SHEET, raters, seed=1).values() == summarize(SHEET, raters, seed=1).values()


def kappa_by_hand(firsts, seconds, highest):
    observed = np.zeros((highest + 1, highest + 1))
    for first, second in zip(firsts, seconds, strict=True):
        observed[first, second] += 1
    observed /= observed.sum()
    expected = np.outer(observed.sum(1), observed.sum(0))
    weights = np.subtract.outer(np.arange(highest + 1), np.arange(highest + 1)) ** 2
    return 1 - (weights * observed).sum() / (weights * expected).sum()


def test_agreement_against_the_formula():
    generator = np.random.default_rng(0)
    ids = [f"p{number}" for number in range(40)]
    sheet = Sheet("a" * 16, dict.fromkeys(ids, "CT"))
    truth = generator.integers(0, 6, 40)
    given = [np.clip(truth + generator.integers(-1, 2, 40), 0, 5).tolist() for _ in range(3)]
    raters = [
        Ratings(
            str(number), {pair: {"accuracy": value, "modality": 1} for pair, value in zip(ids, own, strict=True)}, {}
        )
        for number, own in enumerate(given)
    ]
    del raters[2].scores["p0"]
    found = {one.dimension: one for one in summarize(sheet, raters).agreement}
    pairs = [(given[0], given[1]), (given[0][1:], given[2][1:]), (given[1][1:], given[2][1:])]
    assert found["accuracy"].kappa == pytest.approx(np.mean([kappa_by_hand(*pair, 5) for pair in pairs]))
    assert found["accuracy"].exact == pytest.approx(np.mean([np.mean(np.equal(*pair)) for pair in pairs]))
    assert found["accuracy"].count == 40 + 39 + 39
    # All say 1: no disagreement that chance could explain.
    assert (found["modality"].kappa, found["modality"].exact) == (None, 1)
    assert (found["position"].kappa, found["position"].exact, found["position"].count) == (None, None, 0)
    assert summarize(sheet, raters[:1]).agreement == []


def test_rows_that_fail():
    raters = [
        Ratings("A", {"p0": scores(1, 5), "p1": scores(0, 5, 5, 5), "p2": scores(1, 0, 1)}, {"p2": "not the liver"}),
        Ratings("B", {"p0": scores(1, 5), "p1": scores(1, 5, 5, 5)}, {}),
    ]
    found = {row.id: row for row in failing(SHEET, raters)}
    assert {pair: row.reason for pair, row in found.items()} == {"p1": "modality", "p2": "mean"}
    assert found["p2"].comments == ("A: not the liver",)
    assert found["p2"].mean == pytest.approx(2)
    assert [row.id for row in failing(SHEET, raters, threshold=2)] == ["p1"]
    table = text_table(summarize(SHEET, raters))
    assert "2 of 4 samples fail" in table
    assert "A: not the liver" in table
    assert "Factual accuracy (0-5)" in table
    for threshold in (-1, 5.1, float("nan")):
        with pytest.raises(ConfigError, match="threshold"):
            failing(SHEET, raters, threshold=threshold)


def test_nothing_rated():
    summary = summarize(SHEET, [Ratings("A", {}, {})])
    assert (summary.scores, summary.failing) == ([], [])
    assert "0 of 4 samples fail" in text_table(summary)
    json.dumps(summary.values())


def test_without_scipy_or_sklearn(monkeypatch):
    raters = [Ratings(name, {"p0": scores(1, 2), "p1": scores(0, 3)}, {}) for name in "AB"]
    for module in ("sklearn.metrics", "scipy.stats"):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=r"unimedvl\[eval\]"):
            summarize(SHEET, raters)


def test_an_audit_is_known_by_all_that_is_rated():
    one = Pair("0" * 16, "x", "understanding", text="A.")
    assert sheet_of([one]) == sheet_of([one])
    other = Pair("0" * 16, "x", "understanding", text="B.")
    assert sheet_of([one]).audit != sheet_of([other]).audit


def test_embedded_images_are_small_and_carry_no_metadata(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 600, 3), dtype=np.uint8))
    image.save(tmp_path / "a.jpg", comment=b"Jane Doe", exif=b"Exif\x00\x00Jane Doe")
    mask = Image.new("L", (600, 300))
    mask.paste(255, (100, 100, 200, 200))
    mask.save(tmp_path / "mask.png")
    found = embedded(tmp_path / "a.jpg", 200)
    assert found.startswith("data:image/jpeg;base64,")
    data = base64.b64decode(found.partition(",")[2])
    assert b"Jane" not in data
    assert Image.open(io.BytesIO(data)).size == (200, 100)
    assert embedded(tmp_path / "mask.png", 600).startswith("data:image/png;base64,")


def test_pages_that_cannot_be_written(tmp_path):
    pair = Pair("0" * 16, "x", "understanding", images=("absent.png",))
    with pytest.raises(DataError, match="no pairs"):
        write_page([], tmp_path / "a.html")
    with pytest.raises(ConfigError, match="8 pixels"):
        write_page([pair], tmp_path / "a.html", side=8)
    with pytest.raises(ConfigError, match="a.json is no name"):
        write_page([pair], tmp_path / "a.json")
    with pytest.raises(DataError, match=r"no such file.*absent.png"):
        write_page([pair], tmp_path / "a.html", root=tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "s.json").write_text('{"format": 1}')
    for name in ("s.json", "absent.json"):
        with pytest.raises(DataError, match="beside the page"):
            read_sheet(tmp_path / name)
