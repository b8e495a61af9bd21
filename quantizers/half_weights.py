"""Products with weights that fp16 holds exactly, by FBGEMM: half as much memory to read, which is what a step of a stream waits
for, and every row summed alike, alone or among many."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from quantizers.unchanged import Unchanged

FEW_ROWS = 64  # with more of them, all threads are of use
_ENGINES = ("x86", "fbgemm")  # torch's names of what brings FBGEMM
_BY_THREADS = getattr(getattr(torch.ops.quantized, "linear_dynamic_fp16", None), "default", None)


def _direct():
    """FBGEMM as torch had it first: (pack, product) by one thread, without the 7 microseconds that the newer way takes to be
    called. Torch warns, once, that they may go; None where they are gone, or where there is no FBGEMM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ways = torch.fbgemm_pack_gemm_matrix_fp16, torch.fbgemm_linear_fp16_weight_fp32_activation
            ways[1](torch.zeros(1, 2, device="cpu"), ways[0](torch.zeros(2, 2, device="cpu")), torch.zeros(2, device="cpu"))
        except (AttributeError, RuntimeError):
            return None
    return ways


_DIRECT = _direct()


def inferring(x: Tensor) -> bool:
    """Whether x is to be coded by kernels without gradients: on a CPU in float32, and not on the way into a graph."""
    return (
        not torch.is_grad_enabled() and x.is_cpu and x.dtype == torch.float32 and x.numel() > 0
        and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    )


class Packed:
    """What `pack` makes: weights as one thread takes them, and, once they are wanted, as several do."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.few = None if _DIRECT is None else _DIRECT[0](weight.contiguous())
        self._many = None

    def __reduce__(self):
        return Packed, (self.weight, self.bias)

    @property
    def many(self):
        if self._many is None:
            self._many = torch.ops.quantized.linear_prepack_fp16(self.weight.contiguous(), self.bias)
        return self._many


def pack(weight: Tensor, bias: Tensor | None) -> Packed | None:
    """Weights (C', C) and bias (C',), float32 on a CPU, for `product`. None where fp16 does not hold every weight, or where
    there is no FBGEMM."""
    if _BY_THREADS is None or torch.compiler.is_compiling() or not weight.is_cpu or weight.dtype != torch.float32:
        return None
    if torch.backends.quantized.engine not in _ENGINES or not torch.equal(weight.half().float(), weight):
        return None
    return Packed(weight.detach(), None if bias is None else bias.detach())


def product(x: Tensor, packed: Packed) -> Tensor:
    """`F.linear` of x (..., C), for which `inferring` is True."""
    if x.dim() == 1:
        return product(x[None], packed)[0]
    if _DIRECT is None or packed.few is None or x.numel() > FEW_ROWS * x.shape[-1] and torch.get_num_threads() > 1:
        return _BY_THREADS(x, packed.many)
    return _DIRECT[1](x, packed.few, packed.bias)


class HalfWeights:
    """What `pack` makes of the weights of one layer, kept until they change. Copies of it start empty."""

    def __init__(self) -> None:
        self._kept: tuple[Unchanged, Packed | None] | None = None  # set at once: threads may be here together

    def __reduce__(self):
        return HalfWeights, ()

    def of(self, weight: Tensor, bias: Tensor | None) -> Packed | None:
        if weight.is_inference():  # without a version to tell that they changed
            return None
        tensors, kept = (weight, bias), self._kept
        if kept is None or not kept[0].of(tensors):
            unchanged = Unchanged(tensors)  # before the weights are read: what changes meanwhile is seen
            kept = self._kept = unchanged, pack(weight, bias)
        return kept[1]
