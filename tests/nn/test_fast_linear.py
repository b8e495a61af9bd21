from __future__ import annotations

import torch
from torch import nn

from codec.nn.fast_linear import FastLinear, make_fast


def test_it_is_a_linear_layer():
    """With gradients and without, of any shape and stride."""
    torch.manual_seed(0)
    for bias in (True, False):
        layer = FastLinear(24, 40, bias=bias)
        for x in (torch.randn(24), torch.randn(7, 24), torch.randn(2, 5, 24), torch.randn(2, 24, 5).transpose(1, 2), torch.randn(0, 24)):
            expected = nn.functional.linear(x, layer.weight, layer.bias)
            assert expected.requires_grad and torch.equal(layer(x), expected)
            with torch.no_grad():
                torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
            with torch.inference_mode():
                torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_made_fast_it_keeps_its_parameters():
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5, bias=False), nn.LayerNorm(5)))
    before = dict(network.named_parameters())
    make_fast(network)
    after = dict(network.named_parameters())
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    assert isinstance(network[0], FastLinear) and isinstance(network[1][0], FastLinear)
