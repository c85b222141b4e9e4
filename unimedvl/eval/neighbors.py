"""Are drawn images copies? The nearest training image of each, against what real held-out images have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32
_COPY = 0.05  # quantile of the held-out distances below which a drawn image counts as a copy


@dataclass(frozen=True)
class Neighbors:
    """Of each drawn image: the number of the nearest training image of its modality, and how far it is.

    Attributes:
        distance: root mean square difference of pixels in [0, 1] at 32 x 32.
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
    drawn: Sequence[tuple[str, Image.Image]],
    training: Sequence[tuple[str, Image.Image]],
    held_out: Sequence[tuple[str, Image.Image]],
) -> Neighbors:
    """Search by modality; each image comes with its modality."""
    found: dict[int, tuple[int, float, float]] = {}
    for modality in {name for name, _ in drawn}:
        pool = [number for number, (name, _) in enumerate(training) if name == modality]
        pool_NP = _vectors([training[number][1] for number in pool])
        real = _nearest(_vectors([image for name, image in held_out if name == modality]), pool_NP)[1]
        limit = float(np.quantile(real, _COPY))
        mine = [number for number, (name, _) in enumerate(drawn) if name == modality]
        places, distances = _nearest(_vectors([drawn[number][1] for number in mine]), pool_NP)
        for number, place, distance in zip(mine, places, distances, strict=True):
            found[number] = (pool[place], float(distance), limit)
    ordered = [found[number] for number in range(len(drawn))]
    nearest, distance, limits = zip(*ordered, strict=True)
    return Neighbors(nearest, distance, limits)


def _vectors(images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """float32 (N, P) in [0, 1]."""
    small = [image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX) for image in images]
    return (np.stack([np.asarray(each).ravel() for each in small]) / 255).astype(np.float32)


def _nearest(
    queries_QP: NDArray[np.float32], pool_NP: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Place in the pool and root mean square distance of each query's nearest."""
    means_QN = np.stack([np.square(pool_NP - query).mean(axis=1) for query in queries_QP])
    return means_QN.argmin(axis=1), np.sqrt(means_QN.min(axis=1)).astype(np.float32)
