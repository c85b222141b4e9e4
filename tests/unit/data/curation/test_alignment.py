"""The alignment score against sums written out, with stand-in back-ends and with planted wrong captions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unimedvl.data.curation.alignment import (
    AlignmentSettings,
    Measured,
    combine,
    measurable,
    measure,
    normalized,
)
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.selection import SelectionSettings, select
from unimedvl.errors import ConfigError, DataError

WORDS = ("chest", "brain", "retina", "colon", "liver", "tissue", "heart", "hand")


@dataclass
class BagOfWords:
    """Counts of known words, normalized; an extra place keeps texts without any from having no direction."""

    name: str = "bag"
    seen: list[str] = field(default_factory=list)

    def embed(self, texts):
        self.seen += texts
        rows = np.array([[*(word in text for word in WORDS), 0.1] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass
class ByGray:
    """Knows the word of an image by its gray value; of each image one of ``count`` captions is right."""

    name: str = "gray"
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    def captions(self, images, keys, count, seed):
        self.asked += [(key, count, seed) for key in keys]
        words = [WORDS[image.getpixel((0, 0))[0] // 30] for image in images]
        return [["nothing known", f"an image of the {word}", *[""] * (count - 2)] for word in words]


@dataclass
class Fits:
    name: str = "fits"

    def scores(self, images, texts):
        return [
            float(WORDS[image.getpixel((0, 0))[0] // 30] in text) for image, text in zip(images, texts, strict=True)
        ]


def corpus(folder, count: int = 16, wrong=frozenset()) -> list[Pair]:
    pairs = []
    for number in range(count):
        word = number % len(WORDS)
        file = folder / f"{number}.png"
        Image.new("RGB", (20, 20), (30 * word + 5,) * 3).save(file)
        named = WORDS[(word + 3) % len(WORDS)] if number in wrong else WORDS[word]
        family = (
            {"family": "understanding", "images": (str(file),)}
            if number % 2
            else {"family": "t2i", "target": str(file)}
        )
        pairs.append(
            Pair(f"{number:016x}", "s", text=f"Picture {number} of the {named}.", modality="AB"[word % 2], **family)
        )
    return pairs


def raw(pair: str, similarity: float, fit: float | None = None, modality: str = "CT", by=("c", "e", "s")) -> Measured:
    return Measured(pair, modality, similarity, fit, "caption", by)


def test_the_nearest_caption_counts(tmp_path):
    pairs = corpus(tmp_path, wrong={3})
    found = measure(pairs, ByGray(), BagOfWords(), Fits())
    assert [one.pair for one in found] == [pair.id for pair in pairs]
    assert [one.fit for one in found] == [0.0 if number == 3 else 1.0 for number in range(16)]
    right = next(one for one in found if one.pair == pairs[0].id)
    assert (right.similarity, right.caption) == (pytest.approx(1), "an image of the chest")
    # One word of each and the extra place: 0.1 * 0.1 / (1 + 0.01).
    assert found[3].similarity == pytest.approx(max(0.01 / 1.01, 0.1 / math.sqrt(1.01)))
    assert found[0].by == ("gray", "bag", "fits")


def test_captions_are_written_once_an_image(tmp_path):
    pairs = corpus(tmp_path, 1)
    twice = [*pairs, Pair("f" * 16, "s", "understanding", text="The brain of it", images=(pairs[0].picture,))]
    captioner = ByGray()
    assert len(measure(twice, captioner, BagOfWords(), settings=AlignmentSettings(captions=3, seed=7))) == 2
    ((_, count, seed),) = captioner.asked
    assert (count, seed) == (3, 7)


def test_an_image_is_asked_for_by_its_pixels_whatever_the_part(tmp_path):
    pairs = corpus(tmp_path, 8)
    again = [
        Pair(f"a{number}", "s", "understanding", text="A brain", images=(pair.picture,))
        for number, pair in enumerate(pairs)
    ]
    mixed = [*again[4:], *pairs, *again[:4]]

    def keys(parts):
        captioner = ByGray()
        for part in parts:
            measure(part, captioner, BagOfWords())
        return {key for key, *_ in captioner.asked}

    whole = keys([mixed])
    assert len(whole) == 8
    for size in (1, 3, 7):
        assert keys(mixed[first : first + size] for first in range(0, len(mixed), size)) == whole
    (tmp_path / "moved").mkdir()
    assert keys([corpus(tmp_path / "moved", 8)]) == whole
    assert not keys([corpus(tmp_path, 1)]) - whole
    Image.new("RGB", (40, 10), (5,) * 3).save(pairs[0].picture)  # as many pixels of the same gray
    assert not keys([pairs[:1]]) & whole


def test_chunks_change_nothing(tmp_path):
    pairs = corpus(tmp_path)
    whole = measure(pairs, ByGray(), BagOfWords(), Fits())
    assert [
        one for first in range(0, 16, 5) for one in measure(pairs[first : first + 5], ByGray(), BagOfWords(), Fits())
    ] == whole


def test_what_can_be_measured():
    good = {"id": "1", "source": "s", "family": "understanding", "text": "A chest", "images": ("a.png",)}
    assert measurable(Pair(**good))
    for change in ({"family": "edit", "target": "b.png"}, {"text": " "}, {"family": "text"}, {"images": ()}):
        assert not measurable(Pair(**{**good, **change}))
    assert measure([Pair(**{**good, "text": ""})], ByGray(), BagOfWords()) == []


def test_the_formula():
    """Half of the normalized S plus the normalized M."""
    found = combine([raw("a", 0.2, 10), raw("b", 0.6, 30), raw("c", 0.4, 20)])
    assert [one.score for one in found] == pytest.approx([0, 1.5, 0.75])
    assert [one.score for one in combine([raw("a", 0.2), raw("b", 0.6), raw("c", 0.3)])] == pytest.approx(
        [0, 0.5, 0.125]
    )
    assert "no M" in combine([raw("a", 0.2)])[0].detail
    assert "M 1.0000 (30.0000 by s)" in found[1].detail


def test_facts_pass_through_json():
    for one in (raw("a", 0.25, 1.5), raw("b", 0.5)):
        assert Measured.from_facts(json.loads(json.dumps(one.facts()))) == one
    for wrong in ({}, {"by": ["c", "e", "s"]}, {**raw("a", 0.5).facts(), "more": 1}):
        with pytest.raises(DataError, match="no facts"):
            Measured.from_facts(wrong)


def test_per_modality():
    mixed = [raw("a", 0.9, 1, "CT"), raw("b", 0.8, 0, "CT"), raw("c", 0.2, 0, "MRI"), raw("d", 0.1, 1, "MRI")]
    found = combine(mixed, AlignmentSettings(per_modality=True))
    assert [one.similarity for one in found] == [1, 0, 1, 0]
    assert combine(mixed)[2].similarity == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("how", "values", "expected"),
    [
        ("min-max", [1, 3, 2], [0, 1, 0.5]),
        ("min-max", [4, 4], [0.5, 0.5]),
        ("min-max", [], []),
        ("rank", [1, 100, 2], [0, 1, 0.5]),
        ("rank", [5, 1, 5, 9], [0.5, 0, 0.5, 1]),
        ("rank", [7], [0.5]),
        ("rank", [], []),
    ],
)
def test_normalizing(how, values, expected):
    assert normalized(values, how).tolist() == pytest.approx(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.sampled_from(["min-max", "rank"]))
def test_normalizing_keeps_the_order_within_bounds(values, how):
    found = normalized(values, how)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(values, kind="stable")]) >= 0).all()


def test_planted_wrong_captions(tmp_path):
    """Of 200 pairs 40 have a caption of another organ; the worst fifth is dropped."""
    wrong = set(range(0, 200, 5))
    pairs = corpus(tmp_path, 200, wrong)
    for scorer in (None, Fits()):
        decisions = select(combine(measure(pairs, ByGray(), BagOfWords(), scorer)), SelectionSettings(0.8))
        dropped = {int(one.pair, 16) for one in decisions if one.action == "drop"}
        assert dropped == wrong


@pytest.mark.parametrize("change", [{"similarity": math.nan}, {"fit": math.inf}])
def test_values_that_are_no_numbers(change):
    with pytest.raises(DataError, match="pair a"):
        combine([Measured(**{**vars(raw("a", 0.5, 1.0)), **change})])


def test_back_ends_must_be_the_same_for_all():
    with pytest.raises(DataError, match="different back-ends"):
        combine([raw("a", 0.5, 1.0), raw("b", 0.5, 1.0, by=("other", "e", "s"))])
    with pytest.raises(DataError, match="different back-ends"):
        combine([raw("a", 0.5, 1.0), raw("b", 0.5)])
    assert combine([]) == []


def test_back_ends_that_answer_too_little(tmp_path):
    pairs = corpus(tmp_path, 2)
    short, flat = ByGray(), BagOfWords()
    short.captions = lambda images, keys, count, seed: [["one"] for _ in images]
    with pytest.raises(DataError, match=r"2 captions, not 5 of each of 2 images \(gray\)"):
        measure(pairs, short, BagOfWords())
    flat.embed = lambda texts: np.zeros((1, 3), np.float32)
    with pytest.raises(DataError, match="shape"):
        measure(pairs, ByGray(), flat)


@pytest.mark.parametrize("values", [{"captions": 0}, {"weight": 0}, {"weight": math.inf}, {"normalization": "z"}])
def test_settings_that_cannot_be(values):
    with pytest.raises(ConfigError, match="alignment"):
        AlignmentSettings(**values)
