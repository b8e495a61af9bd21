from __future__ import annotations

import pytest
import torch
from streaming import stream
from torch.nn import functional as F

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


def test_kernels_that_leave_holes_are_refused():
    with pytest.raises(ValueError, match="widen"):
        CausalConv1d(1, 1, 2, stride=4)
    with pytest.raises(ValueError, match="at least 4"):
        CausalConvTranspose1d(1, 1, 2, 4)
