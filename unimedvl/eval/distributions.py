"""Sets of images against sets of images, by their features: FID, KID, precision, recall, density, coverage.

Features come from :mod:`unimedvl.eval.features`. Values of different extractors cannot be compared. Copies of training
images are looked for by :func:`unimedvl.eval.neighbors.neighbors`, which takes the same features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unimedvl.errors import ConfigError, DataError

_SUBSET = 1000
_PAIRS_AT_ONCE = 10_000_000  # distances of a block: 80 MB
KERNEL = "(x . y / D + 1)^3"


@dataclass(frozen=True)
class Kid:
    """Squared maximum mean discrepancy under :data:`KERNEL`, unbiased, so that it may be below 0.

    Attributes:
        mean: over the subsets; ``spread``: their standard deviation, which is not an error of the mean.
        subsets: of ``subset_size`` of each side, drawn without replacement.
    """

    mean: float
    spread: float
    subsets: int
    subset_size: int


@dataclass(frozen=True)
class Manifold:
    """What is near what, from 0 to 1 but for density, 1 for equal distributions up to the size of the sets.

    A ball around each image reaches to its ``neighbors``-th nearest other image of its own set.

    Attributes:
        precision: share of made images within some ball of the real ones (Kynkäänniemi et al. 2019).
        recall: share of real images within some ball of the made ones.
        density: real balls that a made image lies in, on average, over ``neighbors`` (Naeem et al. 2020).
        coverage: share of real balls that hold a made image.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    neighbors: int


@dataclass(frozen=True)
class Distribution:
    """Made images against real ones.

    Attributes:
        fid: Fréchet distance of two Gaussians, 0 or more.
        manifold: None where a set has too few images.
        n_real, n_made: images; ``dims``: features of each.
        notes: what to know before the values are used.
    """

    fid: float
    kid: Kid
    manifold: Manifold | None
    n_real: int
    n_made: int
    dims: int
    notes: tuple[str, ...] = ()


def distribution(
    real: NDArray[Any], made: NDArray[Any], *, seed: int = 0, subsets: int = 100, neighbors: int = 3
) -> Distribution:
    """All of them.

    Args:
        real, made: (N, D) and (M, D), features of at least two images each.
        seed, subsets: of KID; ``neighbors``: that reach the edge of a ball.

    Raises:
        DataError: the features cannot be compared.
        ConfigError: torchmetrics or scikit-learn is absent, or a setting cannot work.
    """
    real_ND, made_MD = _checked(real, made)
    (n_real, dims), n_made = real_ND.shape, len(made_MD)
    notes = []
    if min(n_real, n_made) <= dims:
        notes.append(
            f"FID is rank deficient: {n_real} real and {n_made} made images for {dims} features; it is biased "
            "upwards and compares only with values of equally many images"
        )
    manifold = None
    if min(n_real, n_made) > neighbors:
        manifold = manifold_scores(real_ND, made_MD, neighbors=neighbors)
    else:
        notes.append(f"no precision and recall: they need more than {neighbors} images on each side")
    kid_score = kid(real_ND, made_MD, seed=seed, subsets=subsets)
    return Distribution(fid(real_ND, made_MD), kid_score, manifold, n_real, n_made, dims, tuple(notes))


def fid(real: NDArray[Any], made: NDArray[Any]) -> float:
    """Fréchet distance between Gaussians with the sets' means and covariances (divided by N - 1); torchmetrics.

    Args:
        real, made: (N, D) and (M, D), of at least two images each.

    Raises:
        DataError: the features cannot be compared.
        ConfigError: torchmetrics is absent.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise _absent("FID", "torchmetrics", error) from error
    real_ND, made_MD = _checked(real, made)
    # Moving both changes nothing, but torchmetrics' sums of squares keep more digits around 0.
    center_D = real_ND.mean(axis=0)
    metric = FrechetInceptionDistance(feature=_AsGiven(real_ND.shape[1]), normalize=True)
    metric.update(torch.from_numpy(real_ND - center_D), real=True)
    metric.update(torch.from_numpy(made_MD - center_D), real=False)
    # Rounding may leave a little less than 0 for equal sets.
    return max(0.0, float(metric.compute()))


class _AsGiven(nn.Identity):
    """Stands where torchmetrics wants a network: the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def kid(real: NDArray[Any], made: NDArray[Any], *, seed: int = 0, subsets: int = 100) -> Kid:
    """Kernel distance over random subsets of min(1000, N, M) images; torchmetrics' estimate of each, float64.

    There is one subset where that is everything.

    Args:
        real, made: (N, D) and (M, D), of at least two images each.

    Raises:
        DataError: the features cannot be compared.
        ConfigError: torchmetrics is absent, or there are no subsets.
    """
    try:
        from torchmetrics.image.kid import poly_mmd
    except ImportError as error:
        raise _absent("KID", "torchmetrics", error) from error
    if subsets < 1:
        raise ConfigError(f"{subsets} subsets", where="KID", remedy="give 1 or more")
    real_ND, made_MD = (torch.from_numpy(each) for each in _checked(real, made))
    size = min(_SUBSET, len(real_ND), len(made_MD))
    subsets = 1 if size == len(real_ND) == len(made_MD) else subsets
    generator = torch.Generator().manual_seed(seed)

    def drawn(features_ND: torch.Tensor) -> torch.Tensor:
        return features_ND[torch.randperm(len(features_ND), generator=generator)[:size]]

    values = [float(poly_mmd(drawn(real_ND), drawn(made_MD), degree=3, coef=1.0)) for _ in range(subsets)]
    return Kid(float(np.mean(values)), float(np.std(values)), subsets, size)


