from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unimedvl.config import ModelConfig
from unimedvl.data.packing import pack
from unimedvl.data.records import ImageRef, Record, Turn
from unimedvl.data.tasks import Drafter, Dropout, TrainTransforms
from unimedvl.errors import ConfigError
from unimedvl.processor import ImageTransform
from unimedvl.types import DroppedImage, TextSegment, VaeSegment, VitSegment

TINY = ModelConfig.preset("tiny")
TRANSFORMS = TrainTransforms(ImageTransform(140, 28, 14, 140 * 140), ImageTransform(256, 32, 16))
NO_DROPOUT = Dropout(0, 0, 0)
INPUT, OTHER, OUTPUT = ImageRef("in"), ImageRef("other"), ImageRef("out")
SIZES = {"in": (90, 60), "other": (40, 200), "out": (64, 64)}


def read(ref):
    return Image.new("RGB", SIZES[ref.path], (len(ref.path) * 40, 0, 0)), f"key-{ref.path}"


def seeds(number=0):
    return np.random.SeedSequence([5, number])


def turns(*texts):
    return tuple(Turn("human" if number % 2 == 0 else "gpt", text) for number, text in enumerate(texts))


@pytest.fixture
def drafter(codec):
    return Drafter(codec, TINY, TRANSFORMS, NO_DROPOUT)


def layout(sample, codec):
    """Segments as words, with the text of texts."""
    words = []
    for segment in sample:
        if isinstance(segment, TextSegment):
            ids = segment.token_ids
            assert (ids[0], ids[-1]) == (codec.special.bos, codec.special.eos)
            words.append(f"{'L ' if segment.loss else ''}{codec.decode(list(ids))}")
        elif isinstance(segment, VaeSegment):
            words.append("target" if segment.noised else "clean")
        else:
            words.append("vit" if isinstance(segment, VitSegment) else "dropped")
    return words


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            Record("understanding", inputs=(INPUT,), turns=turns("<image>\nWhat?", "This.")),
            ["vit", "What?", "L This."],
        ),
        (
            Record(
                "understanding",
                inputs=(INPUT, OTHER),
                turns=turns("First <image> then <image> now?", "A.", "And?", "B."),
            ),
            ["First", "vit", "then", "vit", "now?", "L A.", "And?", "L B."],
        ),
        (Record("text", inputs=(INPUT,), turns=turns("<image>Say.", "Yes.")), ["Say.", "L Yes."]),
        (Record("t2i", outputs=(OUTPUT,), turns=turns("Make.")), ["Make.", "target"]),
        (Record("t2i", outputs=(OUTPUT,), turns=turns("Make.", "Plan.")), ["Make.", "L Plan.", "target"]),
        (
            Record("edit", inputs=(INPUT,), outputs=(OUTPUT,), turns=turns("<image>Turn.", "Turned.")),
            ["clean", "vit", "Turn.", "L Turned.", "target"],
        ),
        (
            Record("edit", inputs=(INPUT, OTHER), outputs=(OUTPUT,), turns=turns("Join.")),
            ["clean", "vit", "clean", "vit", "Join.", "target"],
        ),
        (
            Record("counterfactual", inputs=(INPUT,), outputs=(OUTPUT,), turns=turns("Show.", "Because.")),
            ["clean", "vit", "Show.", "target", "L Because."],
        ),
        (
            Record("reconstruction", inputs=(INPUT, OTHER), turns=turns("Repeat.", "So.")),
            ["clean", "vit", "clean", "vit", "Repeat.", "L So.", "target", "target"],
        ),
    ],
)
def test_segments_of_a_family(record, expected, drafter, codec):
    draft = drafter.draft(record, read, seeds())
    sample = drafter.realize(draft, seeds())
    assert layout(sample, codec) == expected
    assert draft.tokens == pack([sample], TINY, codec.special).length


