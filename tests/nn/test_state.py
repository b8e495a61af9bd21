from __future__ import annotations

import torch

from codec.nn.conv import CausalConv1d


def test_a_state_does_not_keep_the_block_alive():
    _, state = CausalConv1d(1, 2, 5)(torch.zeros(1, 1, 100_000))
    assert state.untyped_storage().nbytes() == 4 * 4
