"""Near images among many: which of all fingerprints resemble each other, and who stands for whom.

Time and memory grow with the number of images, not with that of their pairs: hashes are sorted by some of their bits
at a time, so that only those which agree there are compared. Where a crowd agrees, as pictures of one kind do, its
thumbnails are put in order, and close ones compared.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimedvl.data.curation.fingerprints import Fingerprint, alike, thumbs, unlike
from unimedvl.errors import ConfigError

_REACH = 256  # hashes that one is compared with, of those with the same bands; more are a crowd
_CROWD = 512  # thumbnails of a crowd that one is compared with on either side
_AT_ONCE = 65_536  # thumbnails that are compared in step
_ONES = np.array([number.bit_count() for number in range(2**16)], np.uint8)


@dataclass(frozen=True)
class DuplicateSettings:
    """What counts as near.

    Attributes:
        distance: bits of the perceptual hash in which two images may differ, 0 to 10.
        difference: 1 - correlation of their thumbnails, at most; copies by JPEG, resizing or contrast stay below
            0.002, while most neighboring slices and frames lie above.
    """

    distance: int = 6
    difference: float = 0.002

    def __post_init__(self) -> None:
        if not 0 <= self.distance <= 10:
            raise ConfigError(f"distance {self.distance}", where="duplicates", remedy="give 0 to 10 of 64 bits")
        if not 0 <= self.difference <= 2:
            raise ConfigError(f"difference {self.difference}", where="duplicates", remedy="give 0 to 2")


def links(prints: Sequence[Fingerprint], settings: DuplicateSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of all near pairs of images, each once, the smaller one first; sorted by the larger, then the smaller.

    Of images that more than 256 others are near to, at least the 256 smallest of those that were found.
    """
    one_L, two_L, _ = search(prints, settings)
    return one_L, two_L


