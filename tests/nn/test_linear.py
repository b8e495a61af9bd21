from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from codec.nn.linear import Linear, rowwise_linear


@pytest.mark.parametrize("inputs, outputs", [(10, 3), (50, 1), (33, 11), (33, 17), (64, 1024), (384, 1152), (963, 384)])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_alone_are_rows_among_many_bit_by_bit(inputs, outputs, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(700, inputs), torch.randn(outputs, inputs)
    offset = torch.randn(outputs) if bias else None
    whole = rowwise_linear(x, weight, offset)
    for start in (0, 1, 6, 37):
        for rows in [*range(1, 42), 63, 100, 255, 256, 257, 511, 650]:
            alone = rowwise_linear(x[start : start + rows], weight, offset)
            assert torch.equal(alone, whole[start : start + rows]), (start, rows)


def test_is_a_linear_layer_in_any_shape():
    torch.manual_seed(0)
    layer = Linear(10, 6)
    for shape in [(10,), (3, 10), (2, 5, 10), (2, 0, 10)]:
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    strided = torch.randn(2, 10, 5).transpose(1, 2)
    torch.testing.assert_close(layer(strided), layer(strided.contiguous()), rtol=0, atol=0)


def test_gradients_pass_the_padding():
    layer = Linear(4, 3).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w, b: rowwise_linear(x, w, b), (x, layer.weight, layer.bias))
