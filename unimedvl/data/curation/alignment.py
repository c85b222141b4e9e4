"""How well a text fits its image: against captions that a model writes, and by an image-text model (paper, A.3).

Raw values are measured chunk by chunk; normalizing and combining them needs them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.data.curation.coarse import said
from unimedvl.data.curation.fingerprints import exact_hash
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import read_image

STAGE = "alignment"
Normalization = Literal["min-max", "rank"]


class Captioner(Protocol):
    """Describes images."""

    @property
    def name(self) -> str:
        """Recorded with every score."""
        ...

    def captions(self, images: Sequence[Image.Image], keys: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """``count`` captions of each image; the same for the same key and seed, whatever else is in the batch.

        Args:
            keys: of the images, equal for equal pixels.
        """
        ...


class TextEmbedder(Protocol):
    """Places texts where near means alike."""

    @property
    def name(self) -> str:
        """Recorded with every score."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 (N, D), rows of length 1."""
        ...


class ImageTextScorer(Protocol):
    """Says how well texts fit images."""

    @property
    def name(self) -> str:
        """Recorded with every score."""
        ...

    def scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """One number a pair, higher for a better fit, on any scale."""
        ...


@dataclass(frozen=True)
class AlignmentSettings:
    """How scores are made.

    Attributes:
        captions: of each image, K of the paper.
        weight: of the text similarity S against the image-text score M.
        normalization: ``min-max`` as published, or ``rank``, which outliers do not bend.
        per_modality: normalize within each modality instead of over all pairs.
        seed: of the captions.
    """

    captions: int = 5
    weight: float = 0.5
    normalization: Normalization = "min-max"
    per_modality: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.captions < 1:
            raise ConfigError(f"{self.captions} captions", where="alignment.captions", remedy="give 1 or more")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"weight {self.weight}", where="alignment.weight", remedy="give a positive number")
        if self.normalization not in get_args(Normalization):
            remedy = f"use one of {', '.join(get_args(Normalization))}"
            raise ConfigError(f"normalization is {self.normalization!r}", where="alignment", remedy=remedy)


