"""Two results of the same rows, and tables of results."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.eval.compare import compare, table, write_comparison
from unimedvl.eval.published import PUBLISHED, published
from unimedvl.eval.run import open_result
from unimedvl.eval.scores import METRICS
from unimedvl.eval.tables import Leaderboard, terminal


def write_result(folder, values, *, benchmark="slake", rows_hash="r", scores=None):
    """``values``: (kind, accuracy) of each row."""
    folder.mkdir()
    items = [
        {"name": f"row-{n}", "kind": kind, "modality": "CT", "scores": {"accuracy": value}}
        for n, (kind, value) in enumerate(values)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    mean = float(np.mean([value for _, value in values]))
    own = {"metric": "accuracy", "value": mean, "count": len(values), "group": "all", "low": 0.1, "high": 0.9}
    about = {"benchmark": benchmark, "family": "x", "model": folder.name, "rows": len(values), "rows_hash": rows_hash}
    result = {"about": about, "count": len(values), "errors": 0, "scores": scores or [own], "notes": ["A note."]}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def pair(tmp_path):
    first = [("organ", float(n % 2)) for n in range(40)] + [("plane", 1.0)] * 20
    second = [("organ", 1.0)] * 40 + [("plane", float(n > 1)) for n in range(20)]
    return write_result(tmp_path / "one", first), write_result(tmp_path / "two", second)


def test_differences_are_paired_and_by_category(pair):
    found = {(each.metric, each.group): each for each in compare(*pair)}
    whole = found["accuracy", "all"]
    assert (whole.first, whole.second, whole.count) == (40 / 60, 58 / 60, 60)
    assert whole.difference == pytest.approx(18 / 60)
    differences = np.array([1.0 - n % 2 for n in range(40)] + [-1.0] * 2 + [0.0] * 18)
    # The bootstrap's standard error of a mean of 60; the interval is that of a normal within its own noise.
    half = 1.96 * differences.std() / np.sqrt(60)
    assert whole.high - whole.low == pytest.approx(2 * half, rel=0.1)
    assert whole.clear
    assert found["accuracy", "kind=organ"].difference == 0.5
    assert not found["accuracy", "kind=plane"].clear  # two of twenty: the interval reaches zero
    assert ("accuracy", "modality=CT") not in found  # the only one: that of all


def test_comparison_as_files(pair, tmp_path):
    found = compare(*pair)
    paths = write_comparison(found, ("base", "tuned"), tmp_path / "out")
    assert [path.name for path in paths] == ["compare.json", "compare.txt", "compare.png"]
    assert json.loads(paths[0].read_text())["differences"][0]["count"] == 60
    lines = paths[1].read_text().splitlines()
    assert lines[0].split()[:4] == ["metric", "group", "base", "tuned"]
    assert lines[1].startswith("accuracy")
    assert lines[1].endswith("*")
    assert Image.open(paths[2]).size[0] > 300
    assert table(found, ("base", "tuned")) == paths[1].read_text().rstrip("\n")


def test_different_rows_do_not_compare(pair, tmp_path):
    other = write_result(tmp_path / "three", [("organ", 1.0)], rows_hash="other")
    with pytest.raises(DataError, match=r"different rows \(slake, 60 rows; slake, 1 rows\)"):
        compare(pair[0], other)
    with pytest.raises(DataError, match="no result .*nowhere"):
        compare(pair[0], tmp_path / "nowhere")
    (other / "result.json").write_text('{"losses": {}}')
    with pytest.raises(DataError, match="no result of a benchmark"):
        open_result(other)


def test_leaderboard_marks_the_best_and_shows_the_published_row(pair, tmp_path):
    own = write_result(tmp_path / "own", [("a", 1.0)], benchmark="vqa", rows_hash="x|y")
    board = Leaderboard([open_result(folder) for folder in (*pair, own)], ["base", "tuned", "<mine>"])
    text = board.markdown()
    assert "| base | 0.667 (0.100 to 0.900) | 60 | r |" in text
    assert "| tuned | **0.967 (0.100 to 0.900)** | 60 | r |" in text
    assert "| UniMedVL 14B, published | 0.754 | see paper |  |" in text
    assert "| <mine> | 1.000 (0.100 to 0.900) | 1 | x\\|y |" in text  # alone it is no best
    page = board.html()
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page
    assert "<b>0.967" in page


def test_terminal_shows_the_paper_beside_the_score(pair):
    lines = terminal(open_result(pair[0])).splitlines()
    assert lines[0] == "slake: 60 predictions of one, 0 failed"
    assert lines[2].split() == ["accuracy", "0.667", "0.100", "to", "0.900", "60", "0.754"]
    assert lines[-1] == "A note."


def test_published_numbers_are_of_known_metrics():
    assert published("slake", "accuracy") == 0.754
    assert published("slake", "psnr") is None
    assert published("vqa", "accuracy") is None
    for metrics in PUBLISHED.values():
        assert metrics.keys() <= METRICS.keys()
    fids = [value for group, value in PUBLISHED["generation"]["gfid"].items() if group != "average"]
    assert np.mean(fids) == pytest.approx(95.80, abs=0.01)  # which the paper prints as 96.29
