"""Are drawn images copies? The nearest training image of each, against what real held-out images have.

By pixels, or by features of :mod:`unimedvl.eval.features`, which also see copies that were shifted or recolored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimedvl.errors import DataError

ImageOrVector = Image.Image | NDArray[Any]
"""An image, compared by its pixels at 32 x 32; or its features, (D,)."""

_SIDE = 32
_COPY = 0.05  # quantile of the held-out distances below which a drawn image counts as a copy


@dataclass(frozen=True)
class Neighbors:
    """Of each drawn image: the number of the nearest training image of its modality, and how far it is.

    Attributes:
        distance: root mean square difference: of pixels in [0, 1] at 32 x 32, or of features.
        limit: of its modality: nearer than all but 5 % of the real held-out images are to theirs.
    """

    nearest: tuple[int, ...]
    distance: tuple[float, ...]
    limit: tuple[float, ...]

    @property
    def copies(self) -> list[int]:
        """Numbers of the drawn images that are nearer than their limit."""
        pairs = zip(self.distance, self.limit, strict=True)
        return [number for number, (distance, limit) in enumerate(pairs) if distance < limit]


def neighbors(
    drawn: Sequence[tuple[str, ImageOrVector]],
    training: Sequence[tuple[str, ImageOrVector]],
    held_out: Sequence[tuple[str, ImageOrVector]],
) -> Neighbors:
    """Search by modality; each image, or vector of features, comes with its modality.

    Raises:
        DataError: a modality that was drawn has no training or no held-out image, or vectors differ in length.
    """
    found: dict[int, tuple[int, float, float]] = {}
    for modality in dict.fromkeys(name for name, _ in drawn):
        pool = [number for number, (name, _) in enumerate(training) if name == modality]
        real = [image for name, image in held_out if name == modality]
        if not pool or not real:
            raise DataError(
                f"{len(pool)} training and {len(real)} held-out images of {modality!r}",
                where="nearest neighbors",
                remedy="give at least one of each for every modality that is drawn",
            )
        pool_NP = _vectors([training[number][1] for number in pool])
        limit = float(np.quantile(_nearest(_vectors(real), pool_NP)[1], _COPY))
        mine = [number for number, (name, _) in enumerate(drawn) if name == modality]
        places, distances = _nearest(_vectors([drawn[number][1] for number in mine]), pool_NP)
        for number, place, distance in zip(mine, places, distances, strict=True):
            found[number] = (pool[place], float(distance), limit)
    ordered = [found[number] for number in range(len(drawn))]
    return Neighbors(
        tuple(nearest for nearest, _, _ in ordered),
        tuple(distance for _, distance, _ in ordered),
        tuple(limit for _, _, limit in ordered),
    )


def _vectors(items: Sequence[ImageOrVector]) -> NDArray[np.float32]:
    """float32 (N, P); pixels in [0, 1]."""
    found = [vector(item) if isinstance(item, Image.Image) else np.asarray(item, np.float32) for item in items]
    shapes = {each.shape for each in found}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise DataError(
            f"vectors of {' and '.join(map(str, sorted(shapes)))}",
            where="nearest neighbors",
            remedy="give images only, or one row of the same extractor's features for each",
        )
    return np.stack(found)


def vector(image: Image.Image) -> NDArray[np.float32]:
    """float32 (3072,) in [0, 1]: the pixels at 32 x 32."""
    small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return (np.asarray(small).ravel() / 255).astype(np.float32)


def _nearest(
    queries_QP: NDArray[np.float32], pool_NP: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Place in the pool and root mean square distance of each query's nearest."""
    if queries_QP.shape[1] != pool_NP.shape[1]:
        raise DataError(
            f"vectors of {queries_QP.shape[1]} against {pool_NP.shape[1]}",
            where="nearest neighbors",
            remedy="compare images with images, or features of one extractor",
        )
    places, means = [], []
    for query in queries_QP:  # one at a time: all together are as large as both sets multiplied
        means_N = np.square(pool_NP - query).mean(axis=1)
        places.append(int(means_N.argmin()))
        means.append(float(means_N[places[-1]]))
    return np.array(places), np.sqrt(means).astype(np.float32)