@dataclass(frozen=True)
class Measured:
    """Raw values of one pair.

    Attributes:
        similarity: S, the largest cosine between its text and the captions.
        fit: M, of the image-text scorer; None without one.
        caption: the one that came nearest.
        by: names of captioner, embedder and scorer, the last empty without one.
    """

    pair: str
    modality: str
    similarity: float
    fit: float | None
    caption: str
    by: tuple[str, str, str]

    def facts(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Measured:
        """The values whose ``facts`` these are.

        Raises:
            DataError: they are something else.
        """
        try:
            return cls(**{**facts, "by": tuple(facts["by"])})
        except (KeyError, TypeError) as error:
            raise DataError("no facts of alignment", where=str(facts)[:60], remedy="measure again") from error


@dataclass(frozen=True)
class Scored:
    """The score of one pair, ``weight`` S + M of the normalized values; without M it is ``weight`` S alone."""

    measured: Measured
    similarity: float
    fit: float | None
    score: float

    @property
    def detail(self) -> str:
        """Where the score comes from, in words."""
        raw, (captioner, embedder, scorer) = self.measured, self.measured.by
        first = f"S {self.similarity:.4f} (cosine {raw.similarity:.4f} by {embedder} to captions of {captioner})"
        if self.fit is None or raw.fit is None:
            return f"{first}, no M: no image-text scorer"
        return f"{first}, M {self.fit:.4f} ({raw.fit:.4f} by {scorer})"


def measurable(pair: Pair) -> bool:
    """Whether the pair has a text that is about its picture; edits say what changes, which no caption does."""
    return pair.family in ("understanding", "t2i") and bool(said(pair)) and bool(pair.picture)


def measure(
    pairs: Sequence[Pair],
    captioner: Captioner,
    embedder: TextEmbedder,
    scorer: ImageTextScorer | None = None,
    settings: AlignmentSettings | None = None,
) -> list[Measured]:
    """Raw values of the pairs that are :func:`measurable`, in their order.

    Raises:
        DataError: an image cannot be read, or a back-end gives fewer answers than asked, or one that is no number.
    """
    settings = settings or AlignmentSettings()
    pairs = [pair for pair in pairs if measurable(pair)]
    if not pairs:
        return []
    files = list(dict.fromkeys(pair.picture for pair in pairs))
    images = {file: read_image(file).image for file in files}
    # One image has the same captions in all of its pairs, in whichever part they are; they are written once.
    keys = [exact_hash(images[file]) for file in files]
    written = captioner.captions([images[file] for file in files], keys, settings.captions, settings.seed)
    if [len(own) for own in written] != [settings.captions] * len(files):
        problem = f"{sum(map(len, written))} captions, not {settings.captions} of each of {len(files)} images"
        raise DataError(problem, where=captioner.name, remedy="mend the captioner")
    captions = dict(zip(files, written, strict=True))
    texts = [said(pair) for pair in pairs]
    nearest = _nearest(texts, [captions[pair.picture] for pair in pairs], embedder)
    fits = scorer.scores([images[pair.picture] for pair in pairs], texts) if scorer else [None] * len(pairs)
    by = (captioner.name, embedder.name, scorer.name if scorer else "")
    result = [
        Measured(pair.id, pair.modality, similarity, fit, caption, by)
        for pair, (similarity, caption), fit in zip(pairs, nearest, fits, strict=True)
    ]
    _check(result)
    return result


def combine(measured: Sequence[Measured], settings: AlignmentSettings | None = None) -> list[Scored]:
    """Normalize the raw values of all pairs and add them up, in their order.

    Raises:
        DataError: some pairs have an image-text score and some do not.
    """
    settings = settings or AlignmentSettings()
    _check(measured)
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(measured):
        groups.setdefault(one.modality if settings.per_modality else "", []).append(number)
    similarities, fits = np.zeros(len(measured)), np.zeros(len(measured))
    scored = bool(measured) and measured[0].fit is not None
    for numbers in groups.values():
        raw: Any = [measured[number].similarity for number in numbers]
        similarities[numbers] = normalized(raw, settings.normalization)
        if scored:
            raw = [measured[number].fit for number in numbers]
            fits[numbers] = normalized(raw, settings.normalization)
    totals = settings.weight * similarities + fits
    return [
        Scored(one, float(similarity), float(fit) if scored else None, float(total))
        for one, similarity, fit, total in zip(measured, similarities, fits, totals, strict=True)
    ]


def normalized(values: Sequence[float], how: Normalization) -> NDArray[np.float64]:
    """Values spread over 0 to 1, float64 (N,): by their range, or by their rank, equal ones sharing theirs.

    Where all are equal, which tells nothing, each is 0.5.
    """
    values_N = np.asarray(values, np.float64)
    if how == "rank":
        _, number_N, count_U = np.unique(values_N, return_inverse=True, return_counts=True)
        values_N = (np.cumsum(count_U) - (count_U + 1) / 2)[number_N]
        low, high = 0.0, float(len(values_N) - 1)
        if len(count_U) < 2:
            return np.full(len(values_N), 0.5)
        return (values_N - low) / high
    low, high = (values_N.min(), values_N.max()) if len(values_N) else (0.0, 0.0)
    return np.full(len(values_N), 0.5) if high <= low else (values_N - low) / (high - low)


def _nearest(
    texts: Sequence[str], captions: Sequence[Sequence[str]], embedder: TextEmbedder
) -> list[tuple[float, str]]:
    """Of each text: the largest cosine to its captions, and that caption. Empty captions are far from all."""
    distinct = list(dict.fromkeys([*texts, *(caption for own in captions for caption in own if caption.strip())]))
    vectors_ND = embedder.embed(distinct)
    if vectors_ND.ndim != 2 or len(vectors_ND) != len(distinct):
        problem = f"vectors of shape {vectors_ND.shape} for {len(distinct)} texts"
        raise DataError(problem, where=embedder.name, remedy="mend the text embedder")
    place = {text: number for number, text in enumerate(distinct)}
    found: list[tuple[float, str]] = []
    for text, own in zip(texts, captions, strict=True):
        cosines = [float(vectors_ND[place[text]] @ vectors_ND[place[one]]) if one.strip() else -1.0 for one in own]
        best = int(np.argmax(cosines))
        found.append((cosines[best], own[best]))
    return found


def _check(measured: Sequence[Measured]) -> None:
    for one in measured:
        values = [one.similarity, *([] if one.fit is None else [one.fit])]
        if not all(map(math.isfinite, values)):
            problem = f"similarity {one.similarity}, fit {one.fit} of pair {one.pair}"
            raise DataError(problem, where=", ".join(filter(None, one.by)), remedy="mend the back-end")
    if len({one.by for one in measured}) > 1 or len({one.fit is None for one in measured}) > 1:
        by = sorted({" + ".join(filter(None, one.by)) for one in measured})
        remedy = "measure all pairs with the same back-ends"
        raise DataError(f"pairs were measured by different back-ends: {'; '.join(by)}", where=STAGE, remedy=remedy)
