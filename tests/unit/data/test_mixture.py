from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.data.mixture import FamilyWeights, Mixture, Part
from unimedvl.errors import ConfigError

FAMILIES = ("text", "t2i", "i2t", "interleaved")
# Paper, Table 12; stage 1 adds to 105.
STAGES = {
    "foundation": FamilyWeights(5, 25, 75, 0),
    "instruction": FamilyWeights(5, 45, 40, 10),
    "unified": FamilyWeights(3, 35, 37, 25),
}
PARTS = [
    Part("facts", "text", 60),
    Part("captions", "t2i", 1000),
    Part("plans", "t2i", 400, weight=600),
    Part("vqa", "i2t", 5000),
    Part("reports", "i2t", 2500),
    Part("edits", "interleaved", 300),
    Part("counterfactuals", "interleaved", 1),
]


@pytest.mark.parametrize("stage", STAGES)
def test_shares_after_20000_draws(stage):
    """Within one percentage point of what is wanted, by family and by source."""
    weights = STAGES[stage]
    mixture = Mixture(PARTS, weights, seed=3)
    drawn = Counter(mixture.at(position).part for position in range(20_000))
    total = sum(getattr(weights, family) for family in FAMILIES)
    by_family = defaultdict(float)
    for number, part in enumerate(PARTS):
        share = drawn[number] / 20_000
        by_family[part.family] += share
        own = part.rows if part.weight is None else part.weight
        among = sum(p.rows if p.weight is None else p.weight for p in PARTS if p.family == part.family)
        assert share == pytest.approx(getattr(weights, part.family) / total * own / among, abs=0.01)
    for family in FAMILIES:
        assert by_family[family] == pytest.approx(getattr(weights, family) / total, abs=0.01)


@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.01, 10), min_size=5, max_size=5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_every_epoch_visits_every_row_once(rows, weights, seed):
    parts = [Part(str(n), "t2i", count, weights[n]) for n, count in enumerate(rows)]
    mixture = Mixture(parts, FamilyWeights(t2i=1), seed)
    seen = defaultdict(list)
    for position in range(2500):
        draw = mixture.at(position)
        assert draw.position == position
        seen[draw.part, draw.epoch].append(draw.row)
    for (part, epoch), own in seen.items():
        last = (part, epoch + 1) not in seen
        assert len(set(own)) == len(own)
        assert last or sorted(own) == list(range(rows[part]))


@given(start=st.integers(0, 300_000), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_draw_is_a_function_of_seed_and_position(start, seed):
    weights = FamilyWeights(1, 2, 3, 4)
    walked, jumped = Mixture(PARTS, weights, seed), Mixture(PARTS, weights, seed)
    forward = [walked.at(position) for position in range(start, start + 50)]
    backward = [jumped.at(position) for position in reversed(range(start, start + 50))]
    assert forward == backward[::-1]
    before = walked.draws_before(start + 50) - walked.draws_before(start)
    assert np.array_equal(before, np.bincount([draw.part for draw in forward], minlength=len(PARTS)))


def test_epochs_are_shuffled_anew_and_by_the_seed():
    orders = set()
    for seed in (0, 1):
        mixture = Mixture([Part("a", "text", 30)], FamilyWeights(text=1), seed)
        rows = [mixture.at(position).row for position in range(90)]
        orders |= {tuple(rows[epoch * 30 : (epoch + 1) * 30]) for epoch in range(3)}
    assert len(orders) == 6


def test_fingerprint_tells_mixtures_apart():
    weights = FamilyWeights(1, 1, 1, 1)
    base = Mixture(PARTS, weights, 0).fingerprint
    assert Mixture(PARTS, FamilyWeights(2, 2, 2, 2), 0).fingerprint == base
    others = [
        Mixture(PARTS, weights, 1),
        Mixture(PARTS, FamilyWeights(1, 1, 1, 2), 0),
        Mixture([Part("facts", "text", 61), *PARTS[1:]], weights, 0),
        Mixture(PARTS[::-1], weights, 0),
    ]
    assert len({base, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        ([], FamilyWeights(1), "the mixture is empty"),
        (PARTS, FamilyWeights(), "the mixture is empty"),
        (PARTS[:1], FamilyWeights(1, 1), "the mix wants 1 of t2i, and no source has any"),
        ([Part("a", "text", 0)], FamilyWeights(1), r"no row \(source a\)"),
        ([Part("a", "song", 1)], FamilyWeights(1), "family 'song'.*text, t2i, i2t, interleaved"),
        ([Part("a", "text", 1, -1)], FamilyWeights(1), "weight -1"),
        ([Part("a", "text", 1, 0.0)], FamilyWeights(1), "no source has any"),
    ],
)
def test_mixtures_that_cannot_work(parts, weights, message):
    with pytest.raises(ConfigError, match=message):
        Mixture(parts, weights, 0)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_weights_that_cannot_work(weight):
    with pytest.raises(ConfigError, match="weights.t2i"):
        FamilyWeights(t2i=weight)
