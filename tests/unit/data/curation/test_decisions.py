"""Decisions are written, read back unchanged, and refused where they say nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.data.curation.decisions import Decision, read_decisions, write_decisions
from unimedvl.errors import DataError

SOME = [
    Decision("a1", "coarse", "drop", "text too short", "3 characters", 3.0),
    Decision("b2", "alignment", "keep", "well aligned"),
    Decision("c3", "privacy", "flag", "date in text", 'line\nbreak \u2028 "quoted"', -0.25),
]
WORD = st.text(min_size=1, max_size=12)


@pytest.mark.parametrize("name", ["decisions.jsonl", "decisions.parquet"])
@pytest.mark.parametrize("some", [SOME, []])
def test_a_file_gives_back_what_was_written(tmp_path, name, some):
    assert write_decisions(tmp_path / "sub" / name, iter(some)) == len(some)
    assert read_decisions(tmp_path / "sub" / name) == some
    assert [path.name for path in (tmp_path / "sub").iterdir()] == [name]


@given(
    st.builds(
        Decision,
        pair=WORD,
        stage=WORD,
        action=st.sampled_from(["drop", "keep", "flag"]),
        reason=WORD,
        detail=st.text(max_size=20),
        score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_a_row_gives_back_its_decision(decision):
    assert Decision.from_row(decision.row()) == decision


@pytest.mark.parametrize(
    "values",
    [
        {"action": "dropped"},
        {"reason": ""},
        {"pair": ""},
        {"stage": None},
        {"score": math.nan},
        {"score": math.inf},
        {"score": "0.5"},
        {"detail": None},
    ],
)
def test_a_decision_that_cannot_be(values):
    with pytest.raises(DataError, match="no decision"):
        Decision(**{"pair": "a", "stage": "s", "action": "drop", "reason": "r", **values})


@pytest.mark.parametrize("name", ["d.jsonl", "d.parquet"])
def test_files_that_are_none(tmp_path, name):
    with pytest.raises(DataError, match="no file of decisions"):
        read_decisions(tmp_path / name)
    (tmp_path / name).write_text('{"pair": "a"}\n')
    with pytest.raises(DataError, match="missing or unknown: action|no table"):
        read_decisions(tmp_path / name)
