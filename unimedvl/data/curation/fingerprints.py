"""Fingerprints of images: equal for equal pixels, near for near ones.

Of medical images a perceptual hash alone says little: neighboring slices, frames and even fundus photographs of
different eyes differ by a few bits. So a small standardized thumbnail is kept too, by which candidates are confirmed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import read_image, to_rgb

_HASHED = 32  # side of the picture that is transformed
_LOW = 8  # of its frequencies along each axis that make the 64 bits
_THUMB = 16
_STEP = 24.0  # levels of a thumbnail's byte for one standard deviation; 128 is the mean


@dataclass(frozen=True)
class Fingerprint:
    """What images are compared by.

    Attributes:
        exact: 64 hexadecimal digits, SHA-256 of the decoded RGB pixels and their size.
        perceptual: 64 bits of the lowest spatial frequencies; robust to size, JPEG and brightness.
        thumb: 256 bytes, gray at 16 x 16, standardized to mean 128 and deviation 24.
    """

    exact: str
    perceptual: int
    thumb: bytes


def fingerprint(image: Image.Image) -> Fingerprint:
    """The fingerprint of an 8-bit image.

    Raises:
        ConfigError: scipy is absent.
    """
    image = to_rgb(image)
    return Fingerprint(_exact(image), perceptual_hash(image), _thumb(image))


def fingerprints(pairs: Sequence[Pair]) -> list[dict[str, Fingerprint]]:
    """Of each pair, its files and their fingerprints, a file that several name being read once.

    Raises:
        DataError: a file cannot be read; the coarse filter drops such pairs before.
    """
    files = dict.fromkeys(file for pair in pairs for file in (*pair.images, pair.target) if file)
    found = {file: fingerprint(read_image(file).image) for file in files}
    return [{file: found[file] for file in (*pair.images, pair.target) if file} for pair in pairs]


def perceptual_hash(image: Image.Image) -> int:
    """64 bits, the first being the highest: which of the 8 x 8 lowest cosine frequencies lie above their median.

    The constant one, the brightness, neither counts nor sets a bit.
    """
    try:
        from scipy.fft import dctn
    except ImportError as error:
        remedy = "pip install 'unimedvl[eval]'"
        raise ConfigError("perceptual hashes need scipy", where="fingerprints", remedy=remedy) from error
    gray = image.convert("L").resize((_HASHED, _HASHED), Image.Resampling.LANCZOS)
    waves_F = np.asarray(dctn(np.asarray(gray, np.float64), norm="ortho"))[:_LOW, :_LOW].ravel()
    bits_F = waves_F > np.median(waves_F[1:])
    bits_F[0] = False
    return int.from_bytes(np.packbits(bits_F).tobytes(), "big")


def difference(one: Fingerprint, two: Fingerprint) -> float:
    """How unlike two thumbnails are: 1 - correlation, 0 to 2."""
    thumbs_2P = thumbs([one, two])
    return float(unlike(thumbs_2P[:1], thumbs_2P[1:])[0])


def thumbs(prints: Sequence[Fingerprint]) -> NDArray[np.uint8]:
    """uint8 (N, 256).

    Raises:
        DataError: a thumbnail has another length.
    """
    if wrong := next((one for one in prints if len(one.thumb) != _THUMB**2), None):
        raise DataError(f"a thumbnail of {len(wrong.thumb)} bytes", where="fingerprints", remedy="take them again")
    return np.frombuffer(b"".join(one.thumb for one in prints), np.uint8).reshape(-1, _THUMB**2)


def unlike(one_NP: NDArray[np.uint8], two_NP: NDArray[np.uint8]) -> NDArray[np.float32]:
    """1 - correlation of thumbnails row by row, float32 (N,), 0 to 2; of two plain ones 0, of a plain and another 1."""
    one = one_NP.astype(np.float32) - one_NP.mean(axis=1, keepdims=True, dtype=np.float32)
    two = two_NP.astype(np.float32) - two_NP.mean(axis=1, keepdims=True, dtype=np.float32)
    squares_N = np.square(one).sum(axis=1) * np.square(two).sum(axis=1)
    plain_N = (one_NP == two_NP).all(axis=1)
    return np.where(plain_N, 0, 1 - (one * two).sum(axis=1) / np.sqrt(np.maximum(squares_N, 1e-12))).astype(np.float32)


def _exact(image: Image.Image) -> str:
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _thumb(image: Image.Image) -> bytes:
    gray = np.asarray(image.convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX), np.float64)
    standard = (gray - gray.mean()) / max(gray.std(), 1e-6)
    return np.clip(np.rint(128 + _STEP * standard), 0, 255).astype(np.uint8).tobytes()
