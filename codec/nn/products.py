"""Matrix products in inference by oneDNN, which uses the wide registers of every CPU; torch's default library does so on some.
Half to a whole times faster on the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantizers.half_weights import inferring

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether x is to be coded by such kernels: on a CPU in float32, without gradients, and not on the way into a graph."""
    return _ONEDNN and x.dtype == weight.dtype and inferring(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` on (..., C)."""
    if not usable(x, weight):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
