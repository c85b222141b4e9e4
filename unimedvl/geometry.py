"""Image geometry without images: patches, grids, position ids, target sizes. Pure functions."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from unimedvl.config import PositionMode
from unimedvl.errors import DataError

DEFAULT_MAX_PIXELS = 1_806_336


def patchify(image_CHW: Tensor, patch: int) -> Tensor:
    """Cut an image or a latent into flattened patches.

    Args:
        image_CHW: any dtype; both sides multiples of ``patch``.

    Returns:
        (H/p * W/p, p*p*C), rows in raster order, each row as (row in patch, column in patch, channel).

    Raises:
        DataError: a side is not a multiple of ``patch``.
    """
    _, height, width = image_CHW.shape
    if height % patch or width % patch:
        raise DataError(
            f"image of {height} x {width} does not divide into patches of {patch}",
            where="patchify",
            remedy=f"resize both sides to multiples of {patch}",
        )
    return rearrange(image_CHW, "c (h p) (w q) -> (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Inverse of :func:`patchify`: (height*width, p*p*C) rows of a height x width grid to (C, H, W)."""
    return rearrange(tokens, "(h w) (p q c) -> c (h p) (w q)", h=height, w=width, p=patch, q=patch)


def position_ids(height: int, width: int, max_side: int, mode: PositionMode = "extrapolate") -> Tensor:
    """Rows of a ``max_side`` x ``max_side`` position table for a grid of patches.

    ``extrapolate`` takes the table's top-left corner; ``interpolate`` spreads the grid over the whole
    table, computed in float32 because the bucket borders decide.

    Returns:
        int64 (height * width,), raster order.

    Raises:
        DataError: the grid is larger than the table (extrapolate only).
    """
    if mode == "interpolate":
        rows, columns = _spread(height, max_side), _spread(width, max_side)
    else:
        if max(height, width) > max_side:
            raise DataError(
                f"grid of {height} x {width} patches is larger than the position table of {max_side} x {max_side}",
                remedy=f"make the image at most {max_side} patches on a side",
            )
        rows, columns = torch.arange(height), torch.arange(width)
    return (rows[:, None] * max_side + columns).flatten()


def _spread(count: int, max_side: int) -> Tensor:
    borders = torch.arange(1 / max_side, 1.0, 1 / max_side)
    return torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / count), borders, right=True)


def resize_size(
    width: int, height: int, max_side: int, min_side: int, stride: int, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[int, int]:
    """Size to which an image is resized before it is cut into patches, as the published transforms do.

    The image is shrunk to ``max_side``, then enlarged if its short side is under ``min_side``; sides
    become multiples of ``stride``; an image of more than ``max_pixels`` is shrunk by the ratio of the
    areas (linear in the sides, as published); last, the longest side is held to ``max_side`` again.
    All roundings are half-to-even.

    Returns:
        (width, height) in pixels.
    """
    longest, shortest = max(width, height), min(width, height)
    scale = max(min(max_side / longest, 1.0), min_side / shortest)
    width, height = _scaled(width, height, scale, stride)
    if width * height > max_pixels:
        width, height = _scaled(width, height, max_pixels / (width * height), stride)
    if max(width, height) > max_side:
        width, height = _scaled(width, height, max_side / max(width, height), stride)
    return width, height


def _scaled(width: int, height: int, scale: float, stride: int) -> tuple[int, int]:
    def side(length: int) -> int:
        return max(stride, round(round(length * scale) / stride) * stride)

    return side(width), side(height)
