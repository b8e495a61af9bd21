from __future__ import annotations

import pytest
import torch
from streaming import stream
from torch.nn import functional as F

from codec.nn.convnext import CausalDepthwiseConv, ConvNeXtBlock, _ShiftedProducts


def test_gradients_are_right():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_ShiftedProducts.apply, (x, weight, bias))


def test_is_a_depthwise_convolution_padded_on_the_left():
    torch.manual_seed(0)
    layer, x = CausalDepthwiseConv(6, 7), torch.randn(2, 30, 6)
    expected = F.conv1d(F.pad(x.mT, (6, 0)), layer.weight.T[:, None], layer.bias, groups=6).mT
    torch.testing.assert_close(layer(x)[0], expected)
    with torch.no_grad():  # written another way
        torch.testing.assert_close(layer(x)[0], expected)
        torch.testing.assert_close(stream(layer, x, 1, seed=0), expected)


@pytest.mark.parametrize("channels", [3, 17, 64])
@pytest.mark.parametrize("batch", [1, 3])
def test_chunks_give_the_same_bits(channels, batch):
    torch.manual_seed(0)
    block, x = ConvNeXtBlock(channels, 3 * channels + 1, layer_scale=1.0), torch.randn(batch, 300, channels)
    with torch.no_grad():
        whole, _ = block(x)
        for seed in range(3):
            assert torch.equal(stream(block, x, 1, seed=seed), whole)
        assert torch.equal(block(x[:1])[0], whole[:1])


def test_a_state_goes_on_with_gradients_as_without():
    torch.manual_seed(0)
    layer, x = CausalDepthwiseConv(6, 7), torch.randn(2, 30, 6)
    for cut in (1, 4, 12):
        first, state = layer(x[:, :cut])
        second, state = layer(x[:, cut:], state)
        third, _ = layer(x[:, :1], state)
        with torch.no_grad():
            whole = layer(torch.cat([x, x[:, :1]], 1))[0]
        torch.testing.assert_close(torch.cat([first, second, third], 1), whole)
    assert second.requires_grad


def test_sees_no_future():
    torch.manual_seed(0)
    block, x = ConvNeXtBlock(8, 20), torch.randn(1, 30, 8)
    changed = x.clone()
    changed[:, 20:] += 1
    with torch.no_grad():
        assert torch.equal(block(changed)[0][:, :20], block(x)[0][:, :20])
        assert not torch.equal(block(changed)[0][:, 20], block(x)[0][:, 20])


def test_trains_in_bfloat16():
    block = ConvNeXtBlock(8, 20)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = block(torch.randn(1, 30, 8))
    y.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in block.parameters())
