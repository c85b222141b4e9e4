"""Duplicates against a search over all pairs, and on a corpus with planted copies and leaks."""

from __future__ import annotations

import json
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from unimedvl.data.curation.duplicates import (
    DuplicateSettings,
    Entry,
    bits,
    duplicates,
    entry,
    leaders,
    links,
    near,
    normalized,
)
from unimedvl.data.curation.fingerprints import Fingerprint, fingerprints
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError

WIDE = DuplicateSettings(difference=2.0)


def blobs(seed: int, side: int = 128) -> Image.Image:
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    field = gaussian_filter(generator.normal(size=(side, side)), 10)
    low, high = np.quantile(field, [0.01, 0.99])
    gray = np.clip(30 + 160 * (field - low) / (high - low), 0, 255)
    return Image.fromarray((gray + generator.normal(0, 3, gray.shape)).clip(0, 255).astype(np.uint8))


def print_of(number: int, exact: str = "") -> Fingerprint:
    return Fingerprint(exact or f"{number:064x}", number, bytes(range(256)))


def item(pair: str, *images: Fingerprint, split: str = "train", key: str = "k") -> Entry:
    return Entry(pair, split, key.encode(), images)


def found(entries, options=WIDE) -> dict[str, tuple[str, str]]:
    return {one.pair: (one.reason, one.detail.split()[-1]) for one in duplicates(entries, options)}


# --- near pairs --------------------------------------------------------------------------------------------


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


def searched(prints) -> tuple[float, float, int]:
    """Seconds, MB at the highest, and links that are found."""
    links(prints[:1000], WIDE)
    began = time.perf_counter()
    one, two = links(prints, WIDE)
    leaders(len(prints), one, two)
    seconds = time.perf_counter() - began
    tracemalloc.start()
    links(prints, WIDE)
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


# --- pairs -------------------------------------------------------------------------------------------------


def test_the_first_of_equal_pairs_stays():
    image, near_it = print_of(0), print_of(0b111)
    entries = [item("a", image), item("b", image), item("c", near_it), item("d", print_of(2**40 - 1))]
    assert found(entries) == {"b": ("exact duplicate", "a"), "c": ("near duplicate", "a")}
    assert found(entries[::-1]) == {"b": ("near duplicate", "c"), "a": ("near duplicate", "c")}


def test_other_questions_about_an_image_stay():
    assert not found([item("a", print_of(0), key="one"), item("b", print_of(0), key="two")])


@pytest.mark.parametrize("order", [1, -1])
def test_no_image_stands_in_two_splits(order):
    entries = [
        item("train", print_of(1), key="1"),
        item("near", print_of(3), key="2"),
        item("validation", print_of(1), split="validation", key="3"),
        item("test", print_of(1), split="test", key="4"),
        item("other", print_of(2**50 - 1), key="5"),
        item("held", print_of(2**63 - 2**20), split="validation", key="6"),
        item("leaked", print_of(2**63 - 2**20), key="6"),
    ][::order]
    assert found(entries) == {
        "train": ("leaked from test", "test"),
        "near": ("leaked from test", "test"),
        "validation": ("leaked from test", "test"),
        "leaked": ("leaked from validation", "held"),
    }


def test_leaks_do_not_pass_through_a_third():
    """The last is near to the second only, which leaks, and not to the held-out one."""
    one, two, three = print_of(0), print_of(0b11111), print_of(0b11111_11111)
    entries = [item("a", one, split="test"), item("b", two), item("c", three)]
    assert found(entries) == {"b": ("leaked from test", "a")}
    # Near to a held-out image that is itself near to another one.
    entries = [item("a", one, split="test"), item("b", two, split="test", key="x"), item("c", three)]
    assert found(entries) == {"c": ("leaked from test", "b")}


def test_any_image_of_a_pair_leaks():
    fresh, held = print_of(2**50 - 1), print_of(0)
    entries = [item("a", fresh, held), item("b", held, split="test")]
    assert found(entries) == {"a": ("leaked from test", "b")}


