"""Linear layers for coding on CPUs, put into networks of other packages."""

from __future__ import annotations

import torch
from torch import nn

from codec.nn.products import Linear as FastLinear


def make_fast(network: nn.Module) -> None:
    """Make every `torch.nn.Linear` inside a `FastLinear` with the same parameters."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                with torch.device("meta"):
                    fast = FastLinear(child.in_features, child.out_features, bias=child.bias is not None)
                fast.weight, fast.bias = child.weight, child.bias
                setattr(parent, name, fast)
