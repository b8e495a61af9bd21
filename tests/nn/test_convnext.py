from __future__ import annotations

import copy
import pickle

import pytest
import torch
from streaming import stream
from torch.nn import functional as F

from codec.nn.convnext import ConvNeXtBlock
from codec.nn.depthwise import CausalDepthwiseConv, _ShiftedProducts
from quantizers.half_weights import pack


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


def halves(block: ConvNeXtBlock) -> ConvNeXtBlock:
    """Weights as a saved model has them."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter).mul(0.1).half())
    return block


def plainly(block: ConvNeXtBlock, x: torch.Tensor) -> torch.Tensor:
    """By modules, as in training."""
    with torch.enable_grad():
        return block(x)[0].detach()


needs_fbgemm = pytest.mark.skipif(pack(torch.ones(2, 2), None) is None, reason="this torch has no FBGEMM")


@needs_fbgemm
@pytest.mark.parametrize("channels", [3, 17, 64])
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_laid_out_chunks_give_the_same_bits(channels, batch):
    torch.manual_seed(0)
    block, x = halves(ConvNeXtBlock(channels, 3 * channels + 1)), torch.randn(batch, 300, channels)
    whole, state = block(x)
    assert block._laid.usable
    torch.testing.assert_close(whole, plainly(block, x), atol=1e-5, rtol=1e-5)
    for seed in range(3):
        assert torch.equal(stream(block, x, 1, seed=seed), whole)
    assert torch.equal(block(x[:1])[0], whole[:1])
    block.norm.register_forward_hook(lambda *_: None)  # goes the way of modules: with the same state
    torch.testing.assert_close(block(x, state)[1], block(x, torch.zeros_like(state))[1])


@needs_fbgemm
@torch.no_grad()
def test_a_block_that_changes_is_laid_out_anew():
    torch.manual_seed(0)
    block, x = halves(ConvNeXtBlock(8, 20)), torch.randn(2, 9, 8)
    other = halves(ConvNeXtBlock(8, 20))
    for change in (
        lambda: block.expand.weight.data.mul_(2), lambda: block.project.bias.data.add_(1), lambda: block.depthwise.weight.data.mul_(2),
        lambda: block.depthwise.weight.mul_(2), lambda: block.scale.data.mul_(3), lambda: block.norm.weight.detach().numpy().fill(2),
        lambda: setattr(block.scale, "data", other.scale.data), lambda: setattr(block, "scale", other.scale),
        lambda: setattr(block, "norm", other.norm), lambda: setattr(block.expand, "weight", other.expand.weight),
        lambda: setattr(block, "project", torch.nn.Sequential(other.project)), lambda: setattr(block, "project", other.project),
        lambda: block.load_state_dict(other.state_dict()), lambda: block.bfloat16().float(),
    ):
        change()
        torch.testing.assert_close(block(x)[0], plainly(block, x), atol=1e-5, rtol=1e-5)


@needs_fbgemm
@torch.no_grad()
def test_who_listens_inside_of_a_block_hears():
    block, x, heard = halves(ConvNeXtBlock(8, 20)), torch.randn(1, 3, 8), []
    block(x)
    handle = block.norm.register_forward_hook(lambda *_: heard.append(1))
    block(x)
    handle.remove()
    block(x)
    assert heard == [1] and block._laid.usable


@needs_fbgemm
@torch.no_grad()
def test_copies_of_a_block_lay_out_their_own():
    block, x = halves(ConvNeXtBlock(8, 20)), torch.randn(1, 3, 8)
    y, _ = block(x)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert other._laid is None and torch.equal(other(x)[0], y)
    assert block.to("meta")._laid is None
