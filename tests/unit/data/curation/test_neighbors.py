"""The search for near images against one over all pairs, and its time and memory."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.data.curation.fingerprints import Fingerprint, thumbs, unlike
from unimedvl.data.curation.neighbors import DuplicateSettings, bits, leaders, links, near, search
from unimedvl.errors import ConfigError

WIDE = DuplicateSettings(difference=2.0)


def print_of(number: int, exact: str = "") -> Fingerprint:
    return Fingerprint(exact or f"{number:064x}", number, bytes(range(256)))


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 6, 7, 10])
def test_all_near_pairs_are_found(distance):
    generator = np.random.default_rng(distance)
    hashes = generator.integers(0, 2**64, 400, dtype=np.uint64)
    for number in range(200, 400):  # copies with 0 to 12 flipped bits, anywhere
        flipped = generator.choice(64, number % 13, replace=False)
        hashes[number] = hashes[number - 200] ^ np.bitwise_or.reduce(
            np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0)
        )
    brute = {
        (one, two)
        for one in range(400)
        for two in range(one + 1, 400)
        if int(hashes[one] ^ hashes[two]).bit_count() <= distance
    }
    pairs = {
        (min(pair), max(pair))
        for one, two in near(hashes, distance)
        for pair in zip(one.tolist(), two.tolist(), strict=True)
    }
    assert pairs == brute
    assert len(pairs) > 10


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_bits_are_counted(values):
    assert bits(np.array(values, np.uint64)).tolist() == [value.bit_count() for value in values]


@given(st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda link: link[0] < link[1]), max_size=25))
@settings(max_examples=60)
def test_leaders_stand_for_what_is_near(near_pairs):
    ordered = sorted(near_pairs, key=lambda link: (link[1], link[0]))
    one, two = (np.array([link[side] for link in ordered], np.int64) for side in (0, 1))
    found = leaders(12, one, two).tolist()
    for number, leader in enumerate(found):
        assert found[leader] == leader
        assert leader == number or (leader, number) in near_pairs
    alone = [number for number, leader in enumerate(found) if number == leader]
    assert not any((one, two) in near_pairs for one in alone for two in alone)


def test_a_chain_is_not_one_group():
    """Slices of a volume, each near to the next one only: every second stays."""
    one, two = np.arange(5), np.arange(1, 6)
    assert leaders(6, one, two).tolist() == [0, 0, 2, 2, 4, 4]


def some_prints(count: int, *, every: int = 10) -> list[Fingerprint]:
    """The second half begins with near copies of the first ``count / every``."""
    hashes = np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)
    hashes[count // 2 : count // 2 + count // every] = hashes[: count // every] ^ np.uint64(0b1011 << 20)
    return [print_of(number, f"{place:064x}") for place, number in enumerate(hashes.tolist())]


def searched(prints, options=WIDE) -> tuple[float, float, int]:
    """Seconds, MB at the highest, and links that are found."""
    links(prints[:1000], options)
    began = time.perf_counter()
    one, two = links(prints, options)
    leaders(len(prints), one, two)
    seconds = time.perf_counter() - began
    tracemalloc.start()
    links(prints, options)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak, len(one)


def test_time_and_memory_grow_with_the_number():
    small, large = searched(some_prints(20_000)), searched(some_prints(200_000))
    assert (small[2], large[2]) == (2_000, 20_000)
    # Ten times as many: 100 times the work if all pairs were compared. Timings on a busy machine vary.
    assert large[0] < 30 * small[0]
    assert large[1] < 12 * small[1]


@pytest.mark.slow
def test_a_million(capsys):
    seconds, peak, found = searched(some_prints(1_000_000))
    with capsys.disabled():
        print(f"\n1,000,000 fingerprints at distance 6: {seconds:.1f} s, {peak:.0f} MB")
    assert found == 100_000
    assert seconds < 200
    assert peak < 1500  # the thumbnails alone have 256 MB, and twice that while they are laid side by side


def test_many_equal_hashes_take_linear_time():
    """Images of one hash, with thumbnails of two kinds, are compared with 256 others each."""
    kinds = [bytes(range(256)), bytes(range(255, -1, -1))]
    prints = [Fingerprint(f"{number:064x}", 7, kinds[number % 2]) for number in range(3_000)]
    began = time.perf_counter()
    one, two = links(prints, DuplicateSettings(0, 0.002))
    assert set(leaders(3_000, one, two).tolist()) >= {0, 1}
    assert (one % 2 == two % 2).all()
    assert len(one) <= 3_000 * 256
    # Some 770,000 comparisons of thumbnails.
    assert time.perf_counter() - began < 60


def crowd(count: int, gap: float = 1.2) -> list[Fingerprint]:
    """Thumbnails of one hash, or nearly so, of which some are near."""
    generator = np.random.default_rng(count)
    base = generator.normal(0, 24, 256) + 128
    thumbs = np.clip(np.rint(base + generator.normal(0, gap, (count, 256))), 0, 255).astype(np.uint8)
    return [Fingerprint(f"{n:064x}", n % 5 << 13, thumb.tobytes()) for n, thumb in enumerate(thumbs)]


def test_a_crowd_is_searched_as_by_hand():
    """500 images, all of which agree in most bands: the links are those of a search over all pairs."""
    prints = crowd(500, 0.8)
    low, high = np.triu_indices(500, 1)
    like = unlike(thumbs(prints)[low], thumbs(prints)[high]) <= 0.002  # the hashes differ by 2 bits at most
    near_to = set(zip(low[like].tolist(), high[like].tolist(), strict=True))
    one, two, partly = search(prints, DuplicateSettings())
    named = set(zip(one.tolist(), two.tolist(), strict=True))
    assert len(near_to) > 500
    # Of each image the 256 smallest are named; rounding may tell a pair at the very edge otherwise.
    expected = {(low, high) for low, high in near_to if sum((other, high) in near_to for other in range(low)) < 256}
    assert len(named ^ expected) <= 2
    assert not partly.any()


def test_crowds_take_linear_time_and_memory():
    options = DuplicateSettings(distance=2)
    small, large = searched(crowd(2_000), options), searched(crowd(10_000), options)
    assert search(crowd(2_000), options)[2].all()
    # Five times as many: 25 times the work if all pairs were compared. Timings on a busy machine vary.
    assert large[0] < 12 * small[0]
    assert large[1] < 8 * small[1]


@pytest.mark.parametrize("values", [{"distance": -1}, {"distance": 11}, {"difference": 3}, {"difference": -0.1}])
def test_settings_that_cannot_be(values):
    with pytest.raises(ConfigError, match="give 0 to"):
        DuplicateSettings(**values)
