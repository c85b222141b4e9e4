from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from unimedvl.model.loss import LMHead, training_loss
from unimedvl.profiling import OpCounter


@pytest.mark.parametrize("rows", [0, 1, 5, 8, 17])
def test_chunked_cross_entropy_equals_the_plain_one(rows):
    head = LMHead(16, 40)
    hidden, labels = torch.randn(rows, 16, requires_grad=True), torch.randint(0, 40, (rows,))
    expected = F.cross_entropy(F.linear(hidden, head.weight), labels, reduction="none")
    weight = torch.randn(rows)
    gradients = torch.autograd.grad((expected * weight).sum(), [hidden, head.weight])

    losses = head(hidden, labels, chunk=4)
    assert losses.dtype is torch.float32
    torch.testing.assert_close(losses, expected)
    chunked = torch.autograd.grad((losses * weight).sum(), [hidden, head.weight])
    torch.testing.assert_close(chunked, gradients, atol=1e-6, rtol=1e-5)


def test_bfloat16_gradients_do_not_degrade_with_chunks():
    """Every chunk's share is added in float32: 64 chunks are as good as one."""
    hidden, labels = torch.randn(512, 16), torch.randint(0, 40, (512,))
    weight = torch.randn(40, 16)
    exact = LMHead(16, 40)
    errors = []
    with torch.no_grad():
        exact.weight.copy_(weight.bfloat16().float())
    exact(hidden.bfloat16().float(), labels).sum().backward()
    for chunk in (512, 8):
        head = LMHead(16, 40).bfloat16()
        with torch.no_grad():
            head.weight.copy_(weight)
        head(hidden.bfloat16(), labels, chunk=chunk).sum().backward()
        errors.append((head.weight.grad.float() - exact.weight.grad).norm() / exact.weight.grad.norm())
    assert errors[1] < 1.5 * errors[0]


def test_a_frozen_head_costs_no_weight_gradient():
    head, hidden = LMHead(16, 40).requires_grad_(False), torch.randn(9, 16, requires_grad=True)
    with OpCounter() as counter:
        head(hidden, torch.zeros(9, dtype=torch.int64), chunk=4).sum().backward()
    assert hidden.grad is not None
    assert counter.ops["aten.addmm_"] == 0


def test_logits_exist_for_one_chunk_at_a_time():
    """No tensor of the forward or the backward has more rows of logits than a chunk."""

    class LargestLogits(OpCounter):
        rows = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if isinstance(out, torch.Tensor) and out.ndim == 2 and out.shape[1] == 400:
                self.rows = max(self.rows, out.shape[0])
            return out

    head, hidden = LMHead(16, 400), torch.randn(50, 16, requires_grad=True)
    with LargestLogits() as seen:
        head(hidden, torch.zeros(50, dtype=torch.int64), chunk=8).sum().backward()
    assert seen.rows == 16  # chunk 8, and the weight's own gradient (16, 400) or its transpose


def test_loss_is_the_weighted_sum_of_means():
    loss = training_loss(torch.tensor(6.0), 3, torch.tensor(8.0), torch.tensor(2.0))
    assert loss.item() == pytest.approx(0.25 * 2 + 1.0 * 4)
    # A global batch without images, or without text, drops that term.
    assert training_loss(torch.tensor(6.0), 3, torch.tensor(0.0), 0).item() == pytest.approx(0.5)
    assert training_loss(torch.tensor(0.0), 0, torch.tensor(8.0), 2).item() == pytest.approx(4.0)
