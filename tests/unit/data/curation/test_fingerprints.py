"""Fingerprints: the same for copies, near for altered copies, apart for other images."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from unimedvl.data.curation.fingerprints import (
    difference,
    fingerprint,
    fingerprints,
    perceptual_hash,
    thumbs,
    unlike,
)
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError


def picture(seed: int, side: int = 160) -> Image.Image:
    """Smooth blobs with some fine grain: much energy at low frequencies, as medical images have."""
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    field = sum(
        weight * gaussian_filter(generator.normal(size=(side, side)), sigma) * sigma
        for sigma, weight in ((side / 8, 4), (side / 16, 2), (2, 0.3))
    )
    low, high = np.quantile(field, [0.01, 0.99])
    gray = np.clip(40 + 150 * (field - low) / (high - low), 0, 255).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


ALTERED = {
    "jpeg": lambda image: jpeg(image, 60),
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "double": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "gray": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("how", ALTERED)
def test_altered_copies_are_near(how):
    for seed in range(25):
        one, two = fingerprint(picture(seed)), fingerprint(ALTERED[how](picture(seed)))
        assert (one.perceptual ^ two.perceptual).bit_count() <= 6, seed
        assert difference(one, two) <= 0.002, seed
        # Gray of equal channels is the same picture.
        assert (one.exact == two.exact) == (how == "gray")


def test_other_images_are_apart():
    prints = [fingerprint(picture(seed)) for seed in range(120)]
    far = [
        ((one.perceptual ^ two.perceptual).bit_count(), difference(one, two))
        for number, one in enumerate(prints)
        for two in prints[:number]
    ]
    # Independent bits would agree in half of the 63, with a deviation of 4.
    assert np.mean([bits for bits, _ in far]) == pytest.approx(31.5, abs=2)
    assert min(bits for bits, _ in far) > 6
    assert min(unlikeness for _, unlikeness in far) > 0.1


def test_exact_hashes_tell_one_value_and_the_shape_apart():
    image = picture(0)
    pixels = np.array(image)
    pixels[5, 7, 1] ^= 1
    changed, other = Image.fromarray(pixels), Image.fromarray(np.array(image).reshape(80, 320, 3))
    assert len({fingerprint(one).exact for one in (image, changed, other)}) == 3
    assert fingerprint(image) == fingerprint(image.copy())


def test_the_file_format_changes_nothing(tmp_path):
    image = picture(1)
    for name in ("a.png", "a.bmp", "a.tif"):
        image.save(tmp_path / name)
    pair = Pair("1", "s", "understanding", images=tuple(str(tmp_path / name) for name in ("a.png", "a.bmp", "a.tif")))
    (found,) = fingerprints([pair])
    assert list(found) == list(pair.images)
    assert len(set(found.values())) == 1


def test_bits_of_one_wave():
    """A cosine of two half periods across and none down sets the bit of frequency (0, 2) and rounding none other."""
    columns = np.cos(np.pi * 2 * (np.arange(32) + 0.5) / 32)
    image = Image.fromarray(np.tile((128 + 100 * columns).astype(np.uint8), (32, 1)))
    assert perceptual_hash(image) >> (63 - 2) & 1
    assert perceptual_hash(image) >> 63 == 0


def test_a_hash_does_not_depend_on_brightness():
    dark = np.array(picture(2).convert("L")) // 2
    assert perceptual_hash(Image.fromarray(dark)) == perceptual_hash(Image.fromarray(dark + 100))


def test_plain_images_are_like_each_other_only():
    plain = [fingerprint(Image.new("RGB", (150, 150), color)) for color in ("black", "white")]
    assert difference(*plain) == 0
    assert difference(plain[0], fingerprint(picture(0))) == pytest.approx(1)


def test_unlike_against_correlation_written_out():
    generator = np.random.default_rng(0)
    one, two = generator.integers(0, 256, (2, 5, 256)).astype(np.uint8)
    expected = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(one, two, strict=True)]
    # float32 sums of 256 products.
    assert unlike(one, two) == pytest.approx(expected, abs=1e-5)


def test_faults(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such file"):
        fingerprints([Pair("1", "s", "understanding", images=(str(tmp_path / "none.png"),))])
    good = fingerprint(picture(0))
    with pytest.raises(DataError, match="3 bytes"):
        thumbs([good, type(good)(good.exact, 0, b"abc")])
    monkeypatch.setitem(sys.modules, "scipy.fft", None)
    with pytest.raises(ConfigError, match="scipy"):
        perceptual_hash(picture(0))
