"""The output head, and cross-entropy that never holds all logits at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Rows of logits alive at a time: 128 x 152064 float32 values are 78 MB, and larger chunks are no faster.
CHUNK = 128


class LMHead(nn.Linear):
    """Linear (D -> vocabulary) that gives logits, or, with labels, the loss of each row.

    Both are one call of one module, however many chunks it takes: under ZeRO-3 every rank then gathers the
    weight once, whatever number of loss tokens it holds, zero included.
    """

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__(hidden_size, vocab_size, bias=False)

    def forward(self, hidden_ND: Tensor, labels_N: Tensor | None = None, chunk: int = CHUNK) -> Tensor:
        """Logits (N, vocabulary), or with labels int64 (N,) the cross-entropy in nats, float32 (N,).

        Logits exist for ``chunk`` rows at a time, in the backward too, where they are computed again.
        """
        if labels_N is None:
            return super().forward(hidden_ND)
        pieces = zip(hidden_ND.split(chunk), labels_N.split(chunk), strict=True)
        return torch.cat([checkpoint(self._cross_entropy, *piece, use_reentrant=False) for piece in pieces])

    def _cross_entropy(self, hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
        logits = super().forward(hidden_ND).float()
        return F.cross_entropy(logits, labels_N, reduction="none")


def training_loss(
    ce_sum: Tensor,
    ce_count: Tensor | float,
    mse_sum: Tensor,
    mse_count: Tensor | float,
    *,
    ce_weight: float = 0.25,
    mse_weight: float = 1.0,
) -> Tensor:
    """ce_weight * mean cross-entropy + mse_weight * mean squared error (paper equation 4).

    The counts are those of the whole global batch; a count of zero drops its term.
    """

    def mean(total: Tensor, count: Tensor | float) -> Tensor:
        return total / torch.as_tensor(count, device=total.device).clamp_min(torch.finfo(torch.float32).tiny)

    return ce_weight * mean(ce_sum, ce_count) + mse_weight * mean(mse_sum, mse_count)
