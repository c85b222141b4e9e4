"""Predictions: shared out, resumed, and never mixed up."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unimedvl import NOTICE
from unimedvl.data.records import ImageRef
from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.predict import Ask, Predictions, asks_of, shard_of, with_wording
from unimedvl.eval.rows import Row
from unimedvl.files import locked, read_journal
from unimedvl.infer.requests import Result
from unimedvl.infer.tasks import InferSettings


class Killed(BaseException):
    """As a signal: not an Exception, so that nothing records it."""


class Pipe:
    """Answers with the prompt, draws noise of the call's seed; dies before its ``lives``-th call."""

    def __init__(self, lives=10**6):
        self.settings, self.lives, self.calls = InferSettings(), lives, 0

    def perform(self, calls):
        results = []
        for call in calls:
            if "refuse" in (call.prompt or ""):
                raise DataError("no", where="prompt", remedy="ask otherwise")
            if self.calls >= self.lives:
                raise Killed
            self.calls += 1
            seed = call.settings.t2i.seed
            noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
            image = Image.fromarray(noise) if call.task == "t2i" else None
            results.append(Result(f"{call.prompt} {seed}" + (f"\n\n{NOTICE}" if call.task == "report" else ""), image))
        return results


@contextlib.contextmanager
def silent(_what, _total):
    yield lambda: None


def png():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return ImageRef(data=file.getvalue())


PNG = png()
ROWS = [
    *(Row(f"q{number}", "vqa", prompt=f"question {number}", truths=("x",)) for number in range(4)),
    *(Row(f"d{number}", "t2i", prompt=f"draw {number}") for number in range(3)),
    Row("bad", "vqa", prompt="refuse"),
    Row("torn", "vqa", prompt="look", images=(ImageRef(data=b"no image"),)),
    Row("r", "report", prompt="write", images=(PNG,)),
]
ASKS = asks_of(ROWS, draws=2)


def made(out, *, asks=ASKS, shard=(0, 1), batch_size=3, lives=10**6, about="a"):
    predictions = Predictions(out, about)
    pipe = Pipe(lives)
    predictions.make(asks, lambda: pipe, shard=shard, batch_size=batch_size, bar=silent)
    return predictions


def content(predictions):
    found = predictions.complete(ASKS)
    assert found is not None
    return [
        (p.ask.name, p.text, p.error, None if p.image is None else np.asarray(p.picture()).tobytes()) for p in found
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return content(made(tmp_path_factory.mktemp("whole")))


def test_what_comes_out(whole):
    assert len(whole) == 4 + 2 * 3 + 3
    by_name = {name: (text, error, image) for name, text, error, image in whole}
    assert by_name["q1"][0].startswith("question 1 ")
    assert by_name["bad"][1].startswith("no (prompt)")
    assert "not an image" in by_name["torn"][1]
    assert by_name["r"][0].startswith("write ")
    assert NOTICE not in by_name["r"][0]
    pictures = [image for name, (_, _, image) in by_name.items() if name.startswith("d")]
    assert len(set(pictures)) == 6  # noise of its own for every row and draw


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 14), st.integers(1, 4), st.integers(1, 5), st.binary(max_size=8))
def test_killed_anywhere_resumed_in_any_shards_and_batches_is_the_same(
    tmp_path_factory, whole, lives, shards, batch, torn
):
    out = tmp_path_factory.mktemp("run")
    with contextlib.suppress(Killed):
        made(out, batch_size=batch, lives=lives)
    journal = out / "predictions" / "000-of-001.jsonl"
    if journal.exists():
        with journal.open("ab") as file:
            file.write(b'{"name": ' + torn.replace(b"\n", b""))
    before = Predictions(out, "a").records(ASKS)
    for shard in range(shards):
        made(out, shard=(shard, shards), batch_size=batch)
    assert content(Predictions(out, "a")) == whole
    journals = (out / "predictions").glob("*.jsonl")
    names = [record["name"] for path in journals for record in read_journal(path) if record["error"] is None]
    failed = {"bad", "torn"}  # which are tried again by whoever comes
    assert sorted(names) == sorted(ask.name for ask in ASKS if ask.name not in failed)  # none lost, none done twice
    assert before.keys() - failed <= set(names)


