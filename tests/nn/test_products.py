"""Faster forms of what torch has: the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from codec.nn import products
from codec.nn.activations import elu


@torch.no_grad()
@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5), (0, 5), (400, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(monkeypatch, shape, bias):
    torch.manual_seed(0)
    layer, x = products.Linear(5, 7, bias=bias), torch.randn(shape)
    expected = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(products.linear(x.double(), layer.weight.double()), F.linear(x, layer.weight).double(), rtol=0, atol=1e-6)
    across = torch.randn(5, 9).T
    torch.testing.assert_close(products.linear(across, layer.weight), F.linear(across, layer.weight), rtol=0, atol=1e-6)
    monkeypatch.setattr(products, "_ONEDNN", False)
    torch.testing.assert_close(layer(x), expected)


def test_linear_has_gradients():
    layer, x = products.Linear(5, 7), torch.randn(2, 5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None


def test_elu():
    x = torch.cat([torch.linspace(-100, 100, 2001), torch.linspace(-1e-3, 1e-3, 2001), torch.tensor([0.0, -0.0, 1e-30, -1e-30])])
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(elu(x), F.elu(x), rtol=0, atol=1.2e-7)
        assert torch.equal(elu(x)[x > 0], x[x > 0]) and torch.equal(x, before)
        assert elu(torch.tensor([torch.nan])).isnan() and elu(torch.tensor([-torch.inf])) == -1
    x.requires_grad_()
    elu(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.exp(torch.clamp(before, max=0)))
