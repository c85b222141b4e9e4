"""Exact and near duplicates, and images that stand in two splits, over a whole corpus."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimedvl.data.curation.coarse import turns_of
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.fingerprints import Fingerprint
from unimedvl.data.curation.neighbors import DuplicateSettings, bits, leaders, links, near, search
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import DataError

__all__ = [
    "STAGE", "DuplicateSettings", "Entry", "bits", "duplicates", "entry", "leaders", "links", "near", "normalized",
]  # fmt: skip

STAGE = "duplicates"
_SHORT = 80  # characters of an answer that is a fact, not a description, of which there may be several
_RANKS = {"test": 0, "validation": 1}  # who keeps an image that stands in several splits; training comes last


@dataclass(frozen=True)
class Entry:
    """What the search needs to know of a pair.

    Attributes:
        split: ``train`` where it is empty.
        key: 16 bytes, equal for pairs of one task that ask and say the same.
        images: fingerprints of what it shows and makes, in their order; masks, which resemble each other, are not
            images in this sense.
        asked: 16 bytes, equal for pairs that ask the same; empty where nothing is asked, or an image is to be made.
        short: whether it is answered in a few words.
    """

    pair: str
    split: str
    key: bytes
    images: tuple[Fingerprint, ...]
    asked: bytes = b""
    short: bool = False

    def facts(self) -> dict[str, Any]:
        """Plain JSON values."""
        images = [[image.exact, image.perceptual, b64encode(image.thumb).decode()] for image in self.images]
        told = {"split": self.split, "key": self.key.hex(), "images": images}
        return {**told, "asked": self.asked.hex(), "short": self.short}

    @classmethod
    def from_facts(cls, pair: str, facts: Mapping[str, Any]) -> Entry:
        """The entry of a pair whose ``facts`` these are.

        Raises:
            DataError: they are something else.
        """
        try:
            images = tuple(Fingerprint(exact, int(bits), b64decode(thumb)) for exact, bits, thumb in facts["images"])
            keys = (bytes.fromhex(facts[name]) for name in ("key", "asked"))
            return cls(pair, facts["split"], next(keys), images, next(keys), facts["short"])
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
    mask = prints[pair.target].exact if masked and pair.target else ""
    turns = [(speaker, normalized(text)) for speaker, text in turns_of(pair)]
    questions, answers = ([text for who, text in turns if who == speaker and text] for speaker in ("human", "gpt"))
    # Speakers count: what is a question here may be an answer elsewhere.
    said = [f"{speaker} {text}" for speaker, text in turns if text]
    asks = bool(questions) and not pair.target
    return Entry(
        pair.id,
        pair.split or "train",
        _digest(pair.family, pair.subtask, str(len(pair.images)), mask, *said),
        tuple(prints[file] for file in files),
        _digest(*questions) if asks else b"",
        asks and bool(answers) and max(map(len, answers)) <= _SHORT,
    )


def _digest(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode()).digest()[:16]


def normalized(text: str) -> str:
    """The words of a text, lower case, without signs between them."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def duplicates(entries: Sequence[Entry], settings: DuplicateSettings | None = None) -> list[Decision]:
    """A ``drop`` for each pair that repeats another or leaks, in the order of the entries.

    A pair leaks when one of its images is equal or near to an image of a split that is held further out: test before
    validation before training; without images, when it asks the same as one there. Of what remains, pairs repeat each
    other when their images are in the same groups and they ask and say the same; the first one stays.

    A ``flag`` for pairs that stay and give other short answers to one question about the same images, and one for the
    whole search, on the first pair concerned, where so many images are alike that not all of them were compared.
    """
    settings = settings or DuplicateSettings()
    images = _Images.of(entries)
    one_L, two_L, partly = search(images.prints, settings)
    groups_M = leaders(len(images.prints), one_L, two_L)
    owner_M = np.arange(len(images.prints))
    np.minimum.at(owner_M, two_L, one_L)
    texts = _first_of_texts(entries)
    kept: dict[tuple[object, ...], Entry] = {}
    decisions: dict[str, list[Decision]] = {}
    for one in entries:
        numbers = [images.numbers[image.exact] for image in one.images]
        # The smaller a number, the further is its split held out.
        owner = images.firsts[min(owner_M[number] for number in numbers)] if numbers else texts[_said(one)]
        if _rank(owner.split) < _rank(one.split):
            what = "an image is equal or near to one" if numbers else "its question, or without one its text, is that"
            leak = Decision(one.pair, STAGE, "drop", f"leaked from {owner.split}", f"{what} of pair {owner.pair}")
            decisions.setdefault(one.pair, []).append(leak)
            continue
        first = kept.setdefault((one.key, *(int(groups_M[number]) for number in numbers)), one)
        if first is not one:
            same = [image.exact for image in first.images] == [image.exact for image in one.images]
            reason = "exact duplicate" if same else "near duplicate"
            repeated = Decision(one.pair, STAGE, "drop", reason, f"of pair {first.pair}")
            decisions.setdefault(one.pair, []).append(repeated)
    for flag in (*_otherwise_answered(kept), *_told(images, partly)):
        decisions.setdefault(flag.pair, []).append(flag)
    return [decision for one in entries for decision in decisions.get(one.pair, ())]


def _said(one: Entry) -> bytes:
    """By what texts leak: a question of the test leaks with any answer."""
    return one.asked or one.key


def _first_of_texts(entries: Sequence[Entry]) -> dict[bytes, Entry]:
    """Of what pairs without images say, the first one in the split that is held furthest out."""
    firsts: dict[bytes, Entry] = {}
    for one in sorted(entries, key=lambda one: _rank(one.split)):  # stable
        if not one.images:
            firsts.setdefault(_said(one), one)
    return firsts


def _otherwise_answered(kept: Mapping[tuple[object, ...], Entry]) -> Iterator[Decision]:
    alike: dict[tuple[object, ...], list[Entry]] = {}
    for (_, *groups), one in kept.items():
        if one.asked and one.short:
            alike.setdefault((one.asked, *groups), []).append(one)
    for several in alike.values():
        for one in several if len(several) > 1 else ():
            other = several[1] if one is several[0] else several[0]
            yield Decision(one.pair, STAGE, "flag", "other answer to the same question", f"than pair {other.pair}")


def _told(images: _Images, partly: NDArray[np.bool_]) -> Iterator[Decision]:
    if count := int(partly.sum()):
        detail = f"{count:,} images resemble so many others that each was compared with the closest only"
        first = images.firsts[int(partly.argmax())].pair
        yield Decision(first, STAGE, "flag", "searched in part", detail, float(count))


@dataclass(frozen=True)
class _Images:
    """The different images of a corpus, numbered by how far their split is held out, then in their order.

    Images of one hash and thumbnail, which nothing here tells apart, have one number.

    Attributes:
        firsts: the first entry of each number, in the split that is held furthest out.
        numbers: of each exact hash.
    """

    prints: list[Fingerprint]
    firsts: list[Entry]
    numbers: dict[str, int]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> _Images:
        prints: list[Fingerprint] = []
        firsts: list[Entry] = []
        numbers: dict[str, int] = {}
        seen: dict[tuple[int, bytes], int] = {}
        for one in sorted(entries, key=lambda one: _rank(one.split)):  # stable
            for image in one.images:
                number = seen.setdefault((image.perceptual, image.thumb), len(prints))
                numbers.setdefault(image.exact, number)
                if number == len(prints):
                    prints.append(image)
                    firsts.append(one)
        return cls(prints, firsts, numbers)


def _rank(split: str) -> int:
    return _RANKS.get(split, len(_RANKS))
