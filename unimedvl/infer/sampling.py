"""Sampling an image along the rectified flow: time grid, guidance, renormalization (paper section 3.2).

Shape letters: R images, L latent tokens of one image, C values of one latent token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unimedvl.errors import ConfigError
from unimedvl.model.flow import shift_timesteps

Renorm = Literal["global", "channel", "text_channel"]
RENORMS: tuple[Renorm, ...] = ("global", "channel", "text_channel")


def time_grid(count: int, shift: float) -> Tensor:
    """``count`` float32 timesteps from 1 (noise) to 0 (image), crowded near the noise for ``shift`` > 1.

    Between them lie ``count`` - 1 Euler steps, as in the published sampler.

    Raises:
        ConfigError: fewer than two timesteps, which would return the noise itself.
    """
    if count < 2:
        raise ConfigError(f"{count} timesteps", where="steps", remedy="use at least 2; one would return pure noise")
    return shift_timesteps(torch.linspace(1, 0, count), shift)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance by up to two weaker contexts.

    Attributes:
        text_scale: weight of what the last text adds; at most 1 switches all guidance off.
        image_scale: weight of what the images add; at most 1 switches that term off.
        interval: guidance acts for timesteps in (low, high].
        renorm: what keeps the guided velocity from growing: one factor per image (``global``), one per token
            (``channel``), or one per token before the image term (``text_channel``).
        renorm_min: smallest factor.
    """

    text_scale: float = 1.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.4, 1.0)
    renorm: Renorm = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        if self.renorm not in RENORMS:
            raise ConfigError(f"renorm is {self.renorm!r}", where="guidance", remedy=f"use {', '.join(RENORMS)}")

    @property
    def uses_text_branch(self) -> bool:
        """Whether the velocity without the last text is needed at all."""
        return self.text_scale > 1

    @property
    def uses_image_branch(self) -> bool:
        """Whether the velocity without images is needed at all."""
        return self.uses_text_branch and self.image_scale > 1

    def active(self, timestep: float) -> bool:
        """Whether guidance acts at this timestep; compared in float32, as published."""
        low, high = torch.tensor(self.interval, dtype=torch.float32)
        return self.uses_text_branch and bool(low < timestep <= high)

    def combine(self, full: Tensor, without_text: Tensor, without_images: Tensor | None) -> Tensor:
        """The guided velocity, float32 (..., L, C), of one image or of a batch along the leading dimensions."""
        full, without_text = full.float(), without_text.float()
        guided = without_text + self.text_scale * (full - without_text)
        if self.renorm == "text_channel":
            guided = self._held(guided, full, (-1,))
        if self.image_scale > 1:
            assert without_images is not None, "an image scale above 1 needs the branch without images"
            without_images = without_images.float()
            guided = without_images + self.image_scale * (guided - without_images)
        if self.renorm == "global":
            guided = self._held(guided, full, (-2, -1))
        elif self.renorm == "channel":
            guided = self._held(guided, full, (-1,))
        return guided

    def _held(self, guided: Tensor, reference: Tensor, dims: tuple[int, ...]) -> Tensor:
        """``guided`` scaled down to the norm of ``reference`` over ``dims``."""
        ratio = reference.norm(dim=dims, keepdim=True) / (guided.norm(dim=dims, keepdim=True) + 1e-8)
        return guided * ratio.clamp(self.renorm_min, 1.0)
