from __future__ import annotations

import base64
import io
import json
import sys
from dataclasses import replace

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

KEYS = list(BY_KEY)


def sheet_with(modalities):
    return Sheet("a" * 16, modalities, dict.fromkeys(modalities, "0" * 16))


SHEET = sheet_with({"p0": "CT", "p1": "CT", "p2": "MRI", "p3": "MRI"})


def scores(*values):
    """Of the first dimensions; the others are not rated."""
    return dict(zip(KEYS, values, strict=False))


def whole(*values):
    """Of all dimensions, of which those after the first do not apply."""
    return dict.fromkeys(KEYS) | scores(*values)


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
    assert first.mean("p1") is None  # five of the seven are not rated yet
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
        Ratings("A", {"p0": whole(1, 4), "p1": whole(1, 2), "p2": whole(0, 5)}, {}),
        Ratings("B", {"p0": whole(1, 2), "p2": {"accuracy": None}}, {}),
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
    sheet = sheet_with(dict.fromkeys(ids, "CT"))
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
        Ratings("A", {"p0": whole(1, 5), "p1": whole(0, 5, 5, 5), "p2": whole(1, 0, 1)}, {"p2": "not the liver"}),
        Ratings("B", {"p0": whole(1, 5), "p1": whole(1, 5, 5, 5)}, {}),
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


@pytest.mark.parametrize("rated", [scores(0), scores(1, 0), scores(0, 0, 0, 0, 0, 0), {"accuracy": None}])
def test_what_is_rated_in_part_neither_fails_nor_counts_for_the_mean(rated):
    one = Ratings("A", {"p0": rated, "p1": whole(1, 5)}, {})
    summary = summarize(SHEET, [one])
    assert summary.failing == []
    assert (summary.complete, summary.partial) == ({"A": 1}, {"A": 1})
    assert [score.count for score in summary.scores if score.dimension == "mean" and score.modality is None] == [1]
    assert "rated in part by: A 1; " in text_table(summary)
    other = Ratings("B", {"p0": whole(1, 0)}, {})  # says all of it, and alone
    assert [(row.id, row.reason, row.mean) for row in failing(SHEET, [one, other])] == [("p0", "mean", 2.5)]


def test_nothing_is_said_of_parts_where_there_are_none():
    assert "in part" not in text_table(summarize(SHEET, [Ratings("A", {"p0": whole(1)}, {})]))


def test_nothing_rated():
    summary = summarize(SHEET, [Ratings("A", {}, {})])
    assert (summary.scores, summary.failing) == ([], [])
    assert "0 of 4 samples fail" in text_table(summary)
    json.dumps(summary.values())


def test_without_scipy_or_sklearn(monkeypatch):
    raters = [Ratings(name, {"p0": whole(1, 2), "p1": whole(0, 3)}, {}) for name in "AB"]
    for module in ("sklearn.metrics", "scipy.stats"):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=r"unimedvl\[eval\]"):
            summarize(SHEET, raters)


def test_an_audit_is_known_by_all_that_is_rated():
    one = Pair("0" * 16, "x", "understanding", text="A.")
    assert sheet_of([one]) == sheet_of([one])
    other = Pair("0" * 16, "x", "understanding", text="B.")
    assert sheet_of([one]).audit != sheet_of([other]).audit


def test_a_sheet_tells_pairs_by_their_words_and_the_bytes_of_their_images(tmp_path):
    for name, gray in (("a", 10), ("b", 10), ("c", 11)):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4), gray).save(tmp_path / name / "x.png")
    pair = Pair("0" * 16, "x", "understanding", question="Which?", text="A.", images=("x.png",))
    a, b, c = (sheet_of([pair], tmp_path / name) for name in "abc")
    assert a == b != c
    turns = replace(pair, more={"turns": [["human", "Which?"], ["gpt", "A."]]})
    for other in (replace(pair, question="What?"), replace(pair, modality="CT"), turns):
        assert sheet_of([other], tmp_path / "a").contents != a.contents
    # Neither its place in the corpus nor what the source tells besides is on the page.
    same = replace(pair, split="test", source="y", license="MIT", more={"age": 3})
    assert sheet_of([same], tmp_path / "a") == a
    write_page([pair], tmp_path / "p.html", root=tmp_path / "a")
    assert read_sheet(tmp_path / "p.json") == a


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
    known = {"format": FORMAT, "audit": "a" * 16, "modalities": {"p0": "CT"}, "contents": {}}
    (tmp_path / "t.json").write_text(json.dumps(known))
    for name in ("s.json", "t.json", "absent.json"):
        with pytest.raises(DataError, match="beside the page"):
            read_sheet(tmp_path / name)
