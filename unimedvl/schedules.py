"""Where on the path between data and noise training and sampling stand."""

from __future__ import annotations

from torch import Tensor


def shift_timesteps(timesteps: Tensor, shift: float) -> Tensor:
    """T <- s t / (1 + (s - 1) t): more of the path near the noise for s > 1."""
    return shift * timesteps / (1 + (shift - 1) * timesteps)
