"""Images made from images, scored beside what needs no model at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from unimedvl.eval import pictures
from unimedvl.eval.rows import Row, target_of

_LOW = 4  # super-resolution by this factor; inputs show the small image at full size


def bicubic(image: Image.Image) -> Image.Image:
    """The small image, shown at full size by nearest neighbor, enlarged by bicubic interpolation instead."""
    return _small(image).resize(image.size, Image.Resampling.BICUBIC)


def enlarged(image: Image.Image) -> bool:
    """Whether it is a small image shown at full size by nearest neighbor."""
    again = _small(image).resize(image.size, Image.Resampling.NEAREST)
    return image.width % _LOW == image.height % _LOW == 0 and pictures.psnr(again, image) == pictures.EQUAL


def _small(image: Image.Image) -> Image.Image:
    return Image.fromarray(pictures.pixels(image)[_LOW // 2 :: _LOW, _LOW // 2 :: _LOW])


Baseline = Callable[[Image.Image], Image.Image]
BASELINES: Mapping[str, Mapping[str, Baseline]] = {
    "super-resolution": {"nearest neighbor": lambda image: image, "bicubic": bicubic},
    "virtual staining": {"identity": lambda image: image},
    "cross-modal": {"identity": lambda image: image},
    "counterfactual": {"identity": lambda image: image},
    "segmentation": {},
}


def scores(rows: Sequence[Row], made: Sequence[Image.Image], reconstructed: Sequence[Image.Image]) -> dict[str, Any]:
    """Mean PSNR and SSIM of the outputs, the baselines, and the autoencoder's reconstructions of the targets.

    Args:
        rows: of one kind, with targets.
        made, reconstructed: one each.
    """
    ways: dict[str, Sequence[Image.Image]] = {"model": made, "autoencoder (ceiling)": reconstructed}
    for name, baseline in BASELINES[rows[0].kind].items():
        ways[name] = [baseline(row.inputs[0]) for row in rows]
    result: dict[str, Any] = {"count": len(rows), "ways": {}}
    for name, images in ways.items():
        pairs = [(image, target_of(row)) for row, image in zip(rows, images, strict=True)]
        values = np.array([(pictures.psnr(*pair), pictures.ssim(*pair)) for pair in pairs])
        result["ways"][name] = {"psnr": float(values[:, 0].mean()), "ssim": float(values[:, 1].mean())}
        if name == "model":
            result["psnr_each"] = values[:, 0].round(3).tolist()
    if rows[0].kind == "segmentation":
        result["dice"] = _masks(rows, made, reconstructed)
    return result


def _masks(rows: Sequence[Row], made: Sequence[Image.Image], reconstructed: Sequence[Image.Image]) -> dict[str, float]:
    targets = [pictures.mask(target_of(row)) for row in rows]
    inputs = [row.inputs[0] for row in rows]

    def mean(images: Sequence[Image.Image]) -> float:
        return float(np.mean([pictures.dice(pictures.mask(i), t) for i, t in zip(images, targets, strict=True)]))

    threshold, by_threshold = pictures.best_threshold(inputs, targets)
    (low, high), by_band = pictures.best_band(inputs, targets)
    return {
        "model": mean(made),
        "autoencoder (ceiling)": mean(reconstructed),
        f"best threshold of these images ({threshold})": by_threshold,
        f"best band of these images ({low} to {high})": by_band,
    }
