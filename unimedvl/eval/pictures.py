"""Pictures against pictures: PSNR and SSIM of 8-bit RGB (scikit-image, data range 255), Dice and IoU of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EQUAL = 100.0  # dB, of equal pictures
_WHITE = 128  # at least this gray is foreground


def psnr(made: Image.Image, target: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels, at most 100."""
    from skimage.metrics import peak_signal_noise_ratio

    first, second = pixels(made), pixels(target)
    if np.array_equal(first, second):
        return EQUAL
    return min(EQUAL, float(cast(Any, peak_signal_noise_ratio)(second, first, data_range=255)))


def ssim(made: Image.Image, target: Image.Image) -> float:
    """Structural similarity, the mean over the three channels; 7 x 7 windows."""
    from skimage.metrics import structural_similarity

    return float(cast(Any, structural_similarity)(pixels(target), pixels(made), channel_axis=2, data_range=255))


def dice(made: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """Twice the overlap over the sum of both; 1 where both are empty."""
    total = int(made.sum()) + int(target.sum())
    return 2 * int((made & target).sum()) / total if total else 1.0


def iou(made: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """The overlap over the union; 1 where both are empty."""
    union = int((made | target).sum())
    return int((made & target).sum()) / union if union else 1.0


def mask(image: Image.Image) -> NDArray[np.bool_]:
    """What is white."""
    return gray(image) >= _WHITE


def best_threshold(images: Sequence[Image.Image], targets: Sequence[NDArray[np.bool_]]) -> tuple[int, float]:
    """The one gray level over which foreground gives the best mean Dice, and that Dice."""
    grays = [gray(image) for image in images]
    scores = [float(np.mean([dice(g >= t, m) for g, m in zip(grays, targets, strict=True)])) for t in range(256)]
    best = int(np.argmax(scores))
    return best, scores[best]


def best_band(images: Sequence[Image.Image], targets: Sequence[NDArray[np.bool_]]) -> tuple[tuple[int, int], float]:
    """The one band of gray levels, low <= gray < high, that gives the best mean Dice, and that Dice; in steps of 4."""
    grays = [gray(image) for image in images]
    best = ((0, 256), 0.0)
    for low in range(0, 256, 4):
        for high in range(low + 4, 257, 4):
            scores = [dice((g >= low) & (g < high), m) for g, m in zip(grays, targets, strict=True)]
            if (mean := float(np.mean(scores))) > best[1]:
                best = ((low, high), mean)
    return best


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    return np.asarray(image.convert("RGB"))


def gray(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 (H, W)."""
    return np.asarray(image.convert("L"))
