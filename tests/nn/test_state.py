from __future__ import annotations

import torch
from torch import nn

from codec.nn.conv import CausalConv1d
from codec.nn.convnext import ConvNeXtBlock
from codec.nn.state import map_state, reset_rows, run


def test_map_state_reaches_every_tensor():
    state = (torch.ones(2), (torch.ones(3), ()), ())
    doubled = map_state(lambda tensor: 2 * tensor, state)
    assert torch.equal(doubled[0], torch.full((2,), 2.0)) and torch.equal(doubled[1][0], torch.full((3,), 2.0))
    assert doubled[1][1] == () and doubled[2] == ()


def test_a_reset_row_starts_anew_and_the_others_go_on():
    torch.manual_seed(0)
    layers = nn.ModuleList([ConvNeXtBlock(6, 9), ConvNeXtBlock(6, 9)])
    before, after = torch.randn(2, 9, 6), torch.randn(2, 4, 6)
    with torch.no_grad():
        _, state = run(layers, before, None)
        y, _ = run(layers, after, reset_rows(state, torch.tensor([True, False])))
        fresh, _ = run(layers, after, None)
        going, _ = run(layers, after, state)
    assert torch.equal(y[0], fresh[0]) and torch.equal(y[1], going[1])
    assert not torch.equal(y[1], fresh[1])


def test_a_state_does_not_keep_the_block_alive():
    _, state = CausalConv1d(1, 2, 5)(torch.zeros(1, 1, 100_000))
    assert state.untyped_storage().nbytes() == 4 * 4
