"""A linear layer whose one-row products use all CPU threads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """``nn.Linear`` for rows (N, in) -> (N, out).

    A float32 product of a single row, all that decoding a token needs, runs on one thread in the BLAS that torch
    ships; cut into a batch of one piece of the weight per thread, it runs on all. Nothing else changes.
    """

    def forward(self, x_NI: Tensor) -> Tensor:
        """(N, in) to (N, out)."""
        alone = x_NI.shape[0] == 1 and x_NI.device.type == "cpu" and x_NI.dtype is torch.float32
        if not alone or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x_NI)
        pieces = math.gcd(self.out_features, torch.get_num_threads())
        rows = x_NI.expand(pieces, 1, -1)
        weight = self.weight.view(pieces, -1, self.in_features).mT
        if self.bias is None:
            return torch.bmm(rows, weight).view(1, -1)
        return torch.baddbmm(self.bias.view(pieces, 1, -1), rows, weight).view(1, -1)
