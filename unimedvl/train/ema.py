"""Exponential moving average of the weights, on the pieces that each process owns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """float32 averages; nothing is gathered.

    Args:
        pieces: of the trained weights, where the average starts.
        decay: part that stays at each update (paper, Table 12).
    """

    def __init__(self, pieces: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.pieces = {name: piece.detach().float().clone() for name, piece in pieces.items()}

    @torch.no_grad()
    def update(self, pieces: Mapping[str, Tensor]) -> None:
        """Move towards the weights by ``1 - decay``."""
        names = list(self.pieces)
        now = [pieces[name].to(self.pieces[name].device) for name in names]
        torch._foreach_lerp_([self.pieces[name] for name in names], now, 1 - self.decay)

    @torch.no_grad()
    def restore(self, pieces: Mapping[str, Tensor]) -> None:
        """Go on from stored averages."""
        for name, own in self.pieces.items():
            own.copy_(pieces[name])
