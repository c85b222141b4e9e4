"""Stages: the same parts whoever carries them out, killed or not."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair, in_parts, write_part
from unimedvl.data.curation.stages import Outcome, enter, judge, work

PAIRS = [Pair(f"{n:03d}", "s", "t2i", text="x" * (n % 7), target=f"{n}.png") for n in range(40)]


@contextlib.contextmanager
def silent(_what, _total):
    yield lambda: None


def lengthen(pairs, *, least):
    kept = [pair for pair in pairs if len(pair.text) >= least]
    dropped = [Decision(pair.id, "length", "drop", "short") for pair in pairs if len(pair.text) < least]
    return Outcome(kept, dropped, {pair.id: {"length": len(pair.text)} for pair in kept})


def longest(rows):
    rows = list(rows)
    most = max(facts["length"] for _, facts in rows)
    for pair, facts in rows:
        yield Decision(
            pair.id, "longest", "keep" if facts["length"] == most else "drop", "length", score=facts["length"]
        )


def start(folder, size=6):
    first = enter(folder, "ingest", 0, {"size": size}, None)
    for number, part in enumerate(in_parts(PAIRS, size)):
        write_part(first.folder / f"part-{number:05d}.parquet", part)
    return first


AT_LEAST_TWO = partial(lengthen, least=2)


def run(folder, task=AT_LEAST_TWO, workers=1, least=2):
    first = start(folder)
    second = enter(folder, "length", 1, {"least": least}, first)
    work(second, first.parts, task, workers=workers, bar=silent)
    third = enter(folder, "longest", 2, {}, second)
    judge(third, second, longest, bar=silent)
    return second, third


def content(stages):
    return [(list(stage.pairs()), list(stage.decisions())) for stage in stages]


def test_every_pair_goes_on_or_has_a_decision(tmp_path):
    second, third = run(tmp_path)
    kept, dropped = {pair.id for pair in second.pairs()}, {each.pair for each in second.decisions()}
    assert kept | dropped == {pair.id for pair in PAIRS}
    assert not kept & dropped
    assert {len(pair.text) for pair in third.pairs()} == {6}
    scores = {each.pair: each.score for each in third.decisions()}
    assert scores.keys() == kept


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 7))
def test_killed_and_resumed_is_the_same(tmp_path_factory, lives):
    whole = content(run(tmp_path_factory.mktemp("whole")))
    folder = tmp_path_factory.mktemp("killed")
    calls = []

    def dying(pairs):
        if len(calls) == lives:
            raise KeyboardInterrupt
        calls.append(len(pairs))
        return lengthen(pairs, least=2)

    with contextlib.suppress(KeyboardInterrupt):
        run(folder, dying)
    before = len(calls)
    again = []

    def counted(pairs):
        again.append(len(pairs))
        return lengthen(pairs, least=2)

    assert content(run(folder, counted)) == whole
    assert before + len(again) == 7  # no part twice


def test_another_setting_starts_again_from_its_stage_on(tmp_path):
    run(tmp_path)
    second, third = run(tmp_path, partial(lengthen, least=5), least=5)
    assert min(len(pair.text) for pair in second.pairs()) == 5
    assert {each.pair for each in third.decisions()} == {pair.id for pair in second.pairs()}


@pytest.mark.slow
def test_four_workers_make_what_one_makes(tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    try:
        assert content(run(tmp_path / "four", workers=4)) == content(run(tmp_path / "one"))
    finally:
        ray.shutdown()