def search(
    prints: Sequence[Fingerprint], settings: DuplicateSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """See :func:`links`; and for each image whether it was compared with a part only of those that may be near."""
    count = len(prints)
    hashes_N = np.array([image.perceptual for image in prints], np.uint64)
    thumbs_NP = thumbs(prints)
    crowds: list[NDArray[np.int32]] = []
    held = np.zeros(0, np.int64)
    waiting: list[NDArray[np.int64]] = []
    codes = 0
    for low, high in itertools.chain(
        _confirmed(near(hashes_N, settings.distance, crowds), thumbs_NP, settings.difference),
        _in_crowds(crowds, hashes_N, thumbs_NP, settings),
    ):
        if not len(low):
            continue
        waiting.append(high.astype(np.int64) * count + low)
        codes += len(low)
        if codes > max(len(held), count + _AT_ONCE):
            held, waiting, codes = _merged(held, waiting, count), [], 0
    held = _merged(held, waiting, count)
    partly_N = np.zeros(count, np.bool_)
    for places in crowds:
        partly_N[places] |= len(places) > _CROWD + 1
    return held % max(count, 1), held // max(count, 1), partly_N


def _merged(held: NDArray[np.int64], waiting: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """Codes of pairs, each once, sorted, the first ones of each image."""
    codes = np.sort(np.concatenate([held, *waiting]))  # np.unique takes ten times as long where few are new
    codes = codes[np.flatnonzero(np.diff(codes, prepend=-1))]
    larger = codes // max(count, 1)
    return codes[np.arange(len(codes)) - np.searchsorted(larger, larger) < _REACH]


Pairs = Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]
"""Places of the one and the other of pairs, in batches."""


def _confirmed(pairs: Pairs, thumbs_NP: NDArray[np.uint8], difference: float) -> Pairs:
    """Those whose thumbnails are near, the smaller place first."""
    for one, two in pairs:
        for first in range(0, len(one), _AT_ONCE):
            some, others = one[first : first + _AT_ONCE], two[first : first + _AT_ONCE]
            like = unlike(thumbs_NP[some], thumbs_NP[others]) <= difference
            yield np.minimum(some, others)[like], np.maximum(some, others)[like]


def _in_crowds(
    crowds: Sequence[NDArray[np.int32]],
    hashes_N: NDArray[np.uint64],
    thumbs_NP: NDArray[np.uint8],
    settings: DuplicateSettings,
) -> Pairs:
    """Near pairs of each crowd; a large one that agrees in several choices of bands is ordered in another way each."""
    seen: set[bytes] = set()
    for seed, places in enumerate(map(np.sort, crowds)):
        digest = hashlib.sha256(places.tobytes()).digest()[:16]
        if len(places) <= _CROWD + 1 and digest in seen:
            continue  # no pair was missed before
        seen.add(digest)
        for one, two in alike(thumbs_NP[places], settings.difference, seed, _CROWD, _REACH):
            low, high = places[one], places[two]
            close = bits(hashes_N[low] ^ hashes_N[high]) <= settings.distance
            yield low[close], high[close]


def leaders(count: int, one_L: NDArray[np.int64], two_L: NDArray[np.int64]) -> NDArray[np.int64]:
    """The image that stands for each, int64 (count,): the smallest that is near and stands for itself, or its own.

    Groups of all that hang together would not do: slices of a volume are each near to the next, and whole volumes
    would be one group.

    Args:
        one_L, two_L: see :func:`links`.
    """
    leader = list(range(count))
    for one, two in zip(one_L.tolist(), two_L.tolist(), strict=True):
        if leader[two] == two and leader[one] == one:
            leader[two] = one
    return np.array(leader, np.int64)


def near(
    hashes_N: NDArray[np.uint64], distance: int, crowds: list[NDArray[np.int32]] | None = None
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Places of all pairs of hashes that differ by at most ``distance`` bits, in batches; a pair may come repeatedly.

    The 64 bits are cut into a few bands more than may differ, so that some bands of such a pair are equal: for each
    choice of bands the hashes are sorted by these, and neighbors compared. Where more than 256 hashes agree in all
    chosen bands, each is compared with the 256 that follow, which keeps the time linear whatever the images are.

    Args:
        crowds: gets the places of more than 256 hashes that agree, each time; they are then not compared here.
    """
    for mask in _masks(distance):
        keys_N = hashes_N & mask
        order_N = np.argsort(keys_N, kind="stable")
        keys_N = keys_N[order_N]
        if crowds is not None:
            crowded_N = np.zeros(len(keys_N), np.bool_)
            for first, last in _long_runs(keys_N):
                crowds.append(order_N[first:last].astype(np.int32))
                crowded_N[first:last] = True
            order_N, keys_N = order_N[~crowded_N], keys_N[~crowded_N]
        places = np.arange(len(keys_N) - 1)
        for offset in range(1, _REACH + 1):
            places = places[: np.searchsorted(places, len(keys_N) - offset)]
            places = places[keys_N[places] == keys_N[places + offset]]
            if not len(places):
                break
            one, two = order_N[places], order_N[places + offset]
            close = bits(hashes_N[one] ^ hashes_N[two]) <= distance
            yield one[close], two[close]


def _long_runs(keys_N: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Where more than 256 equal values begin and end."""
    edges = np.concatenate([[0], np.flatnonzero(keys_N[1:] != keys_N[:-1]) + 1, [len(keys_N)]])
    for place in np.flatnonzero(np.diff(edges) > _REACH).tolist():
        yield int(edges[place]), int(edges[place + 1])


def bits(values_N: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Ones in the binary digits of each value."""
    return _ONES[values_N.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.uint8)


def _masks(distance: int) -> list[np.uint64]:
    """Masks of the bands that are sorted by: for any ``distance`` bits, one mask that has none of them."""
    equal = 1 if distance == 0 else 2 if distance <= 6 else 3
    edges = np.linspace(0, 64, distance + equal + 1).round().astype(int).tolist()
    bands = [(1 << high) - (1 << low) for low, high in itertools.pairwise(edges)]
    chosen = [np.uint64(sum(some)) for some in itertools.combinations(bands, equal)]
    assert len(chosen) == math.comb(distance + equal, equal)
    return chosen
