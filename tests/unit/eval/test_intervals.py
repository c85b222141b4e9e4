"""Bootstrap intervals against resampling written out, formulas, and each other."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.intervals import difference_interval, mean_interval, statistic_interval


def test_a_mean_against_resampling_written_out():
    values = np.random.default_rng(1).normal(3, 2, 60)
    generator = np.random.default_rng(2)
    means = [generator.choice(values, 60).mean() for _ in range(20_000)]
    expected = np.quantile(means, [0.025, 0.975])
    found = mean_interval(values.tolist(), resamples=20_000)
    assert found.value == pytest.approx(values.mean())
    # Two sets of 20,000 draws: the quantiles of each have a standard error of about 0.005.
    assert [found.low, found.high] == pytest.approx(expected, abs=0.03)


def test_a_large_sample_has_the_normal_interval():
    values = np.random.default_rng(0).normal(0, 1, 4000)
    found = mean_interval(values.tolist())
    half = 1.96 * values.std() / math.sqrt(4000)
    # 2,000 draws: the standard error of a 2.5 % quantile is about 0.06 standard errors of the mean, that is 0.001.
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.005)


def test_two_items_by_hand():
    """Means of two draws from (0, 1): 0, 1/2, 1/2, 1, so that a quarter lies at each end."""
    found = mean_interval([0.0, 1.0], level=0.4)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    wide = mean_interval([0.0, 1.0], level=0.9)
    assert (wide.low, wide.high, wide.level, wide.count) == (0, 1, 0.9, 2)


def test_a_statistic_that_is_a_mean_has_its_interval():
    values = np.random.default_rng(3).normal(size=40).tolist()
    one, two = mean_interval(values, seed=5), statistic_interval(values, lambda drawn: float(np.mean(drawn)), seed=5)
    # The same resamples, summed in another order.
    assert [two.value, two.low, two.high] == pytest.approx([one.value, one.low, one.high], abs=1e-12)


def test_any_items_can_be_drawn():
    words = ["a", "bb", "ccc"] * 10
    found = statistic_interval(words, lambda drawn: sum(map(len, drawn)) / len(drawn))
    assert found.value == 2
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2 < found.high


def test_pairs_are_drawn_together():
    """Items differ a lot, systems by exactly 0.1 on each: only a paired difference is sure of it."""
    second = np.random.default_rng(0).normal(0, 10, 50)
    first = second + 0.1
    for statistic in (None, lambda drawn: float(np.mean(drawn))):
        found = difference_interval(first.tolist(), second.tolist(), statistic)
        assert [found.value, found.low, found.high] == pytest.approx([0.1] * 3)


def test_the_same_seed_gives_the_same_and_leaves_the_global_state_alone():
    values = np.random.default_rng(0).normal(size=30).tolist()
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)
    assert (np.random.random(3) == expected).all()


def test_batches_change_nothing(monkeypatch):
    values = np.random.default_rng(0).normal(size=30).tolist()
    whole = mean_interval(values)
    monkeypatch.setattr("unimedvl.eval.intervals._NUMBERS_AT_ONCE", 100)
    assert mean_interval(values) == whole


def test_one_item_has_no_interval():
    found = mean_interval([0.7])
    assert (found.value, found.low, found.high, found.count) == (0.7, None, None, 1)
    assert statistic_interval(["x"], len).low is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
@settings(max_examples=30)
def test_an_interval_lies_within_the_values(values):
    found = mean_interval(values, resamples=50)
    # Means of floats are rounded.
    slack = 1e-9 * max(map(abs, values))
    assert found.low is not None
    assert found.high is not None
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 0.0], [[1.0], [2.0]]])
def test_values_that_cannot_be(values):
    with pytest.raises(DataError, match="values"):
        mean_interval(values)


def test_items_that_cannot_be():
    with pytest.raises(DataError, match="no items"):
        statistic_interval([], len)
    with pytest.raises(DataError, match="not finite on a resample"):
        statistic_interval([0, 1], lambda drawn: 1.0 if sum(drawn) else math.nan)
    with pytest.raises(DataError, match="2 items against 1"):
        difference_interval([1, 2], [1])


@pytest.mark.parametrize("options", [{"resamples": 0}, {"level": 1.0}])
def test_settings_that_cannot_be(options):
    with pytest.raises(ConfigError, match="resamples"):
        mean_interval([1.0, 2.0], **options)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ConfigError, match=r"scipy.*unimedvl\[eval\]"):
        mean_interval([1.0, 2.0])
