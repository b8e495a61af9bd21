from __future__ import annotations

import pytest
import torch
from streaming import stream
from torch.nn import functional as F

from codec.nn import conv
from codec.nn.conv import CausalConv1d, CausalConvTranspose1d

KERNELS = [(1, 1, 1), (7, 1, 1), (3, 1, 4), (4, 2, 1), (8, 4, 1), (5, 5, 1), (5, 3, 2)]  # kernel, stride, dilation


@pytest.mark.parametrize("kernel, stride, dilation", KERNELS)
def test_convolution_is_one_padded_on_the_left_and_streams(kernel, stride, dilation):
    torch.manual_seed(0)
    layer, x = CausalConv1d(3, 5, kernel, stride=stride, dilation=dilation), torch.randn(2, 3, 60 * stride)
    with torch.no_grad():
        whole, state = layer(x)
        padded = F.pad(x, ((kernel - 1) * dilation + 1 - stride, 0))
        expected = F.conv1d(padded, layer.conv.weight, layer.conv.bias, stride=stride, dilation=dilation)
        torch.testing.assert_close(whole, expected)
        assert whole.shape == (2, 5, 60) and state.shape[0] == 2
        torch.testing.assert_close(stream(layer, x, 2, unit=stride), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel, stride, dilation", KERNELS)
def test_convolution_sees_no_future(kernel, stride, dilation):
    torch.manual_seed(0)
    layer, x = CausalConv1d(3, 5, kernel, stride=stride, dilation=dilation), torch.randn(1, 3, 20 * stride)
    changed = x.clone()
    changed[..., 10 * stride :] += 1
    with torch.no_grad():
        torch.testing.assert_close(layer(changed)[0][..., :10], layer(x)[0][..., :10], rtol=0, atol=1e-6)
        assert not torch.allclose(layer(changed)[0][..., 10], layer(x)[0][..., 10], atol=1e-3)


@pytest.mark.parametrize("kernel, stride", [(1, 1), (4, 2), (16, 8), (5, 5), (7, 2)])
def test_transposed_convolution_is_one_cut_on_the_right_and_streams(kernel, stride):
    torch.manual_seed(0)
    layer, x = CausalConvTranspose1d(3, 5, kernel, stride), torch.randn(2, 3, 60)
    torch.nn.init.normal_(layer.bias)
    changed = x.clone()
    changed[..., 10:] += 1
    with torch.no_grad():
        whole, state = layer(x)
        full = F.conv_transpose1d(x, layer.conv.weight, layer.bias.flatten(), stride=stride)
        torch.testing.assert_close(whole, full[..., : 60 * stride])
        assert state.shape == (2, 5, kernel - stride)
        torch.testing.assert_close(stream(layer, x, 2), whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(layer(changed)[0][..., : 10 * stride], whole[..., : 10 * stride], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("kernel, stride, dilation", [(7, 1, 1), (3, 1, 4), (4, 2, 1), (8, 4, 1), (5, 3, 2)])
def test_what_lies_before_the_start_is_mirrored_or_repeated(mode, kernel, stride, dilation):
    torch.manual_seed(0)
    layer, x = CausalConv1d(3, 5, kernel, stride, dilation, padding=mode), torch.randn(2, 3, 20 * stride)
    with torch.no_grad():
        whole, _ = layer(x)
        padded = F.pad(x, ((kernel - 1) * dilation + 1 - stride, 0), mode)
        torch.testing.assert_close(whole, F.conv1d(padded, layer.conv.weight, layer.conv.bias, stride, dilation=dilation))
        start = -(-layer.start // stride) * stride
        first, state = layer(x[..., :start])
        rest, _ = layer(x[..., start:], state)
        torch.testing.assert_close(torch.cat([first, rest], 2), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 6, 7, 9, 22, 23])
def test_a_ragged_end_is_filled_up_in_the_same_way(mode, length):
    """Kernel 8, stride 4: outputs are ceil(length / 4). Mirroring more than there is puts zeros behind it first."""
    torch.manual_seed(0)
    layer, x = CausalConv1d(2, 3, 8, stride=4, padding=mode), torch.randn(1, 2, length)
    missing = -length % 4
    longer = F.pad(x, (0, 5 - length)) if mode == "reflect" and length <= 4 else x
    padded = F.pad(longer, (4, missing), {"zeros": "constant"}.get(mode, mode))[..., : 4 + length + missing]
    with torch.no_grad():
        expected = F.conv1d(padded, layer.conv.weight, layer.conv.bias, stride=4)
        torch.testing.assert_close(layer(x)[0], expected)
        assert expected.shape[2] == -(-length // 4)
        if length > 8:
            _, state = layer(x[..., :8])
            torch.testing.assert_close(layer(x[..., 8:], state)[0], expected[..., 2:], rtol=0, atol=1e-6)


def test_paddings_that_cannot_be_had_are_refused():
    with pytest.raises(ValueError, match="there is zeros, reflect, replicate"):
        CausalConv1d(1, 1, 3, padding="circular")
    with pytest.raises(ValueError, match="too little to mirror"):
        CausalConv1d(1, 1, 4, stride=4, padding="reflect")


def test_grouped_transposed_convolution_without_bias():
    torch.manual_seed(0)
    layer, x = CausalConvTranspose1d(4, 4, 4, 2, bias=False, groups=4), torch.randn(2, 4, 30)
    with torch.no_grad():
        whole, _ = layer(x)
        torch.testing.assert_close(whole, F.conv_transpose1d(x, layer.conv.weight, stride=2, groups=4)[..., :60])
        torch.testing.assert_close(stream(layer, x, 2), whole, rtol=0, atol=1e-6)
    assert [name for name, _ in layer.named_parameters()] == ["conv.weight"]


@torch.no_grad()
@pytest.mark.parametrize("kernel, stride, dilation", KERNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_few_outputs_of_many_weights_are_one_product(monkeypatch, kernel, stride, dilation, bias):
    torch.manual_seed(0)
    layer, x = CausalConv1d(3, 5, kernel, stride=stride, dilation=dilation, bias=bias), torch.randn(2, 3, 12 * stride)
    back = CausalConvTranspose1d(3, 5, max(kernel, stride), stride, bias=bias)
    expected, expected_back = layer(x)[0], back(x)[0]
    monkeypatch.setattr(conv, "LARGE_WEIGHTS", ((0, 1000),))
    assert conv.prefers_product(layer.conv.weight, 12)
    torch.testing.assert_close(layer(x)[0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(back(x)[0], expected_back, rtol=0, atol=1e-5)
    torch.testing.assert_close(stream(layer, x, 2, unit=stride), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(stream(back, x, 2), expected_back, rtol=0, atol=1e-5)
    with torch.enable_grad():
        assert not conv.prefers_product(layer.conv.weight, 12)


def test_kernels_that_leave_holes_are_refused():
    with pytest.raises(ValueError, match="widen"):
        CausalConv1d(1, 1, 2, stride=4)
    with pytest.raises(ValueError, match="at least 4"):
        CausalConvTranspose1d(1, 1, 2, 4)
