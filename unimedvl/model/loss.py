"""The output head, and cross-entropy that never holds all logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unimedvl.model.linear import Linear

# Rows of logits alive at a time: 256 x 152064 float32 values are 156 MB.
CHUNK = 256


class LMHead(Linear):
    """Linear (D -> vocabulary) that gives logits, or, with labels, the loss of each row.

    Both are one call of one module, however many chunks it takes: under ZeRO-3 every rank then gathers the
    weight once, whatever number of loss tokens it holds, zero included.
    """

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__(hidden_size, vocab_size, bias=False)

    def forward(self, hidden_ND: Tensor, labels_N: Tensor | None = None, chunk: int = CHUNK) -> Tensor:
        """Logits (N, vocabulary), or with labels int64 (N,) the cross-entropy in nats, float32 (N,).

        With labels, logits exist for ``chunk`` rows at a time, in the backward too, where they are made again.
        """
        if labels_N is None:
            return super().forward(hidden_ND)
        return _ChunkedCrossEntropy.apply(hidden_ND, self.weight, labels_N, chunk)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of ``hidden @ weight.T``; the weight's gradient is added up over the chunks in float32."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(hidden_ND, weight_VD, labels_N)
        ctx.chunk = chunk
        losses = hidden_ND.new_empty(len(labels_N), dtype=torch.float32)
        for rows in _chunks(len(labels_N), chunk):
            logits = F.linear(hidden_ND[rows], weight_VD).float()
            losses[rows] = F.cross_entropy(logits, labels_N[rows], reduction="none")
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (grad_N,) = grads
        hidden_ND, weight_VD, labels_N = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(labels_N), ctx.chunk):
            # d loss / d logits = softmax - one-hot
            grad_logits = F.linear(hidden_ND[rows], weight_VD).float().softmax(dim=-1)
            labels = labels_N[rows, None]
            grad_logits.scatter_add_(1, labels, grad_logits.new_full((1, 1), -1.0).expand_as(labels))
            grad_logits = grad_logits.mul_(grad_N[rows, None]).to(weight_VD.dtype)
            torch.mm(grad_logits, weight_VD, out=grad_hidden[rows])
            if grad_weight is None:
                continue
            if weight_VD.dtype is torch.float32:
                grad_weight.addmm_(grad_logits.T, hidden_ND[rows])
            else:
                grad_weight += grad_logits.T @ hidden_ND[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype), None, None


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


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
