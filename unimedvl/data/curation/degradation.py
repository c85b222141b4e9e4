"""Inputs of super-resolution: images of a corpus made worse in a stated way, which the record of the pair repeats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageFilter

from unimedvl.data.curation.ingest.files import save_once
from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.errors import ConfigError
from unimedvl.imaging import read_image

SUBTASK = "super-resolution"
Kernel = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
Shown = Literal["nearest", "bicubic", "small"]
_KERNELS = {name: Image.Resampling[name.upper()] for name in get_args(Kernel)}


@dataclass(frozen=True)
class DegradationSettings:
    """How the input is made of the image that is to be restored: blur, shrink, noise, quantize, enlarge.

    Attributes:
        share: of the different images of understanding and text-to-image, that become such pairs; 0 makes none.
        factor: of each side; sides that it does not divide are rounded up.
        kernel: of the shrinking; all but ``nearest`` filter first what the smaller image cannot hold.
        blur: standard deviation of a Gaussian before the shrinking, in pixels of the whole image.
        noise: standard deviation of Gaussian noise in the small image, in gray levels of 255; the same in all channels.
        shown: the small image at full size by ``nearest`` or ``bicubic``, or ``small`` as it is.
    """

    share: float = 0.0
    factor: int = 4
    kernel: Kernel = "bicubic"
    blur: float = 0.0
    noise: float = 0.0
    shown: Shown = "nearest"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}", where="degradation", remedy="give 0 to 1")
        if self.factor < 2:
            raise ConfigError(f"factor is {self.factor}", where="degradation", remedy="give 2 or more")
        for name in ("blur", "noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", where="degradation", remedy="give 0 or more")


def with_planned(pairs: Iterable[Pair], settings: DegradationSettings, seed: int) -> Iterator[Pair]:
    """The pairs, each behind the first of its image followed by a pair of super-resolution whose input is not made yet.

    Which images are taken depends on the seed and the ids of the pairs alone.
    """
    seen: set[bytes] = set()
    for pair in pairs:
        yield pair
        if not (settings.share and pair.picture and pair.family in ("understanding", "t2i")):
            continue
        name = hashlib.sha256(pair.picture.encode()).digest()[:12]
        if name not in seen and _draw(pair, seed) < settings.share:
            yield _planned(pair, settings)
        seen.add(name)


def degraded(pairs: Sequence[Pair], settings: DegradationSettings, seed: int, folder: Path) -> list[Pair]:
    """The pairs, the inputs of those that are planned being made and written under ``folder``.

    Raises:
        DataError: an image cannot be read; the coarse filter drops such pairs before.
    """
    return [_made(pair, settings, seed, folder) if _waits(pair) else pair for pair in pairs]


def degrade(image: Image.Image, settings: DegradationSettings, rng: np.random.Generator) -> Image.Image:
    """An RGB image made worse.

    Args:
        rng: of the noise.
    """
    small = (-(-image.width // settings.factor), -(-image.height // settings.factor))
    worse = image.filter(ImageFilter.GaussianBlur(settings.blur)) if settings.blur else image
    worse = worse.resize(small, _KERNELS[settings.kernel])
    if settings.noise:
        pixels_HWC = np.asarray(worse, np.float64)
        noise_HW1 = rng.normal(0, settings.noise, (*pixels_HWC.shape[:2], 1))
        worse = Image.fromarray(np.rint(np.clip(pixels_HWC + noise_HW1, 0, 255)).astype(np.uint8))
    return worse if settings.shown == "small" else worse.resize(image.size, _KERNELS[settings.shown])


def steps(settings: DegradationSettings) -> tuple[str, ...]:
    """What :func:`degrade` does, in words."""
    told = [f"blurred by {settings.blur:g} pixels"] if settings.blur else []
    told.append(f"shrunk {settings.factor} times ({settings.kernel})")
    told += [f"noise of {settings.noise:g} gray levels"] if settings.noise else []
    return (*told, *(() if settings.shown == "small" else (f"enlarged ({settings.shown})",)))


def _draw(pair: Pair, seed: int) -> float:
    """A number from 0 to 1 by chance."""
    return int.from_bytes(hashlib.sha256(f"{seed} {pair.id}".encode()).digest()[:8], "big") / 2**64


def _planned(pair: Pair, settings: DegradationSettings) -> Pair:
    facts = {name: value for name, value in pair.more.items() if name not in ("turns", "change", "finding")}
    return replace(
        pair, id=pair_id(pair.source, SUBTASK, pair.id), family="edit", subtask=SUBTASK, text="", question="",
        images=(), target=pair.picture, more={**facts, "scale": settings.factor},
    )  # fmt: skip


def _waits(pair: Pair) -> bool:
    return pair.subtask == SUBTASK and not pair.images


def _made(pair: Pair, settings: DegradationSettings, seed: int, folder: Path) -> Pair:
    image = read_image(pair.target).image
    rng = np.random.default_rng([seed, int(pair.id, 16)])
    # Many files in one folder are slow to list.
    path = folder / pair.id[:2] / f"{pair.id}.png"
    save_once(degrade(image, settings, rng), path)
    return replace(pair, images=(str(path),), steps=(*pair.steps, *(f"input {step}" for step in steps(settings))))
