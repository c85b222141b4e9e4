"""Exact and near duplicates, and images that stand in two splits, over a whole corpus.

Time and memory grow with the number of images, not with that of their pairs: hashes are sorted by some of their bits
at a time, so that only those which agree there are compared.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.fingerprints import Fingerprint, thumbs, unlike
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError

STAGE = "duplicates"
_REACH = 256  # hashes that one is compared with, of those with the same bands
_AT_ONCE = 65_536  # thumbnails that are compared in step
_ONES = np.array([number.bit_count() for number in range(2**16)], np.uint8)
_RANKS = {"test": 0, "validation": 1}  # who keeps an image that stands in several splits; training comes last


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


@dataclass(frozen=True)
class Entry:
    """What the search needs to know of a pair.

    Attributes:
        split: ``train`` where it is empty.
        key: 16 bytes, equal for pairs that ask or say the same.
        images: fingerprints of what it shows and makes, in their order; masks, which resemble each other, are not
            images in this sense.
    """

    pair: str
    split: str
    key: bytes
    images: tuple[Fingerprint, ...]

    def facts(self) -> dict[str, Any]:
        """Plain JSON values."""
        images = [[image.exact, image.perceptual, b64encode(image.thumb).decode()] for image in self.images]
        return {"split": self.split, "key": self.key.hex(), "images": images}

    @classmethod
    def from_facts(cls, pair: str, facts: Mapping[str, Any]) -> Entry:
        """The entry of a pair whose ``facts`` these are.

        Raises:
            DataError: they are something else.
        """
        try:
            images = tuple(Fingerprint(exact, int(bits), b64decode(thumb)) for exact, bits, thumb in facts["images"])
            return cls(pair, facts["split"], bytes.fromhex(facts["key"]), images)
        except (KeyError, TypeError, ValueError) as error:
            remedy = "take the fingerprints again"
            raise DataError("no facts for the search of duplicates", where=f"pair {pair}", remedy=remedy) from error


def entry(pair: Pair, prints: Mapping[str, Fingerprint]) -> Entry:
    """The entry of a pair.

    Args:
        prints: of its files, see :func:`unimedvl.data.curation.fingerprints.fingerprints`.
    """
    masked = pair.subtask == "segmentation"
    files = [file for file in (*pair.images, "" if masked else pair.target) if file]
    said = normalized(pair.question) or normalized(pair.text)
    mask = prints[pair.target].exact if masked and pair.target else ""
    key = "\0".join((pair.family, pair.subtask, str(len(pair.images)), mask, said))
    digest = hashlib.sha256(key.encode()).digest()[:16]
    return Entry(pair.id, pair.split or "train", digest, tuple(prints[file] for file in files))


def normalized(text: str) -> str:
    """The words of a text, lower case, without signs between them."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def duplicates(entries: Sequence[Entry], settings: DuplicateSettings | None = None) -> list[Decision]:
    """A ``drop`` for each pair that repeats another or leaks, in the order of the entries.

    A pair leaks when one of its images is equal or near to an image of a split that is held further out: test before
    validation before training. Of what remains, pairs repeat each other when their images are in the same groups and
    they ask the same, or without a question say the same; the first one stays.
    """
    settings = settings or DuplicateSettings()
    images = _Images.of(entries)
    one_L, two_L = links(images.prints, settings)
    groups_M = leaders(len(images.prints), one_L, two_L)
    owner_M = np.arange(len(images.prints))
    np.minimum.at(owner_M, two_L, one_L)
    kept: dict[tuple[object, ...], Entry] = {}
    decisions: list[Decision] = []
    for one in entries:
        numbers = [images.numbers[image.exact] for image in one.images]
        # The smaller a number, the further is its split held out.
        owner = images.firsts[min(owner_M[number] for number in numbers)] if numbers else one
        if _rank(owner.split) < _rank(one.split):
            detail = f"an image is equal or near to one of pair {owner.pair}"
            decisions.append(Decision(one.pair, STAGE, "drop", f"leaked from {owner.split}", detail))
            continue
        first = kept.setdefault((one.key, *(int(groups_M[number]) for number in numbers)), one)
        if first is not one:
            same = [image.exact for image in first.images] == [image.exact for image in one.images]
            reason = "exact duplicate" if same else "near duplicate"
            decisions.append(Decision(one.pair, STAGE, "drop", reason, f"of pair {first.pair}"))
    return decisions


@dataclass(frozen=True)
class _Images:
    """The different images of a corpus, numbered by how far their split is held out, then in their order.

    Attributes:
        numbers: of each exact hash; ``firsts``: the first entry of each number, in the split that is held furthest out.
    """

    prints: list[Fingerprint]
    firsts: list[Entry]
    numbers: dict[str, int]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> _Images:
        best: dict[str, tuple[Fingerprint, Entry]] = {}
        for one in sorted(entries, key=lambda one: _rank(one.split)):  # stable
            for image in one.images:
                best.setdefault(image.exact, (image, one))
        prints, firsts = [image for image, _ in best.values()], [one for _, one in best.values()]
        return cls(prints, firsts, {exact: number for number, exact in enumerate(best)})


def links(prints: Sequence[Fingerprint], settings: DuplicateSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of all near pairs of images, each once, the smaller one first; sorted by the larger, then the smaller."""
    count = len(prints)
    hashes_N = np.array([image.perceptual for image in prints], np.uint64)
    thumbs_NP = thumbs(prints)
    held, waiting = [np.zeros(0, np.int64)], 0
    for one, two in near(hashes_N, settings.distance):
        for first in range(0, len(one), _AT_ONCE):
            some, others = one[first : first + _AT_ONCE], two[first : first + _AT_ONCE]
            alike = unlike(thumbs_NP[some], thumbs_NP[others]) <= settings.difference
            low, high = np.minimum(some, others)[alike], np.maximum(some, others)[alike]
            held.append(high.astype(np.int64) * count + low)
            waiting += len(low)
        if waiting > count + _AT_ONCE:
            held, waiting = [np.unique(np.concatenate(held))], 0
    codes = np.unique(np.concatenate(held))
    return codes % max(count, 1), codes // max(count, 1)


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


def near(hashes_N: NDArray[np.uint64], distance: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Places of all pairs of hashes that differ by at most ``distance`` bits, in batches; a pair may come repeatedly.

    The 64 bits are cut into a few bands more than may differ, so that some bands of such a pair are equal: for each
    choice of bands the hashes are sorted by these, and neighbors compared. Where more than 256 hashes agree in all
    chosen bands, each is compared with the 256 that follow, which keeps the time linear whatever the images are.
    """
    for mask in _masks(distance):
        keys_N = hashes_N & mask
        order_N = np.argsort(keys_N, kind="stable")
        keys_N = keys_N[order_N]
        places = np.arange(len(keys_N) - 1)
        for offset in range(1, _REACH + 1):
            places = places[: np.searchsorted(places, len(keys_N) - offset)]
            places = places[keys_N[places] == keys_N[places + offset]]
            if not len(places):
                break
            one, two = order_N[places], order_N[places + offset]
            close = bits(hashes_N[one] ^ hashes_N[two]) <= distance
            yield one[close], two[close]


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


def _rank(split: str) -> int:
    return _RANKS.get(split, len(_RANKS))