def test_incomplete_shards_have_no_result(tmp_path):
    assert made(tmp_path, shard=(0, 2)).complete(ASKS) is None
    assert made(tmp_path, shard=(1, 2)).complete(ASKS) is not None


def test_more_rows_go_on_with_those_that_are_there(tmp_path):
    made(tmp_path, asks=ASKS[:3])
    pipe = Pipe()
    assert Predictions(tmp_path, "a").make(ASKS[:5], lambda: pipe, bar=silent) == 2
    assert pipe.calls == 2
    assert len(Predictions(tmp_path, "a").records(ASKS[:2])) == 2


def test_predictions_of_something_else_are_refused(tmp_path):
    made(tmp_path, asks=ASKS[:3])
    with pytest.raises(DataError, match="another model or another setting.*give another out="):
        made(tmp_path, about="b")
    changed = [Ask(replace(ASKS[0].row, prompt="other")), *ASKS[1:]]
    with pytest.raises(DataError, match="prediction of q0 is of another row"):
        made(tmp_path, asks=changed)


def test_rows_of_one_name_are_refused():
    with pytest.raises(DataError, match="two rows are called q0"):
        asks_of([ROWS[0], ROWS[1], ROWS[0]], 1)


@pytest.mark.parametrize("text", ["3/3", "-1/2", "1", "a/b", "1/0"])
def test_shards_that_cannot_be(text):
    with pytest.raises(ConfigError, match="shard is"):
        shard_of(text)


def test_shards_come_from_the_launcher(monkeypatch):
    assert shard_of(None) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert shard_of(None) == (2, 5)
    assert shard_of("0/3") == (0, 3)


def test_wordings_surround_questions_only():
    row = Row("q", "vqa", prompt="Which {organ}?", options=("Liver", "Lung"))
    assert (
        with_wording(row, "{question}\n{options}\nLetter.", "no").asked == "Which {organ}?\nA. Liver\nB. Lung\nLetter."
    )
    assert with_wording(replace(row, options=()), "no", "{question} Short.").asked == "Which {organ}? Short."
    assert with_wording(replace(row, task="t2i"), "no", "no").asked == ""


def test_what_failed_is_tried_again_and_lost_pictures_are_made_again(tmp_path, whole):
    made(tmp_path)
    pipe = Pipe()
    assert Predictions(tmp_path, "a").make(ASKS, lambda: pipe, bar=silent) == 2
    assert pipe.calls == 0  # both fail again
    (tmp_path / "images" / "d1.png").unlink()
    assert Predictions(tmp_path, "a").complete(ASKS) is None
    assert content(made(tmp_path)) == whole
    assert Predictions(tmp_path, "a").records(ASKS)["bad"]["error"]


def test_a_changed_image_is_another_row(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    row = Row("q", "vqa", prompt="What?", truths=("x",), images=(ImageRef(path="a.png"),), root=tmp_path)
    made(tmp_path / "out", asks=[Ask(row)])
    before = row.digest()
    Image.effect_noise((32, 32), 99).save(path)
    assert row.digest() != before
    with pytest.raises(DataError, match="of q is of another row of this name, or its images have changed"):
        made(tmp_path / "out", asks=[Ask(row)])
    assert replace(row, truths=("y",)).digest() != row.digest()
    assert replace(row, wanted=ImageRef(path="a.png")).digest() != row.digest()


def test_only_one_process_writes_a_journal(tmp_path):
    with locked(tmp_path / "predictions" / "000-of-001.lock") as mine:
        assert mine
        with pytest.raises(DataError, match="another process is at this"):
            made(tmp_path)
    made(tmp_path)
