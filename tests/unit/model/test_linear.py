from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from unimedvl.model.linear import Linear


@pytest.mark.parametrize("rows", [0, 1, 2, 8, 9])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [12, 7])
def test_equals_torch(rows, bias, width):
    layer = Linear(10, width, bias=bias)
    x = torch.randn(rows, 10)
    expected = F.linear(x, layer.weight, layer.bias)
    with torch.no_grad():
        out = layer(x)
    # Ten products in float32, perhaps summed in another order.
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)
    assert out.is_contiguous()


def test_one_row_has_gradients():
    layer, x = Linear(10, 12), torch.randn(1, 10, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.detach().expand(12, 10))
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0, keepdim=True))
