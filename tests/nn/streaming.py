"""Cut inputs into chunks of random sizes and run a streaming layer over them."""

from __future__ import annotations

import torch
from torch import Tensor


def random_sizes(total: int, seed: int) -> list[int]:
    """Sizes from 1 to 40, many of them small, that sum to `total`."""
    generator = torch.Generator().manual_seed(seed)
    sizes = []
    while total:
        most = (1, 3, 12, 40)[int(torch.randint(4, (), generator=generator))]
        sizes.append(min(total, 1 + int(torch.randint(most, (), generator=generator))))
        total -= sizes[-1]
    return sizes


def stream(layer, x: Tensor, dim: int, unit: int = 1, seed: int = 0) -> Tensor:
    """Outputs of `layer` over chunks of `x` along `dim`, multiples of `unit`, joined along the same dimension."""
    outputs, state, start = [], None, 0
    for size in random_sizes(x.shape[dim] // unit, seed):
        y, state = layer(x.narrow(dim, start * unit, size * unit), state)
        outputs.append(y)
        start += size
    return torch.cat(outputs, dim)
