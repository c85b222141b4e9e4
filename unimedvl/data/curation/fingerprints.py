"""Fingerprints of images: equal for equal pixels, near for near ones.

Of medical images a perceptual hash alone says little: neighboring slices, frames and even fundus photographs of
different eyes differ by a few bits. So a small standardized thumbnail is kept too, by which candidates are confirmed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
_BLOCK = 256  # thumbnails that are compared with others in step
_SAMPLED = 2048  # of a crowd, by which its direction is found
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
    return Fingerprint(exact_hash(image), perceptual_hash(image), _thumb(image))


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


def alike(
    thumbs_NP: NDArray[np.uint8], difference: float, seed: int, reach: int, most: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Places of pairs of thumbnails that differ by at most ``difference``, the smaller first, each at most once.

    The thumbnails are put in order along one direction in which they vary, drawn by ``seed``; near ones are then close
    by. So time and memory grow with their number, and of up to ``reach`` + 1 thumbnails no pair is missed.

    Args:
        reach: how many on either side each one is compared with.
        most: partners of each that are named, those of the smallest places.
    """
    order_N = np.argsort(_along(thumbs_NP, seed), kind="stable")
    for first in range(0, len(order_N), _BLOCK):
        rows_B = order_N[first : first + _BLOCK]
        places_C = np.arange(max(first - reach, 0), min(first + _BLOCK + reach, len(order_N)))
        places_C = places_C[np.argsort(order_N[places_C])]  # smallest places first
        columns_C = order_N[places_C]
        apart_BC = np.abs(places_C - np.arange(first, first + len(rows_B))[:, None])
        near_BC = (apart_BC <= reach) & (columns_C < rows_B[:, None])
        near_BC &= _unlike_all(thumbs_NP[rows_B], thumbs_NP[columns_C]) <= difference
        near_BC &= np.cumsum(near_BC, axis=1) <= most
        row_L, column_L = near_BC.nonzero()
        yield columns_C[column_L], rows_B[row_L]


def _along(thumbs_NP: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
    """Where each thumbnail lies on a random line that runs along what tells them apart."""
    step = max(len(thumbs_NP) // _SAMPLED, 1)
    sample_SP = _standard(thumbs_NP[::step])
    sample_SP -= sample_SP.mean(axis=0)
    random_P = np.random.default_rng(seed).normal(size=sample_SP.shape[1]).astype(np.float32)
    line_P = sample_SP.T @ (sample_SP @ random_P)
    blocks = range(0, len(thumbs_NP), _SAMPLED)
    return np.concatenate([_standard(thumbs_NP[first : first + _SAMPLED]) @ line_P for first in blocks])


def _unlike_all(one_NP: NDArray[np.uint8], two_MP: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As :func:`unlike` of each with each, float32 (N, M); equal ones are told by rounding."""
    unlike_NM = 1 - _standard(one_NP) @ _standard(two_MP).T
    unlike_NM[unlike_NM < 1e-6] = 0  # correlations are exact to some 1e-7
    return unlike_NM


def _standard(thumbs_NP: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnails of mean 0 and length 1; plain ones all the same, at right angles to all others."""
    centered_NP = thumbs_NP - thumbs_NP.mean(axis=1, keepdims=True, dtype=np.float32)
    length_N1 = np.linalg.norm(centered_NP, axis=1, keepdims=True)
    return np.where(length_N1 > 0, centered_NP / np.maximum(length_N1, 1e-6), 1 / _THUMB).astype(np.float32)


def exact_hash(image: Image.Image) -> str:
    """Of an RGB image: SHA-256 of its size and pixels, the same wherever its file lies."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _thumb(image: Image.Image) -> bytes:
    gray = np.asarray(image.convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX), np.float64)
    standard = (gray - gray.mean()) / max(gray.std(), 1e-6)
    return np.clip(np.rint(128 + _STEP * standard), 0, 255).astype(np.uint8).tobytes()
