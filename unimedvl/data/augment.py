"""Changes to images that are read in training, so that few of them teach more. Off by default, as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from unimedvl.errors import ConfigError


@dataclass(frozen=True)
class Augment:
    """For the images of understanding records; left and right stay what they are.

    Attributes:
        crop: smallest share of either side that a random crop keeps; 1 keeps everything.
        chance: of an image to be changed at all.
        light: largest relative change of contrast, and of brightness in parts of the full range.
    """

    crop: float = 1.0
    light: float = 0.0
    chance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ConfigError(f"crop {self.crop}", where="data.augment", remedy="give a share above 0, at most 1")
        if not 0 <= self.light < 1:
            raise ConfigError(f"light {self.light}", where="data.augment", remedy="give 0 to below 1")
        if not 0 <= self.chance <= 1:
            raise ConfigError(f"chance {self.chance}", where="data.augment", remedy="give 0 to 1")

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """The RGB image changed, at its size."""
        if generator.random() >= self.chance:
            return image
        size = image.size
        if self.crop < 1:
            sides = [max(1, round(side * generator.uniform(self.crop, 1))) for side in size]
            left, top = (int(generator.integers(whole - part + 1)) for whole, part in zip(size, sides, strict=True))
            box = (left, top, left + sides[0], top + sides[1])
            image = image.resize(size, Image.Resampling.BICUBIC, box)
        if self.light:
            contrast, brightness = 1 + generator.uniform(-self.light, self.light, 2) * (1, 0.5) - (0, 1)
            values = (np.asarray(image, np.float32) - 127.5) * contrast + 127.5 + 255 * brightness
            image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
        return image
