"""Curves of resumed runs, and pieces of the page."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.eval.report import page
from unimedvl.eval.report.curves import plot, read_run


def test_the_later_line_of_a_step_counts(tmp_path):
    rows = [
        {"step": 0, "validation": {"ce": 7.0, "mse": 2.0}},
        {"step": 10, "ce": 5.0, "mse": 1.5, "seconds": 1.0},
        {"step": 20, "ce": 4.0, "mse": 1.0, "seconds": 1.0},
        {"step": 20, "ce": 3.0, "mse": 0.5, "seconds": 3.0},
        {"step": 20, "validation": {"ce": 3.5, "mse": 0.75}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(tmp_path)
    assert run.curves["ce"].training == ((10, 5.0), (20, 3.0))
    assert run.curves["mse"].held_out == ((0, 2.0), (20, 0.75))
    assert (run.steps, run.seconds) == (20, 40.0)
    plot("ce", {"a": run.curves["ce"], "b": run.curves["ce"]}, tmp_path / "ce.png")
    with Image.open(tmp_path / "ce.png") as image:
        assert image.width > 400
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        read_run(tmp_path / "nowhere")


def test_text_from_outside_is_escaped(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert "<script>" not in page.page("<script>", [page.figure(tmp_path / "a.png", "<script>")])
    assert "data:image/png;base64," in page.source(tmp_path / "a.png")
    assert page.table(["a", "b"], [["group"], ["1", "2"]]).count("<td") == 3
