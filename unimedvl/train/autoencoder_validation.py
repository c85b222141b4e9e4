"""What an autoencoder makes of whole images: PSNR, pictures to look at, and the scale of its latents."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unimedvl.config import VaeConfig
from unimedvl.errors import ConfigError
from unimedvl.model.vae import Autoencoder
from unimedvl.processor import to_pillow
from unimedvl.train.autoencoder_data import Pixels, spread

_BEST_PSNR = 100.0  # of a perfect copy, which has no finite value
_SHOWN = 24  # images of a grid, at most
_COLUMNS, _CELL, _PADDING, _LINE = 4, 256, 6, 14
_AT_ONCE = 4  # images that run together


@dataclass(frozen=True)
class Validation:
    """How well held-out images come back.

    Attributes:
        psnr: mean over the images, in dB; ``psnr_by_modality`` the same over those of each modality.
        grid: originals beside their reconstructions.
    """

    psnr: float
    psnr_by_modality: Mapping[str, float]
    grid: Image.Image


@torch.no_grad()
def validate(autoencoder: Autoencoder, held_out: Pixels) -> Validation:
    """Reconstruct whole images from the means of their posteriors, in the dtype of the weights."""
    values = [0.0] * len(held_out)
    shown: dict[int, Tensor] = dict.fromkeys(spread(len(held_out), _SHOWN), torch.empty(0))
    for numbers in _by_size(held_out.images):
        mean, _ = autoencoder.moments(_normalized(held_out, numbers, autoencoder))
        (decoded_BCHW,) = autoencoder.kl.decode(mean, return_dict=False)  # pyright: ignore[reportArgumentType]
        for number, image in zip(numbers, _as_bytes(decoded_BCHW).cpu(), strict=True):
            values[number] = psnr(image, held_out.images[number])
            if number in shown:
                shown[number] = image
    captions = [f"{held_out.modalities[number]} {values[number]:.1f} dB" for number in shown]
    picture = grid([(held_out.images[number], image) for number, image in shown.items()], captions)
    return Validation(sum(values) / len(values), _by_modality(values, held_out.modalities), picture)


@torch.no_grad()
def scaled_config(autoencoder: Autoencoder, images: Pixels, between: Callable[[], None]) -> VaeConfig:
    """The config with which the images' posterior means have zero mean and unit deviation, over all channels.

    Args:
        between: called before each few images; may raise to stop.

    Raises:
        ConfigError: all latents are the same.
    """
    count, total, squares = 0, 0.0, 0.0
    for numbers in _by_size(images.images):
        between()
        mean = autoencoder.moments(_normalized(images, numbers, autoencoder))[0].double()
        count += mean.numel()
        total += mean.sum().item()
        squares += mean.square().sum().item()
    shift = total / count
    std = math.sqrt(max(0.0, squares / count - shift**2))
    if not 0 < std < math.inf:
        raise ConfigError(
            f"latents have a standard deviation of {std:g}", where="autoencoder", remedy="lower kl_weight"
        )
    return replace(autoencoder.config, scale_factor=1 / std, shift_factor=shift)


def _normalized(pixels: Pixels, numbers: Sequence[int], autoencoder: Autoencoder) -> Tensor:
    """float32 (B, 3, H, W) in [-1, 1], where the weights are."""
    return torch.stack([pixels.images[number] for number in numbers]).to(autoencoder.kl.device).float() / 127.5 - 1


def _by_size(images: Sequence[Tensor]) -> Iterator[list[int]]:
    """Numbers of the images, a few of one shape at a time."""
    groups: dict[torch.Size, list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        groups[image.shape].append(number)
    for numbers in groups.values():
        yield from (numbers[first : first + _AT_ONCE] for first in range(0, len(numbers), _AT_ONCE))


def psnr(first: Tensor, second: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images, at most 100."""
    error = (first.double() - second.double()).square().mean().item()
    return min(_BEST_PSNR, 10 * math.log10(255**2 / error)) if error else _BEST_PSNR


def _as_bytes(pixels: Tensor) -> Tensor:
    """uint8 of pixels in [-1, 1], values outside clamped."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _by_modality(values: Sequence[float], modalities: Sequence[str]) -> Mapping[str, float]:
    """Mean over the images of each modality, sorted by name."""
    groups: dict[str, list[float]] = defaultdict(list)
    for value, modality in zip(values, modalities, strict=True):
        groups[modality or "unknown"].append(value)
    return {name: sum(groups[name]) / len(groups[name]) for name in sorted(groups)}


def grid(pairs: Sequence[tuple[Tensor, Tensor]], captions: Sequence[str]) -> Image.Image:
    """RGB picture of pairs original | reconstruction, uint8 (3, H, W) each, with a caption below each pair."""
    cells = [[_cell(image) for image in pair] for pair in pairs]
    width = max(image.width for pair in cells for image in pair)
    height = max(image.height for pair in cells for image in pair)
    across, down = 2 * width + 2 * _PADDING, height + _LINE + _PADDING
    columns = min(_COLUMNS, len(pairs))
    picture = Image.new("RGB", (columns * across + _PADDING, -(-len(pairs) // columns) * down + _PADDING), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for number, (pair, caption) in enumerate(zip(cells, captions, strict=True)):
        left, top = number % columns * across + _PADDING, number // columns * down + _PADDING
        for place, image in enumerate(pair):
            picture.paste(image, (left + place * (width + 1), top))
        draw.text((left, top + height), caption, fill="black", font=font)
    return picture


def _cell(image_CHW: Tensor) -> Image.Image:
    image = to_pillow(image_CHW / 127.5 - 1)
    image.thumbnail((_CELL, _CELL))
    return image
