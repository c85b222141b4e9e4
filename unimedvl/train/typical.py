"""A packed batch of given size and mix without any data, for counting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unimedvl.config import ModelConfig
from unimedvl.data.packing import pack
from unimedvl.errors import ConfigError
from unimedvl.types import PackedBatch, Sample, SpecialTokens, TextSegment, VaeSegment, VitSegment

_SPECIAL = SpecialTokens(bos=0, eos=0, vision_start=0, vision_end=0)


@dataclass(frozen=True)
class TokenMix:
    """Shares of the kinds of tokens in a batch; they need not add to anything."""

    text: float
    vit: float
    latent: float

    def __post_init__(self) -> None:
        values = (self.text, self.vit, self.latent)
        if not all(0 <= value < math.inf for value in values) or not sum(values):
            raise ConfigError(f"shares {values}", where="token mix", remedy="give shares of 0 or more, not all 0")

    def of(self, tokens: int) -> tuple[int, int, int]:
        """Text, ViT and latent tokens of so many."""
        total = self.text + self.vit + self.latent
        vit, latent = (int(tokens * share / total) for share in (self.vit, self.latent))
        return tokens - vit - latent, vit, latent


def typical_batch(config: ModelConfig, tokens: int, sample_tokens: int, mix: TokenMix) -> PackedBatch:
    """Samples of ``sample_tokens``, and a last shorter one, that together have ``tokens``; tensors of meta.

    Each sample is text without loss, its ViT images, half of the rest of its text with loss, and its target images,
    all as large as the position tables allow and nearly square. Long samples and large images are what costs most, so
    the counts are upper ones; condition images of an edit, which lie in latent space too, count as targets.

    Raises:
        ConfigError: the mix has images for a half that the model lacks.
    """
    for half, present, share in (
        ("visual_und", config.visual_und, mix.vit),
        ("visual_gen", config.visual_gen, mix.latent),
    ):
        if share and not present:
            raise ConfigError(
                f"the mix has tokens for {half}, the model does not", where="token mix", remedy="set their share to 0"
            )
    lengths = [sample_tokens] * (tokens // sample_tokens)
    lengths += [rest] if (rest := tokens % sample_tokens) else []
    return pack([_sample(config, mix, length) for length in lengths], config, _SPECIAL)


def _sample(config: ModelConfig, mix: TokenMix, tokens: int) -> Sample:
    _, vit, latent = mix.of(tokens)
    vit_grids, latent_grids = _grids(vit, config.vit.max_side), _grids(latent, config.max_latent_size)
    images = sum(height * width + 2 for height, width in (*vit_grids, *latent_grids))
    text = max(2, tokens - images)
    prompt, answer = text - text // 2, text // 2
    segments = [
        TextSegment((0,) * prompt),
        *(VitSegment(_meta(config.vit.num_channels, config.vit.patch_size, grid)) for grid in vit_grids),
        TextSegment((0,) * answer, loss=True),
    ]
    for grid in latent_grids:
        latent_image = _meta(config.vae.latent_channels, config.latent_patch_size, grid)
        segments.append(VaeSegment(latent=latent_image, noised=True, timestep=0.5, noise=latent_image))
    return tuple(segments)


def _grids(tokens: int, side: int) -> list[tuple[int, int]]:
    """Nearly square grids of at most ``side`` that take nearly all of ``tokens``, markers included."""
    if tokens < 3:
        return []
    images = -(-tokens // (side * side + 2))
    each = tokens // images - 2
    height = max(1, min(side, math.isqrt(each)))
    return [(height, max(1, min(side, each // height)))] * images


def _meta(channels: int, stride: int, grid: tuple[int, int]) -> Tensor:
    return torch.empty(channels, stride * grid[0], stride * grid[1], device="meta")
