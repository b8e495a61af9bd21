from __future__ import annotations

import torch
from streaming import stream

from codec.nn.lstm import ResidualLSTM


def test_streams_and_sees_no_future():
    torch.manual_seed(0)
    layer, x = ResidualLSTM(6, 2), torch.randn(3, 6, 80)
    changed = x.clone()
    changed[..., 40:] += 1
    with torch.no_grad():
        whole, state = layer(x)
        assert whole.shape == x.shape and all(part.shape == (3, 2, 6) for part in state)
        torch.testing.assert_close(stream(layer, x, 2), whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(layer(changed)[0][..., :40], whole[..., :40], rtol=0, atol=1e-6)


def test_has_a_skip_connection():
    layer, x = ResidualLSTM(4, 1), torch.randn(1, 4, 5)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(layer(x)[0], x)
