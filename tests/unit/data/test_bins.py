from __future__ import annotations

import random
import statistics
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.data.bins import fullest


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9), budget=st.integers(30, 90))
def test_no_subset_is_fuller(lengths, budget):
    chosen = fullest(lengths, budget)
    total = sum(lengths[number] for number in chosen)
    rest = range(1, len(lengths))
    best = max(
        tokens
        for size in range(len(lengths))
        for others in combinations(rest, size)
        if (tokens := lengths[0] + sum(lengths[number] for number in others)) <= budget
    )
    assert total == best
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))


def simulated_length(rng: random.Random) -> int:
    """45 % questions about square images, 30 % text-to-image, 25 % edits."""
    kind, text = rng.random(), rng.randint(20, 200)

    def vit(side: int) -> int:
        return (round(max(378, side) / 14)) ** 2 + 2

    def vae(side: int) -> int:
        return (side // 16) ** 2 + 2

    if kind < 0.45:
        return vit(rng.randint(224, 980)) + text
    side = rng.randint(256, 1024)
    return vae(side) + text if kind < 0.75 else 2 * vae(side) + vit(min(side, 980)) + text


@pytest.mark.parametrize("budget", [11_520, 36_864])
def test_fill_on_the_simulated_mix(budget):
    """At least 98 % of the budget (the published rule: 80.5 % and 93.0 %); the longest edits pass the smaller one."""
    rng, window, fills = random.Random(0), [], []
    while len(fills) < 300:
        while len(window) < 32:
            length = simulated_length(rng)
            window += [length] if length <= budget else []
        chosen = fullest(window, budget)
        fills.append(sum(window[number] for number in chosen) / budget)
        window = [length for number, length in enumerate(window) if number not in set(chosen)]
    assert statistics.mean(fills) >= 0.98
