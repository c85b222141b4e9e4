"""Exact match by hand, intervals against statsmodels' published example values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.eval.answers import accuracy, normalized, wilson


@pytest.mark.parametrize(
    ("one", "two"),
    [("The  Retina.", "retina"), ("An MRI-scan!", "mri scan"), ("yes", "Yes."), ("T1, axial", "axial T1")],
)
def test_normalized(one, two):
    assert (normalized(one) == normalized(two)) == (one != "T1, axial")


def test_accuracy_by_hand():
    scored = accuracy(["CT.", "MRI", "", "us"], ["ct", "CT.", "CT.", "US."], ["US.", "CT.", "CT."])
    assert (scored.right, scored.count, scored.share) == (2, 4, 0.5)
    assert (scored.majority_answer, scored.majority) == ("CT.", 0.75)


def test_wilson_against_the_formula():
    """Newcombe (1998), table I: 81 of 263, and 15 of 148."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)


@given(st.integers(1, 200).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_an_interval_holds_its_share(pair):
    right, count = pair
    low, high = wilson(right, count)
    assert 0 <= low <= right / count + 1e-12
    assert right / count - 1e-12 <= high <= 1
