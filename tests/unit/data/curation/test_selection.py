"""The best part stays, by any number of modalities and with ties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.data.curation.alignment import Measured, Scored
from unimedvl.data.curation.selection import SelectionSettings, select
from unimedvl.errors import ConfigError


def scored(pair: str, score: float, modality: str = "CT") -> Scored:
    return Scored(Measured(pair, modality, score, None, "", ("c", "e", "")), score, None, score)


def kept(decisions) -> list[str]:
    return [decision.pair for decision in decisions if decision.action == "keep"]


def test_the_best_half_stays_and_all_keep_their_scores():
    decisions = select([scored("a", 0.1), scored("b", 0.4), scored("c", 0.3), scored("d", 0.2)])
    assert [(one.pair, one.action, one.score) for one in decisions] == [
        ("a", "drop", 0.1),
        ("b", "keep", 0.4),
        ("c", "keep", 0.3),
        ("d", "drop", 0.2),
    ]
    assert decisions[0].detail.startswith("rank 4 of 4 of all; S 0.1")
    assert {one.reason for one in decisions} == {"well aligned", "poorly aligned"}


def test_by_modality():
    pairs = [scored("a", 9, "CT"), scored("b", 8, "CT"), scored("c", 2, "MRI"), scored("d", 1, "MRI")]
    assert kept(select(pairs)) == ["a", "b"]
    assert kept(select(pairs, SelectionSettings(per_modality=True))) == ["a", "c"]


def test_ties_are_broken_by_id_whatever_the_order():
    pairs = [scored(name, 1.0) for name in "dbca"]
    assert sorted(kept(select(pairs))) == sorted(kept(select(pairs[::-1]))) == ["a", "b"]


@pytest.mark.parametrize(
    ("fraction", "count", "expected"), [(0.1, 30, 3), (0.5, 3, 2), (0.01, 5, 1), (1.0, 4, 4), (0.29, 100, 29)]
)
def test_how_many_stay(fraction, count, expected):
    pairs = [scored(f"{number:03}", number) for number in range(count)]
    assert len(kept(select(pairs, SelectionSettings(fraction)))) == expected


@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 3)), max_size=20), st.floats(0.01, 1), st.booleans())
def test_none_that_goes_is_better_than_one_that_stays(values, fraction, per_modality):
    pairs = [scored(f"{number:03}", score, modality) for number, (modality, score) in enumerate(values)]
    decisions = select(pairs, SelectionSettings(fraction, per_modality))
    assert [one.pair for one in decisions] == [one.measured.pair for one in pairs]
    for group in ("A", "B") if per_modality else ("AB",):
        own = [one for one, (modality, _) in zip(decisions, values, strict=True) if modality in group]
        stay = [one.score for one in own if one.action == "keep"]
        assert bool(stay) == bool(own)
        assert not own or min(stay) >= max((one.score for one in own if one.action == "drop"), default=-1)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.1])
def test_fractions_that_cannot_be(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        SelectionSettings(fraction)
