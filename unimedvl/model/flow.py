"""Rectified flow: the path between data and noise, its timestep embedding, and fixed position tables."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def interpolate(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t eps; the velocity along this path is eps - x_0 (paper section 3.2).

    Args:
        latents, noise: (G, C). ``timesteps``: (G, 1) in [0, 1], 0 for clean data.
    """
    return (1 - timesteps) * latents + timesteps * noise


class TimestepEmbedder(nn.Module):
    """Sinusoids of t in [0, 1], unscaled, through two linear layers."""

    features = 256

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.features, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, timesteps: Tensor) -> Tensor:
        """float32 (I,) to (I, D) in the layers' dtype; the sinusoids are float32."""
        half = self.features // 2
        steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
        angles = timesteps[:, None] * torch.exp(steps * (-math.log(10000.0) / half))
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(sinusoids.to(next(self.mlp.parameters()).dtype))


class PositionTable(nn.Module):
    """Fixed 2-D sin-cos embedding of a ``side`` x ``side`` grid, (side*side, D).

    The table is stored under the released checkpoint's name, but it is always computed, never loaded.
    """

    pos_embed: Tensor

    def __init__(self, side: int, hidden_size: int) -> None:
        super().__init__()
        self.side, self.hidden_size = side, hidden_size
        self.register_buffer("pos_embed", torch.empty(side**2, hidden_size))
        self.reset(self.pos_embed.device, self.pos_embed.dtype)

    def reset(self, device: torch.device, dtype: torch.dtype) -> None:
        """Compute the table anew: a module that left the meta device holds nothing."""
        if device.type != "meta":
            self.pos_embed = sincos_table(self.side, self.hidden_size).to(device, dtype)

    def forward(self, position_ids: Tensor) -> Tensor:
        """int64 (N,) to (N, D)."""
        return F.embedding(position_ids, self.pos_embed)


def sincos_table(side: int, width: int) -> Tensor:
    """float32 (side*side, width): the column index in the first half, the row index in the second.

    Each half holds the sines, then the cosines, of frequencies 1 / 10000^(2k / (width/2)), computed in float64.
    """
    quarter = width // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    columns, rows = waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=-1).float()
