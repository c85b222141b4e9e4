"""Validation: every fault is found, named and placed; nothing else is."""

from __future__ import annotations

import base64
import io
import json
import pickle

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from unimedvl.data import validate as module
from unimedvl.data.records import ImageRef, RecordError
from unimedvl.data.sources import Source
from unimedvl.data.validate import Offender, Report, SizeCache, in_chunks, validate
from unimedvl.errors import ConfigError, DataError


def png(width=8, height=6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "gray").save(buffer, "PNG")
    return buffer.getvalue()


def question(**image):
    turns = [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A lung."}]
    return {"main_task_type": "vqa", "input_img": [image], "message": turns}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a.png").write_bytes(png())

    def make(*rows):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return Source("test", [file], cache=tmp_path / "cache")

    return make


def test_good_rows(source, tmp_path):
    encoded = base64.b64encode(png()).decode()
    report = validate(
        source(
            question(path="a.png"),
            question(path="a.png", height=6, width=8),
            question(path="a.png", height=6.0, width=None),
            '{"main_task_type": "vqa", "input_img": {"path": "a.png", "height": NaN}, "message": '
            '[{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "x"}]}',
            question(base64=encoded, width=8),
        )
    )
    assert (report.rows, report.good, report.bad, report.counts, report.first) == (5, 5, 0, {}, {})
    assert str(report) == "5 rows: 5 good, 0 bad"


@pytest.mark.parametrize(
    ("image", "reason", "problem"),
    [
        ({"path": "b.png"}, "missing image", "input image 1: no such file"),
        ({"path": "a.png", "height": 8, "width": 6}, "wrong size", "says 6 x 8 (width x height), the image is 8 x 6"),
        ({"path": "a.png", "width": 0}, "wrong size", "says 0 x ?"),
        ({"path": "a.png", "height": -6}, "wrong size", "says ? x -6"),
        ({"path": "a.png", "height": "6"}, "wrong type", "input_img: height '6'"),
        ({"path": "a.png", "height": 6.5}, "wrong type", "input_img: height 6.5"),
        ({"path": "a.png", "height": True}, "wrong type", "input_img: height True"),
        ({"base64": "bm8gaW1hZ2U="}, "damaged image", "input image 1: not an image"),
        ({"path": "text.png"}, "damaged image", "input image 1: not an image"),
        ({"path": "cut.png"}, "damaged image", "input image 1: the image is damaged"),
    ],
)
def test_bad_images(source, tmp_path, image, reason, problem):
    (tmp_path / "text.png").write_text("no image")
    noise = Image.effect_noise((64, 64), 50)
    noise.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    report = validate(source(question(path="a.png"), question(**image)))
    assert report.counts == {reason: 1}
    (found,) = report.first[reason]
    assert found.where == f"{tmp_path / 'rows.jsonl'}:2"
    assert problem in found.problem


def test_the_output_image_is_named(source):
    row = {"main_task_type": "t2i", "output_img": [{"path": "none.png"}]}
    row["message"] = [{"from": "human", "value": "A lung"}]
    (found,) = validate(source(row)).first["missing image"]
    assert found.problem.startswith("output image 1: no such file")


def test_three_offenders_are_shown(source):
    report = validate(source(*["{"] * 5, question(path="a.png"), question(path="x.png")))
    assert report.counts == {"bad JSON": 5, "missing image": 1}
    assert [one.where.rsplit(":")[-1] for one in report.first["bad JSON"]] == ["1", "2", "3"]
    assert "bad JSON: 5\n" in str(report)
    assert "  and 2 more" in str(report)
    assert report.values()["reasons"] == {"bad JSON": 5, "missing image": 1}
    assert report.values()["first"]["missing image"][0]["where"].endswith(":7")


def test_the_number_of_jobs_does_not_matter(source, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2)
    rows = [question(path=name) for name in ("a.png", "b.png", "a.png", "c.png", "b.png", "a.png", "b.png")]
    made = source(*rows, "{", "{", question(path="a.png", width=9))
    one, two = validate(made, jobs=1), validate(made, jobs=2)
    assert one == two
    assert str(one) == str(two)
    assert one.counts == {"missing image": 4, "bad JSON": 2, "wrong size": 1}


def test_limit(source):
    report = validate(source(question(path="a.png"), "{", "{"), limit=2)
    assert (report.rows, report.bad) == (2, 1)
    with pytest.raises(ConfigError, match="limit 0"):
        validate(source("{"), limit=0)
    with pytest.raises(ConfigError, match="0 jobs"):
        validate(source("{"), jobs=0)


def test_parquet_with_images_inside(tmp_path):
    rows = [question(bytes=png(), height=6), question(bytes=png()[:40], height=None), question(bytes=b"", height=None)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    report = validate(Source("test", [tmp_path / "rows.parquet"], cache=tmp_path / "cache"))
    assert report.counts == {"damaged image": 2}
    assert report.first["damaged image"][0].where.endswith("rows.parquet:2")


def test_an_image_is_read_once_with_or_without_fault(tmp_path):
    reads = []

    def size(ref, root):
        reads.append(ref.path)
        if ref.path == "bad":
            raise RecordError("damaged image")
        return 3, 4

    cached = SizeCache(size)
    for _ in range(2):
        assert cached(ImageRef("good", width=3), tmp_path) == (3, 4)
        assert cached(ImageRef("good"), tmp_path) == (3, 4)
        with pytest.raises(RecordError, match="damaged image"):
            cached(ImageRef("bad"), tmp_path)
        cached(ImageRef("good"), tmp_path / "elsewhere")
    assert reads == ["good", "bad", "good"]


class Killer:
    def __call__(self, rows):
        import os

        os._exit(9)


def test_a_killed_process_is_told(monkeypatch):
    with pytest.raises(DataError, match="a process was killed.*use fewer than 2"):
        list(in_chunks(Killer(), 100, jobs=2))


def test_reports_travel_and_add():
    report = Report(rows=3)
    report.fault("huge image", Offender("f:1", "too many pixels"))
    other = pickle.loads(pickle.dumps(report))
    assert other == report
    report.add(other)
    assert (report.rows, report.counts, len(report.first["huge image"])) == (6, {"huge image": 2}, 2)
    assert len(other.first["huge image"]) == 1