def manifold_scores(real: NDArray[Any], made: NDArray[Any], *, neighbors: int = 3) -> Manifold:
    """Precision, recall, density and coverage; Euclidean distances, edges belong to their ball.

    Args:
        real, made: (N, D) and (M, D), of more than ``neighbors`` images each.

    Raises:
        DataError: the features cannot be compared, or are too few.
        ConfigError: scikit-learn is absent, or ``neighbors`` is below 1.
    """
    real_ND, made_MD = _checked(real, made)
    if neighbors < 1:
        raise ConfigError(f"{neighbors} neighbors", where="precision and recall", remedy="give 1 or more")
    if min(len(real_ND), len(made_MD)) <= neighbors:
        raise DataError(
            f"{len(real_ND)} real and {len(made_MD)} made images for {neighbors} neighbors",
            where="precision and recall",
            remedy="give more images on each side than neighbors",
        )
    center_D = real_ND.mean(axis=0)  # distances keep more digits around 0
    real_ND, made_MD = real_ND - center_D, made_MD - center_D
    real_balls_M, real_filled_N = _balls(real_ND, made_MD, neighbors)
    made_balls_N, _ = _balls(made_MD, real_ND, neighbors)
    return Manifold(
        precision=float((real_balls_M > 0).mean()),
        recall=float((made_balls_N > 0).mean()),
        density=float(real_balls_M.mean() / neighbors),
        coverage=float(real_filled_N.mean()),
        neighbors=neighbors,
    )


def _balls(
    centers_CD: NDArray[np.float64], points_PD: NDArray[np.float64], neighbors: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How many balls each point lies in, and whether each ball holds a point."""
    try:
        from sklearn.metrics import euclidean_distances
        from sklearn.neighbors import NearestNeighbors
    except ImportError as error:
        raise _absent("precision and recall", "scikit-learn", error) from error
    # Asked about no points, it leaves each center out of its own neighbors.
    found = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(centers_CD).kneighbors()
    # Squared distances come from norms and products, and are off by rounding: edges belong to their ball.
    slack = 1e-12 * max(float(np.square(each).sum(axis=1).max()) for each in (centers_CD, points_PD))
    radius_C = np.square(np.asarray(found[0])[:, -1]) + slack
    counts_P = np.zeros(len(points_PD), np.int64)
    filled_C = np.zeros(len(centers_CD), bool)
    step = max(1, _PAIRS_AT_ONCE // len(centers_CD))
    for first in range(0, len(points_PD), step):
        inside_BC = euclidean_distances(points_PD[first : first + step], centers_CD, squared=True) <= radius_C
        counts_P[first : first + step] = inside_BC.sum(axis=1)
        filled_C |= inside_BC.any(axis=0)
    return counts_P, filled_C


def _checked(*sets: NDArray[Any]) -> Sequence[NDArray[np.float64]]:
    """float64 copies.

    Raises:
        DataError: they are not two tables of as many finite columns, or one has fewer than two rows.
    """
    shapes = " and ".join(str(tuple(np.shape(each))) for each in sets)
    tables = [np.array(each, dtype=np.float64) for each in sets]
    if any(each.ndim != 2 for each in tables) or len({each.shape[1] for each in tables}) != 1:
        raise DataError(
            f"features of {shapes}", where="distribution", remedy="give (N, D) and (M, D) of the same extractor"
        )
    if min(map(len, tables)) < 2 or not tables[0].shape[1]:
        raise DataError(f"features of {shapes}", where="distribution", remedy="give at least two images on each side")
    for name, each in zip(("real", "made"), tables, strict=True):
        if bad := np.flatnonzero(~np.isfinite(each).all(axis=1)).tolist():
            raise DataError(
                f"{len(bad)} images have features that are not finite",
                where=f"{name} image {bad[0]}",
                remedy="look at the image and at the extractor's precision",
            )
    return tables


def _absent(what: str, package: str, error: ImportError) -> ConfigError:
    remedy = "pip install 'unimedvl[eval]'"
    if "torchvision" in str(error):  # which torchmetrics imports where it finds torch-fidelity
        remedy = "install the torchvision of this torch, or pip uninstall torch-fidelity"
    return ConfigError(f"{what} needs {package}: {error}".splitlines()[0], where="distribution", remedy=remedy)
