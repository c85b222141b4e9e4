"""Layout of samples in one packed sequence (paper section 3.2; the published layout, token for token)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from unimedvl.config import ModelConfig
from unimedvl.errors import ConfigError, DataError
from unimedvl.geometry import patchify, position_ids
from unimedvl.types import (
    AttentionMode,
    DroppedImage,
    PackedBatch,
    PendingImage,
    Sample,
    SpecialTokens,
    Split,
    TextSegment,
    VaeSegment,
    VitSegment,
)

Logits = Literal["none", "last", "all"]


def pack(
    samples: Sequence[Sample],
    config: ModelConfig,
    special: SpecialTokens,
    *,
    start_positions: Sequence[int] | None = None,
    logits: Logits = "none",
    reweight_ce: bool = False,
) -> PackedBatch:
    """Lay samples out back to back.

    Text advances the position by one a token. All tokens of an image share one position; a clean image then
    advances it by one, even if it was dropped; a noised target does not, so that the clean copy that follows stands
    where it stood.

    Args:
        start_positions: position at which each sample starts, for samples that continue a cached context.
        logits: which text tokens' logits the model returns: none, the last of each sample, or all.
        reweight_ce: weigh loss tokens by 1 / sqrt(tokens that their segment predicts) instead of equally.

    Raises:
        DataError: a sample is empty, or an image does not fit the position table.
    """
    if logits not in get_args(Logits):
        raise ConfigError(f"logits is {logits!r}", where="pack", remedy=f"use {', '.join(get_args(Logits))}")
    starts = [0] * len(samples) if start_positions is None else start_positions
    if len(starts) != len(samples):
        raise DataError(f"{len(starts)} start positions for {len(samples)} samples", remedy="give one per sample")
    layout = _Layout(config, special, reweight_ce)
    for document, (sample, start) in enumerate(zip(samples, starts, strict=True)):
        if all(isinstance(segment, DroppedImage) for segment in sample):
            raise DataError(f"sample {document} has no segment", remedy="drop it before packing")
        layout.add(document, sample, start, logits)
    return layout.batch()


@dataclass
class _Layout:
    """The growing sequence."""

    config: ModelConfig
    special: SpecialTokens
    reweight_ce: bool
    splits: list[Split] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    text_ids: list[int] = field(default_factory=list)
    text_index: list[int] = field(default_factory=list)
    ce_index: list[int] = field(default_factory=list)
    ce_labels: list[int] = field(default_factory=list)
    ce_weights: list[float] = field(default_factory=list)
    logit_index: list[int] = field(default_factory=list)
    vit_index: list[int] = field(default_factory=list)
    vit_patches: list[Tensor] = field(default_factory=list)
    vit_positions: list[Tensor] = field(default_factory=list)
    vae_index: list[int] = field(default_factory=list)
    vae_positions: list[Tensor] = field(default_factory=list)
    vae_shapes: list[tuple[int, int]] = field(default_factory=list)
    vae_segments: list[VaeSegment] = field(default_factory=list)
    velocity_index: list[int] = field(default_factory=list)
    next_positions: list[int] = field(default_factory=list)

    def add(self, document: int, sample: Sample, position: int, logits: str) -> None:
        text_before = len(self.text_index)
        for segment in sample:
            if isinstance(segment, TextSegment):
                position = self._add_text(document, segment, position)
            elif isinstance(segment, VitSegment):
                position = self._add_vit(document, segment, position)
            elif isinstance(segment, VaeSegment):
                position = self._add_vae(document, segment, position)
            else:
                position += 1
        self.next_positions.append(position)
        if logits == "all":
            self.logit_index += self.text_index[text_before:]
        elif logits == "last":
            self.logit_index.append(self.text_index[-1])

    def _add_text(self, document: int, segment: TextSegment, position: int) -> int:
        ids = segment.token_ids
        if not ids:
            raise DataError(f"a text segment of sample {document} has no token", remedy="drop it before packing")
        first = len(self.positions)
        self.text_ids += ids
        self.text_index += range(first, first + len(ids))
        self.positions += range(position, position + len(ids))
        if segment.loss:
            predicted = len(ids) - 1
            self.ce_index += range(first, first + predicted)
            self.ce_labels += ids[1:]
            self.ce_weights += [max(predicted, 1) ** -0.5 if self.reweight_ce else 1.0] * predicted
        self.splits.append(Split(document, len(ids), "causal"))
        return position + len(ids)

    def _add_vit(self, document: int, segment: VitSegment, position: int) -> int:
        patch = self.config.vit.patch_size
        _check_image(segment.pixels, self.config.vit.num_channels, "ViT segment")
        patches = patchify(segment.pixels, patch)
        height, width = (side // patch for side in segment.pixels.shape[1:])
        self.vit_patches.append(patches)
        self.vit_positions.append(position_ids(height, width, self.config.vit.max_side, self.config.position_mode))
        self.vit_index += self._add_framed(document, len(patches), position, "full")
        return position + 1

    def _add_vae(self, document: int, segment: VaeSegment, position: int) -> int:
        height, width = self._latent_grid(segment)
        patch = self.config.latent_patch_size
        _check_path(segment, (self.config.vae.latent_channels, patch * height, patch * width))
        index = self._add_framed(document, height * width, position, "noise" if segment.noised else "full")
        self.vae_index += index
        self.vae_segments.append(segment)
        self.vae_shapes.append((height, width))
        self.vae_positions.append(position_ids(height, width, self.config.max_latent_size, self.config.position_mode))
        if segment.noised:
            self.velocity_index += index
            return position
        return position + 1

    def _latent_grid(self, segment: VaeSegment) -> tuple[int, int]:
        """Height and width of the image in latent tokens."""
        if segment.latent is not None:
            image, channels, stride = segment.latent, self.config.vae.latent_channels, self.config.latent_patch_size
        elif segment.pixels is not None:
            image, channels, stride = segment.pixels, 3, self.config.latent_stride
        else:
            raise DataError("a VAE segment has neither pixels nor latent", remedy="give one of them")
        _check_image(image, channels, "VAE segment")
        height, width = image.shape[1:]
        if height % stride or width % stride:
            raise DataError(
                f"{'latent' if segment.latent is not None else 'image'} of {height} x {width}",
                where="VAE segment",
                remedy=f"both sides must be multiples of {stride}",
            )
        return height // stride, width // stride

    def _add_framed(self, document: int, count: int, position: int, mode: AttentionMode) -> range:
        """Place ``count`` image tokens between the vision markers; return the positions of the image tokens."""
        first = len(self.positions)
        self.text_ids += (self.special.vision_start, self.special.vision_end)
        self.text_index += (first, first + count + 1)
        self.positions += [position] * (count + 2)
        self.splits.append(Split(document, count + 2, mode))
        return range(first + 1, first + 1 + count)

    def batch(self) -> PackedBatch:
        counts = torch.tensor([height * width for height, width in self.vae_shapes], dtype=torch.int64)
        latents, pending = self._latents()
        return PackedBatch(
            splits=tuple(self.splits),
            position_ids=_ints(self.positions),
            text_ids=_ints(self.text_ids),
            text_index=_ints(self.text_index),
            vit_patches=_rows(self.vit_patches, self.config.vit.patch_dim),
            vit_position_ids=torch.cat([_ints([]), *self.vit_positions]),
            vit_index=_ints(self.vit_index),
            vit_lengths=tuple(len(patches) for patches in self.vit_patches),
            latents=latents,
            latent_position_ids=torch.cat([_ints([]), *self.vae_positions]),
            latent_index=_ints(self.vae_index),
            latent_image=torch.arange(len(counts)).repeat_interleave(counts),
            latent_shapes=tuple(self.vae_shapes),
            timesteps=torch.tensor([segment.timestep for segment in self.vae_segments], dtype=torch.float32),
            noise=self._noise(),
            velocity_index=_ints(self.velocity_index),
            ce_index=_ints(self.ce_index),
            ce_labels=_ints(self.ce_labels),
            ce_weights=torch.tensor(self.ce_weights, dtype=torch.float32),
            logit_index=_ints(self.logit_index),
            pending=pending,
            next_positions=tuple(self.next_positions),
        )

    def _latents(self) -> tuple[Tensor, tuple[PendingImage, ...]]:
        """Latent tokens, zeros for images whose pixels must be encoded first, and those images."""
        rows: list[Tensor] = []
        pending: list[PendingImage] = []
        for number, (segment, (height, width)) in enumerate(zip(self.vae_segments, self.vae_shapes, strict=True)):
            if segment.latent is not None:
                rows.append(patchify(segment.latent, self.config.latent_patch_size))
            elif segment.pixels is not None:
                rows.append(torch.zeros(height * width, self.config.latent_dim))
                pending.append(PendingImage(number, segment.pixels, segment.eps, segment.key))
        return _rows(rows, self.config.latent_dim), tuple(pending)

    def _noise(self) -> Tensor | None:
        """Noise tokens, zeros for clean images; None while sampling, where targets come without."""
        targets = [segment for segment in self.vae_segments if segment.noised]
        given = sum(segment.noise is not None for segment in targets)
        if 0 < given < len(targets):
            raise DataError(
                f"{given} of {len(targets)} noised segments come with noise",
                remedy="give noise to all (training) or to none (sampling, where the latent is x_t itself)",
            )
        if targets and not given:
            return None
        rows = [
            torch.zeros(height * width, self.config.latent_dim)
            if segment.noise is None
            else patchify(segment.noise, self.config.latent_patch_size)
            for segment, (height, width) in zip(self.vae_segments, self.vae_shapes, strict=True)
        ]
        return _rows(rows, self.config.latent_dim)


def _check_image(image: Tensor, channels: int, where: str) -> None:
    if image.ndim != 3 or image.shape[0] != channels or not image.is_floating_point() or not image.numel():
        raise DataError(
            f"{image.dtype} of shape {tuple(image.shape)}".removeprefix("torch."),
            where=where,
            remedy=f"give floats of shape ({channels}, height, width)",
        )


def _check_path(segment: VaeSegment, shape: tuple[int, int, int]) -> None:
    """A clean image is at t = 0 without noise; a noised one at t in [0, 1]; draws are as large as the latent."""
    if not (0 <= segment.timestep <= 1 if segment.noised else segment.timestep == 0 and segment.noise is None):
        raise DataError(
            f"a {'noised' if segment.noised else 'clean'} image at timestep {segment.timestep}"
            f"{' with noise' if segment.noise is not None else ''}",
            where="VAE segment",
            remedy="noised images have a timestep in [0, 1]; clean ones have timestep 0 and no noise",
        )
    for name, draw in (("noise", segment.noise), ("eps", segment.eps)):
        if draw is not None and draw.shape != shape:
            raise DataError(
                f"{name} of shape {tuple(draw.shape)} for a latent of {shape}",
                where="VAE segment",
                remedy=f"draw {name} of the latent's shape",
            )


def _ints(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _rows(blocks: list[Tensor], width: int) -> Tensor:
    return torch.cat(blocks) if blocks else torch.empty(0, width)
