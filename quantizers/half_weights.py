"""Products with weights that fp16 holds exactly, by FBGEMM: half as much memory to read, which is what a step of a stream waits
for, and every row summed alike, alone or among many."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.unchanged import Unchanged

_PRODUCT = getattr(torch.ops.quantized, "linear_dynamic_fp16", None)
_ENGINES = ("x86", "fbgemm")  # torch's names of what brings FBGEMM


def inferring(x: Tensor) -> bool:
    """Whether x is to be coded by kernels without gradients: on a CPU in float32, and not on the way into a graph."""
    return (
        not torch.is_grad_enabled() and x.is_cpu and x.dtype == torch.float32 and x.numel() > 0
        and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    )


def pack(weight: Tensor, bias: Tensor | None):
    """Weights (C', C) and bias (C',), float32 on a CPU, for `product`. None where fp16 does not hold every weight, or where
    there is no FBGEMM."""
    if _PRODUCT is None or torch.compiler.is_compiling() or not weight.is_cpu or weight.dtype != torch.float32:
        return None
    if torch.backends.quantized.engine not in _ENGINES or not torch.equal(weight.half().float(), weight):
        return None
    return torch.ops.quantized.linear_prepack_fp16(weight.detach().contiguous(), bias if bias is None else bias.detach())


def product(x: Tensor, packed) -> Tensor:
    """`F.linear` of x (..., C), for which `inferring` is True."""
    return _PRODUCT(x, packed) if x.dim() > 1 else _PRODUCT(x[None], packed)[0]


class HalfWeights:
    """What `pack` makes of the weights of one layer, kept until they change. Copies of it start empty."""

    def __init__(self) -> None:
        self._kept: tuple[Unchanged, object] | None = None  # set at once: threads may be here together

    def __reduce__(self):
        return HalfWeights, ()

    def of(self, weight: Tensor, bias: Tensor | None):
        if weight.is_inference():  # without a version to tell that they changed
            return None
        tensors, kept = (weight, bias), self._kept
        if kept is None or not kept[0].of(tensors):
            unchanged = Unchanged(tensors)  # before the weights are read: what changes meanwhile is seen
            kept = self._kept = unchanged, pack(weight, bias)
        return kept[1]