def test_both_encoders_start_from_the_original_image(drafter):
    record = Record("edit", inputs=(INPUT,), outputs=(OUTPUT,), turns=turns("Turn."))
    clean, vit, _, target = drafter.realize(drafter.draft(record, read, seeds()), seeds())
    image, _ = read(INPUT)
    assert torch.equal(clean.pixels, TRANSFORMS.vae(image))
    assert torch.equal(vit.pixels, TRANSFORMS.vit(image))
    assert target.pixels.shape == (3, 64, 64)


def test_images_of_one_record_share_the_pixels(codec):
    transforms = TrainTransforms(ImageTransform(140, 28, 14, 98 * 98), TRANSFORMS.vae)
    drafter = Drafter(codec, TINY, transforms, NO_DROPOUT)
    big = {"in": (500, 500)}

    def read_big(ref):
        return Image.new("RGB", big["in"]), ""

    one = drafter.draft(Record("understanding", inputs=(INPUT,), turns=turns("<image>?", "A.")), read_big, seeds())
    two = drafter.draft(
        Record("understanding", inputs=(INPUT, INPUT), turns=turns("<image><image>?", "A.")), read_big, seeds()
    )
    assert (one.pieces[0].pixels.size, two.pieces[0].pixels.size) == ((70, 70), (28, 28))


def rates(drafter, record, count=4000):
    """How often each segment of a record was dropped."""
    dropped, texts = Counter(), Counter()
    for number in range(count):
        draft = drafter.draft(record, read, seeds(number))
        for place, piece in enumerate(draft.pieces):
            dropped[place] += isinstance(piece, DroppedImage)
        texts[sum(not isinstance(piece, DroppedImage) and hasattr(piece, "ids") for piece in draft.pieces)] += 1
    return {place: times / count for place, times in dropped.items()}, {n: c / count for n, c in texts.items()}


def test_dropout_rates(codec, monkeypatch):
    """Three standard deviations of a binomial of 4,000 draws: 0.01 at 5 %, 0.022 at 30 %."""
    monkeypatch.setattr("tests.unit.data.test_tasks.SIZES", dict.fromkeys(SIZES, (28, 28)), raising=False)
    drafter = Drafter(codec, TINY, TRANSFORMS, Dropout())
    _, texts = rates(drafter, Record("t2i", outputs=(OUTPUT,), turns=turns("Make.")))
    assert texts[0] == pytest.approx(0.3, abs=0.022)
    vit, texts = rates(drafter, Record("understanding", inputs=(INPUT,), turns=turns("<image>?", "A.")))
    assert vit[0] == pytest.approx(0.05, abs=0.011)
    assert texts == {2: 1.0}
    edit = Record("edit", inputs=(INPUT,), outputs=(OUTPUT,), turns=turns("Turn.", "So."))
    dropped, texts = rates(drafter, edit, 300)
    assert not any(dropped.values())
    assert texts == {2: 1.0}
    dropped, texts = rates(Drafter(codec, TINY, TRANSFORMS, Dropout(edits=True)), edit)
    assert dropped[0] == pytest.approx(0.05, abs=0.011)
    assert dropped[1] == pytest.approx(0.05, abs=0.011)
    assert texts[1] == pytest.approx(0.3, abs=0.022)


def test_a_caption_is_drawn_for_each_visit(drafter, codec):
    record = Record("t2i", outputs=(OUTPUT,), captions=("one", "two", "three"))
    drawn = [drafter.draft(record, read, seeds(number)).pieces[0].ids for number in range(60)]
    assert {codec.decode(list(ids)) for ids in drawn} == {"one", "two", "three"}
    assert drawn[7] == drafter.draft(record, read, seeds(7)).pieces[0].ids


