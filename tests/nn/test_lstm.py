"""Recurrent layers."""

from __future__ import annotations

import pytest
import torch

from codec.nn.lstm import PART, BidirectionalLSTM


@pytest.mark.parametrize("frames", [17, PART, 2 * PART + 1])
def test_directions_one_by_one_are_those_together(frames: int):
    torch.manual_seed(0)
    layer, x = BidirectionalLSTM(6, 3), torch.randn(2, 6, frames)
    expected = layer(x)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-6)


@torch.no_grad()
def test_other_devices_run_their_own_kernel(monkeypatch):
    """cuDNN wants all weights side by side, and would warn of each direction by itself and copy it at every call."""
    monkeypatch.setattr(BidirectionalLSTM, "_one_by_one", None)
    assert BidirectionalLSTM(6, 2).to("meta")(torch.zeros(2, 6, 17, device="meta")).shape == (2, 12, 17)