def test_facts_pass_through_json():
    one = item("a", print_of(2**64 - 1), print_of(3), split="test", key="\x00\xff")
    assert Entry.from_facts("a", json.loads(json.dumps(one.facts()))) == one
    for wrong in ({}, {**one.facts(), "images": [["x"]]}, {**one.facts(), "key": "no hex"}):
        with pytest.raises(DataError, match="pair a"):
            Entry.from_facts("a", wrong)


def test_a_hash_alone_makes_no_duplicate():
    """Two pictures of one hash and of different thumbnails."""
    other = Fingerprint("f" * 64, 0, bytes(range(255, -1, -1)))
    assert not found([item("a", print_of(0)), item("b", other)], DuplicateSettings())
    assert found([item("a", print_of(0)), item("b", other)], WIDE)


def test_pairs_without_images():
    assert found([item("a"), item("b"), item("c", key="x")]) == {"b": ("exact duplicate", "a")}
    assert not found([])


def test_what_makes_pairs_the_same():
    files = {"i": print_of(1), "m": print_of(2), "n": print_of(3)}

    def key(**values):
        return entry(Pair("x", "s", **{"family": "understanding", "images": ("i",), **values}), files).key

    assert key(text="Chest X-ray.") == key(text="chest  x ray")
    assert key(question="Where?", text="Left") == key(question="where", text="Right")
    assert key(text="left") != key(text="right")
    assert key(text="left") != key(text="left", family="t2i")
    masks = [
        entry(Pair("x", "s", "edit", "segmentation", images=("i",), target=mask, text="t"), files) for mask in "mn"
    ]
    assert masks[0].key != masks[1].key
    assert masks[0].images == (files["i"],)
    assert entry(Pair("x", "s", "edit", "translation", images=("i",), target="m"), files).images == (
        files["i"],
        files["m"],
    )
    assert entry(Pair("x", "s", "t2i", target="i"), files).split == "train"


@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalized(normalized(text)) == normalized(text)


def test_planted_copies_and_leaks(tmp_path):
    """180 different images and 20 planted: precision and recall are both 1 here."""
    pairs, truth = [], {}
    for number in range(180):
        file = tmp_path / f"{number}.png"
        blobs(number).save(file)
        split = "test" if number >= 160 else "train"
        pairs.append(Pair(f"{number:016x}", "s", "understanding", split=split, text=f"t{number}", images=(str(file),)))
    altered = [
        lambda image, file: image.save(file.with_suffix(".png")),
        lambda image, file: image.save(file.with_suffix(".jpg"), quality=70),
        lambda image, file: image.resize((200, 200)).save(file.with_suffix(".png")),
        lambda image, file: ImageEnhance.Brightness(image).enhance(0.85).save(file.with_suffix(".png")),
    ]
    for number in range(20):
        of, change = (number if number < 12 else 150 + number), altered[number % 4]
        change(blobs(of), tmp_path / f"copy{number}")
        (file,) = tmp_path.glob(f"copy{number}.*")
        same = Pair(f"{1000 + number:016x}", "s", "understanding", text=f"t{of}", images=(str(file),), split="train")
        pairs.append(same)
        kind = "exact duplicate" if number % 4 == 0 else "near duplicate"
        truth[same.id] = "leaked from test" if of >= 160 else kind
    entries = [entry(pair, prints) for pair, prints in zip(pairs, fingerprints(pairs), strict=True)]
    assert {one.pair: one.reason for one in duplicates(entries)} == truth
    assert sum(reason == "leaked from test" for reason in truth.values()) == 8


@pytest.mark.parametrize("values", [{"distance": -1}, {"distance": 11}, {"difference": 3}, {"difference": -0.1}])
def test_settings_that_cannot_be(values):
    with pytest.raises(ConfigError, match="give 0 to"):
        DuplicateSettings(**values)