@given(number=st.integers(0, 10_000), shift=st.sampled_from([1.0, 3.0]))
@settings(max_examples=20, deadline=None)
def test_a_sample_is_a_function_of_its_seeds(codec, number, shift):
    record = Record("edit", inputs=(INPUT,), outputs=(OUTPUT,), turns=turns("Turn.", "So."))
    drafter = Drafter(codec, TINY, TRANSFORMS, Dropout(edits=True), shift=shift)
    first, second = (drafter.realize(drafter.draft(record, read, seeds(number)), seeds(number), None) for _ in range(2))
    for mine, its in zip(first, second, strict=True):
        if isinstance(mine, VaeSegment):
            assert mine.timestep == its.timestep
            assert torch.equal(mine.eps, its.eps)
            assert mine.noise is its.noise is None or torch.equal(mine.noise, its.noise)
        elif isinstance(mine, TextSegment):
            assert mine == its


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_timesteps_follow_the_shifted_logistic_normal(codec, shift):
    """P(t <= x) = Phi(logit(x) - log(shift)), to the 99.9 % quantile of Kolmogorov's statistic."""
    drafter = Drafter(codec, TINY, TRANSFORMS, NO_DROPOUT, shift=shift)
    record = Record("t2i", outputs=(OUTPUT,), turns=turns("Make."))
    draft = drafter.draft(record, read, seeds())
    count = 1500
    t = torch.tensor([drafter.realize(draft, seeds(n))[-1].timestep for n in range(count)], dtype=torch.float64)
    expected = torch.special.ndtr(torch.logit(t.sort().values) - torch.log(torch.tensor(shift)))
    steps = torch.arange(1, count + 1) / count
    assert (expected - steps).abs().max() < 1.95 / count**0.5


def test_noise_of_two_positions_differs_and_is_normal(drafter):
    record = Record("t2i", outputs=(OUTPUT,), turns=turns("Make."))
    draft = drafter.draft(record, read, seeds())
    one, two = (drafter.realize(draft, seeds(number))[-1] for number in (1, 2))
    assert not torch.equal(one.noise, two.noise)
    assert not torch.equal(one.noise, one.eps)
    many = torch.stack([drafter.realize(draft, seeds(number))[-1].noise for number in range(50)])
    assert many.mean().abs() < 0.05
    assert many.std() == pytest.approx(1, abs=0.05)


def test_cached_moments_give_the_latent_that_the_autoencoder_would(drafter, tiny_autoencoder, codec):
    from unimedvl.model.vae import encode_latents

    record = Record("edit", inputs=(INPUT,), outputs=(OUTPUT,), turns=turns("Turn."))
    draft = drafter.draft(record, read, seeds())
    kept = {}
    plain = pack([drafter.realize(draft, seeds())], TINY, codec.special)
    encoded = encode_latents(plain, tiny_autoencoder, TINY, lambda key, *moments: kept.update({key: moments}))
    assert set(kept) == {"key-in-96x64", "key-out-64x64"}
    cached = pack([drafter.realize(draft, seeds(), kept.get)], TINY, codec.special)
    assert cached.pending == ()
    assert torch.equal(cached.noise, encoded.noise)
    assert torch.equal(cached.timesteps, encoded.timesteps)
    torch.testing.assert_close(cached.latents, encoded.latents, atol=1e-6, rtol=0)  # one multiplication apart


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (
            TrainTransforms(ImageTransform(154, 28, 14), TRANSFORMS.vae),
            "transforms.vit.*sides up to 140 in steps of 14",
        ),
        (TrainTransforms(TRANSFORMS.vit, ImageTransform(272, 32, 16)), "transforms.vae.*sides up to 256"),
        (TrainTransforms(ImageTransform(140, 28, 16), TRANSFORMS.vae), "stride 16"),
        (TrainTransforms(ImageTransform(28, 140, 14), TRANSFORMS.vae), "sides 140 to 28"),
    ],
)
def test_transforms_that_the_model_cannot_take(codec, transforms, message):
    with pytest.raises(ConfigError, match=message):
        Drafter(codec, TINY, transforms, NO_DROPOUT)


def test_chances_that_cannot_work(codec):
    with pytest.raises(ConfigError, match=r"chance 1.5 \(dropout.text\)"):
        Dropout(text=1.5)
    with pytest.raises(ConfigError, match="timestep shift 0"):
        Drafter(codec, TINY, TRANSFORMS, NO_DROPOUT, shift=0.0)
