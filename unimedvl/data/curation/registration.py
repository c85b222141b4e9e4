"""Do the two images of a pair lie on each other? Finds swapped and mismatched inputs and targets.

Modalities differ in what is bright, so gray values are not compared: the directions of edges are, whatever their
sign (the normalized gradient field of Haber and Modersitzki, 2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import read_image

STAGE = "registration"
_SIDE = 128  # on which pairs are compared
_SIGMA = 1.5  # pixels of that side over which edges are smoothed
_BINS = 16


@dataclass(frozen=True)
class RegistrationSettings:
    """What a pair must reach.

    Attributes:
        min_agreement: of edge directions, see :func:`agreement`. Of pairs that fit, 99 % reach 0.6 where the second
            image is a map, a mask or a sharper copy of the first; other images of the same kind have about 0.
        min_agreement_staining: the same for subtasks with "staining" in their name: other stains show other edges.
        same_size: input and target must have equal sides; super-resolution need only have equal proportions.
    """

    min_agreement: float = 0.4
    min_agreement_staining: float = 0.15
    same_size: bool = True

    def __post_init__(self) -> None:
        for name in ("min_agreement", "min_agreement_staining"):
            if not -1 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=STAGE, remedy="give -1 to 1")


def registration(pairs: Sequence[Pair], settings: RegistrationSettings | None = None) -> list[Decision]:
    """A ``keep`` or ``drop`` for each pair of input and target, with their agreement; other pairs are not named."""
    settings = settings or RegistrationSettings()
    return [_decision(pair, settings) for pair in pairs if pair.target and pair.images and pair.family != "t2i"]


def agreement(one: Image.Image, two: Image.Image) -> float:
    """How well edge directions agree, -1 to 1: 1 where all are parallel, 0 by chance, negative where they cross.

    Weighted by the strength of the edges in both images; 0 if either has none.
    """
    return _agreement(_gray(one), _gray(two))


def mutual_information(one: Image.Image, two: Image.Image) -> float:
    """Information that gray values share, 0 to 1, of what the poorer image holds; 16 levels, equally full."""
    levels_1P, levels_2P = _levels(_gray(one)), _levels(_gray(two))
    joint_BB = np.bincount(levels_1P * _BINS + levels_2P, minlength=_BINS**2).reshape(_BINS, _BINS) / levels_1P.size
    own = min(_entropy(joint_BB.sum(axis=0)), _entropy(joint_BB.sum(axis=1)))
    both = _entropy(joint_BB.sum(axis=0)) + _entropy(joint_BB.sum(axis=1)) - _entropy(joint_BB.ravel())
    return float(np.clip(both / own, 0, 1)) if own > 0 else 0.0


def _decision(pair: Pair, settings: RegistrationSettings) -> Decision:
    try:
        shown, target = read_image(pair.images[0]).image, read_image(pair.target).image
    except DataError as error:
        return Decision(pair.id, STAGE, "drop", "unreadable image", str(error))
    if settings.same_size and (problem := _other_size(pair, shown.size, target.size)):
        return Decision(pair.id, STAGE, "drop", "sizes differ", problem)
    found = agreement(shown, target)
    bound = settings.min_agreement_staining if "staining" in pair.subtask else settings.min_agreement
    detail = f"agreement of edges {found:.3f}, mutual information {mutual_information(shown, target):.3f}"
    if found < bound:
        return Decision(pair.id, STAGE, "drop", "not registered", f"{detail}; under {bound:g}", found)
    return Decision(pair.id, STAGE, "keep", "registered", detail, found)


def _other_size(pair: Pair, shown: tuple[int, int], target: tuple[int, int]) -> str:
    """What is wrong with the sizes; empty if nothing."""
    problem = f"{pair.images[0]} is {shown[0]} x {shown[1]}, {pair.target} is {target[0]} x {target[1]}"
    if pair.subtask != "super-resolution":
        return "" if shown == target else problem
    # The smaller sides are rounded to whole pixels.
    skew = abs(shown[0] * target[1] - shown[1] * target[0])
    return "" if skew <= max(target) else problem


def _gray(image: Image.Image) -> NDArray[np.float64]:
    """Float64 (128, 128); proportions are given up in both images alike."""
    return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)


def _agreement(one_HW: NDArray[np.float64], two_HW: NDArray[np.float64]) -> float:
    (row_1, column_1), (row_2, column_2) = _gradient(one_HW), _gradient(two_HW)
    size_1, size_2 = np.hypot(row_1, column_1), np.hypot(row_2, column_2)
    if not (size_1.any() and size_2.any()):
        return 0.0
    # Noise has gradients too: edges count in full only where they are stronger than the image's mean.
    weight = (size_1 / (size_1 + size_1.mean())) * (size_2 / (size_2 + size_2.mean()))
    cosine = (row_1 * row_2 + column_1 * column_2) / np.maximum(size_1 * size_2, 1e-12)
    # Squared cosines of directions by chance are 1/2 in the mean.
    total = float(weight.sum())
    return float(2 * (weight * cosine**2).sum() / total - 1) if total > 0 else 0.0


def _gradient(gray_HW: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        from scipy import ndimage
    except ImportError as error:
        remedy = "pip install 'unimedvl[eval]'"
        raise ConfigError("checks of registration need scipy", where=STAGE, remedy=remedy) from error
    smooth: Any = ndimage.gaussian_filter  # its types do not know an order for each axis
    rows, columns = (smooth(gray_HW, _SIGMA, order=order, mode="nearest") for order in ((1, 0), (0, 1)))
    # Rounding where all is black would be edges in any two images.
    small = np.hypot(rows, columns) < 1e-6
    return np.where(small, 0, rows), np.where(small, 0, columns)


def _levels(gray_HW: NDArray[np.float64]) -> NDArray[np.intp]:
    edges = np.unique(np.quantile(gray_HW, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return np.searchsorted(edges, gray_HW.ravel(), side="right")


def _entropy(shares: NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
