from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.data.curation.audit.sample import quotas, stratified
from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.errors import ConfigError, DataError

COUNTS = st.dictionaries(
    st.sampled_from(["CT", "MRI", "CXR", "HIS", "CFP", "OCT", "US", ""]), st.integers(1, 400), min_size=1
)


def pairs_of(counts):
    return [
        Pair(pair_id(modality, str(number)), "made", "understanding", modality=modality)
        for modality, count in counts.items()
        for number in range(count)
    ]


@given(COUNTS, st.integers(1, 300))
def test_quotas_are_proportional(counts, size):
    found, total = quotas(counts, size), sum(counts.values())
    size = min(size, total)
    assert sum(found.values()) == size
    assert all(share <= counts[name] for name, share in found.items())
    exact = {name: size * count / total for name, count in counts.items()}
    if size >= len(counts):
        assert min(found.values()) >= 1
    if min(exact.values()) >= 1 or size < len(counts):
        # Nothing had to be given up for a rare stratum: each is its exact share, rounded up or down.
        assert all(abs(found[name] - exact[name]) < 1 for name in counts)


def test_quotas_by_hand():
    assert quotas({"a": 50, "b": 30, "c": 20}, 10) == {"a": 5, "b": 3, "c": 2}
    # 3.5, 2.1, 1.4: the remainder of a is the largest.
    assert quotas({"a": 50, "b": 30, "c": 20}, 7) == {"a": 4, "b": 2, "c": 1}
    assert quotas({"a": 998, "b": 1, "c": 1}, 10) == {"a": 8, "b": 1, "c": 1}
    assert quotas({"a": 5, "b": 3, "c": 2}, 2) == {"a": 1, "b": 1, "c": 0}
    assert quotas({"a": 5, "b": 3}, 100) == {"a": 5, "b": 3}


@given(COUNTS, st.integers(1, 60), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_corpus_does_not_matter(counts, size, seed, shuffle):
    pairs = pairs_of(counts)
    expected = stratified(pairs, size, seed=seed)
    Random(shuffle).shuffle(pairs)
    assert stratified(iter(pairs), size, seed=seed) == expected
    assert Counter(pair.modality for pair in expected) == +Counter(quotas(counts, size))


def test_every_pair_is_as_likely_and_seeds_differ():
    pairs = pairs_of({"CT": 30, "MRI": 10})
    drawn = Counter(pair.id for seed in range(2000) for pair in stratified(pairs, 8, seed=seed))
    # Of 2,000 draws each pair is in a fifth: 400, with a standard deviation of 18; six of them for all 40.
    assert all(abs(drawn[pair.id] - 400) < 108 for pair in pairs)


def test_modalities_are_mixed():
    found = [pair.modality for pair in stratified(pairs_of({"CT": 500, "MRI": 500}), 200)]
    changes = sum(one != two for one, two in pairwise(found))
    assert 60 < changes < 140  # 100 by chance, standard deviation 7


def test_what_cannot_be_sampled():
    with pytest.raises(ConfigError, match="sample of 0"):
        stratified([], 0)
    assert stratified([], 5) == []
    [pair] = pairs_of({"CT": 1})
    with pytest.raises(DataError, match=f"id {pair.id} twice"):
        stratified([pair, pair], 5)
