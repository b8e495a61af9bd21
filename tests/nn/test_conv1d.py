"""Convolutions with the channels of a moment side by side: those of torch, whatever way they are computed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from codec.nn.conv1d import Conv1d, ConvTranspose1d
from codec.nn.snake import Snake

CONVOLUTIONS = [  # channels, channels, kernel, options; the last of each kind has many weights for so few outputs
    (1, 8, 7, {"padding": 3}), (8, 1, 7, {"padding": 3}), (8, 1, 3, {"dilation": 2}), (6, 10, 1, {}), (6, 10, 1, {"bias": False}),
    (8, 8, 7, {"padding": 9, "dilation": 3}), (8, 12, 4, {"stride": 2, "padding": 1}), (8, 12, 5, {"stride": 3, "bias": False}),
    (8, 8, 7, {"padding": 3, "groups": 8}), (8, 8, 7, {"padding": 27, "dilation": 9, "groups": 8}), (8, 4, 3, {"groups": 2}),
    (400, 500, 7, {"padding": 3}), (300, 400, 4, {"stride": 2, "padding": 1}), (300, 400, 3, {"padding": 2, "dilation": 2}),
]
TRANSPOSED = [
    (8, 4, 4, {"stride": 2, "padding": 1}), (8, 4, 6, {"stride": 3, "padding": 2}), (8, 4, 5, {"stride": 2}),
    (8, 4, 10, {"stride": 5, "padding": 3, "output_padding": 1}), (8, 8, 4, {"stride": 2, "groups": 8}),
    (400, 300, 16, {"stride": 8, "padding": 4}), (400, 300, 10, {"stride": 5, "padding": 3, "output_padding": 1}),
    (400, 300, 9, {"stride": 3, "bias": False}),
]
CASES = [(Conv1d, nn.Conv1d, case) for case in CONVOLUTIONS] + [(ConvTranspose1d, nn.ConvTranspose1d, case) for case in TRANSPOSED]


IDS = [f"{own.__name__}{case}" for own, _, case in CASES]


@pytest.mark.parametrize("own, torchs, case", CASES, ids=IDS)
@pytest.mark.parametrize("length", [9, 40])
def test_they_are_torchs(own, torchs, case, length):
    torch.manual_seed(0)
    *sizes, options = case
    layer, reference = own(*sizes, **options), torchs(*sizes, **options)
    assert {name: value.shape for name, value in layer.state_dict().items()} == {
        name: value.shape for name, value in reference.state_dict().items()}
    layer.load_state_dict(reference.state_dict())
    x = torch.randn(2, sizes[0], length)
    expected = reference(x)
    assert layer(x).requires_grad
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
    for given in (x, x.mT.contiguous().mT):  # of both layouts
        with torch.inference_mode():
            torch.testing.assert_close(layer(given), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(layer(given[:1]), expected[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("own, torchs, case", CASES, ids=IDS)
def test_the_layout_stays(own, torchs, case):
    """Of weights that are loaded, copied and moved, and of what goes through a chain of layers."""
    *sizes, options = case
    layer = own(*sizes, **options)
    layout = layer.weight.stride()
    layer.load_state_dict(torchs(*sizes, **options).state_dict())
    assert copy.deepcopy(layer).double().float().weight.stride() == layer.weight.stride() == layout
    with torch.inference_mode():
        y = layer(torch.randn(2, sizes[0], 30))
        y = Snake(y.shape[1])(y)
    assert y.shape[1] == 1 or y.stride(1) == 1


def test_too_short_a_signal_is_refused_as_by_torch():
    with torch.no_grad(), pytest.raises(RuntimeError, match="[Kk]ernel size"):
        Conv1d(4, 4, 7)(torch.randn(1, 4, 3))


@torch.no_grad()
@pytest.mark.parametrize("reuse", [False, True])
def test_snake_on_both_layouts(reuse, monkeypatch):
    from codec.nn import snake

    monkeypatch.setattr(snake, "TILE", 64)  # several tiles
    layer, x = Snake(6), torch.randn(2, 6, 50)
    layer.alpha.uniform_(0.3, 2.0)
    with torch.enable_grad():
        expected = layer(x).detach()
    for given in (x.clone(), x.mT.contiguous().mT):
        torch.testing.assert_close(layer(given, reuse), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_elu_on_both_layouts(monkeypatch):
    from codec.nn import activations

    monkeypatch.setattr(activations, "TILE", 64)  # several tiles, or one pass where memory has holes
    x = 3 * torch.randn(2, 6, 50)
    for given in (x, x.mT.contiguous().mT, x[..., 1:], torch.randn(2, 3, 1), x[:, :, ::2]):
        torch.testing.assert_close(activations.elu(given), torch.nn.functional.elu(given), rtol=0, atol=1e-6)
