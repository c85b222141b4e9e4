"""The FLUX autoencoder: diffusers' AutoencoderKL under the published latent scaling and tensor names.

Always frozen. Images are encoded at their own size; padding a batch would change the latents.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from unimedvl.config import ModelConfig, VaeConfig
from unimedvl.geometry import patchify
from unimedvl.types import PackedBatch


class Autoencoder(nn.Module):
    """Pixels in [-1, 1] to latents of unit-like scale, and back. f8 for the published sizes.

    Args:
        config: sizes and the latent scale.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        self.config = config
        channels = tuple(config.base_channels * multiplier for multiplier in config.channel_multipliers)
        sizes: dict[str, Any] = {
            "down_block_types": ("DownEncoderBlock2D",) * len(channels),
            "up_block_types": ("UpDecoderBlock2D",) * len(channels),
            "block_out_channels": channels,
            "layers_per_block": config.num_res_blocks,
            "latent_channels": config.latent_channels,
            "norm_num_groups": config.norm_groups,
        }
        self.kl = AutoencoderKL(**sizes, use_quant_conv=False, use_post_quant_conv=False)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, in which pixels and latents are computed."""
        return self.kl.dtype

    def moments(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, each (B, C, H/f, W/f)."""
        (posterior,) = self.kl.encode(pixels_BCHW.to(self.dtype), return_dict=False)
        return posterior.mean, posterior.std

    def encode(self, pixels_BCHW: Tensor, eps: Tensor | None = None) -> Tensor:
        """Latents (B, C, H/f, W/f): scale * (z - shift).

        Args:
            eps: standard normal noise of the latents' shape to sample the posterior; its mean is used without.
        """
        return self.latents(*self.moments(pixels_BCHW), eps)

    def latents(self, mean: Tensor, std: Tensor, eps: Tensor | None = None) -> Tensor:
        """Scale * (z - shift) of the posterior's sample, or of its mean without ``eps``; any shape."""
        return self.config.scaled(mean if eps is None else mean + std * eps.to(mean))

    def moments_each(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation (C, h, w) of images (3, H, W) of any sizes; those of one size run together."""
        by_size: dict[torch.Size, list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            by_size[image.shape].append(number)
        moments: dict[int, tuple[Tensor, Tensor]] = {}
        for numbers in by_size.values():
            means, stds = self.moments(torch.stack([images[number] for number in numbers]))
            moments.update(zip(numbers, zip(means, stds, strict=True), strict=True))
        return [moments[number] for number in range(len(images))]

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Pixels (B, 3, H*f, W*f), nominally in [-1, 1] but not clamped."""
        z = latents_BCHW.to(self.dtype) / self.config.scale_factor + self.config.shift_factor
        (pixels,) = self.kl.decode(z, return_dict=False)  # pyright: ignore[reportArgumentType]
        return pixels

    def published_names(self) -> dict[str, str]:
        """Name in ``ae.safetensors`` -> name of the parameter here, for every tensor."""
        last_block = len(self.config.channel_multipliers) - 1
        return {_published_name(name, last_block): name for name in self.state_dict()}


def _published_name(name: str, last_block: int) -> str:
    name = name.removeprefix("kl.")
    name = re.sub(r"decoder\.up_blocks\.(\d+)", lambda match: f"decoder.up.{last_block - int(match[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    for ours, published in _RENAMED:
        name = name.replace(ours, published)
    return name


_RENAMED = (
    ("down_blocks.", "down."),
    ("resnets.", "block."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("conv_shortcut.", "nin_shortcut."),
    ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
    ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
    ("mid_block.attentions.0.to_", "mid.attn_1."),
    ("conv_norm_out.", "norm_out."),
)


@torch.no_grad()
def encode_latents(
    batch: PackedBatch,
    autoencoder: Autoencoder,
    config: ModelConfig,
    keep: Callable[[str, Tensor, Tensor], None] | None = None,
) -> PackedBatch:
    """Fill ``batch.latents`` where images are pending.

    Args:
        keep: called with the key, mean and standard deviation of every image that has a key.

    Returns:
        the batch with float32 latent tokens (G, P*P*C) and nothing pending; unchanged if nothing was.
    """
    if not batch.pending:
        return batch
    ends = list(accumulate(height * width for height, width in batch.latent_shapes))
    tokens = batch.latents.clone()
    moments = autoencoder.moments_each([item.pixels for item in batch.pending])
    for item, (mean, std) in zip(batch.pending, moments, strict=True):
        if keep is not None and item.key:
            keep(item.key, mean, std)
        latent = autoencoder.latents(mean, std, item.eps)
        height, width = batch.latent_shapes[item.image]
        tokens[ends[item.image] - height * width : ends[item.image]] = patchify(latent, config.latent_patch_size)
    return replace(batch, latents=tokens, pending=())
