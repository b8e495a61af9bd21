"""A linear layer whose rows do not depend on how many rows there are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.products import usable
from quantizers.half_weights import HalfWeights, inferring, product

ROW_MULTIPLE, MANY_ROWS = 8, 256
FEW_OUTPUTS = 16


def rowwise_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` on (..., C), equal bit by bit for a frame alone and the same frame among a thousand.

    oneDNN sums alike for any number of rows but one (measured on AVX2 and AVX-512, 1 and 2 threads). Where it is not used,
    the matrix library sums in another order when the rows that a thread gets leave a remainder of one to three, and for
    fewer than 12 outputs (measured with MKL on 1 to 16 threads). Few rows are therefore padded, to two or to a multiple of
    `ROW_MULTIPLE`, and small weights to `FEW_OUTPUTS`. Tokens then do not depend on the size of the chunks, nor on the
    number of threads.
    """
    outputs = weight.shape[0]
    if torch.compiler.is_exporting() or x.numel() == 0:  # other runtimes sum as they like
        return F.linear(x, weight, bias)
    if outputs < FEW_OUTPUTS:
        missing = FEW_OUTPUTS - outputs
        weight, bias = F.pad(weight, (0, 0, 0, missing)), None if bias is None else F.pad(bias, (0, missing))
    flat = x.reshape(-1, x.shape[-1])  # (rows, C)
    rows = flat.shape[0]
    if usable(flat, weight):
        flat = flat.expand(2, -1) if rows == 1 else flat
        y = torch.ops.mkldnn._linear_pointwise(flat.contiguous(), weight, bias, "none", [], "")
    else:
        if rows < MANY_ROWS and rows % ROW_MULTIPLE:
            flat = F.pad(flat, (0, 0, 0, -rows % ROW_MULTIPLE))
        y = F.linear(flat, weight, bias)
    return y[:rows, :outputs].contiguous().view(*x.shape[:-1], outputs)


class Linear(nn.Linear):
    """`torch.nn.Linear` whose rows do not depend on how many rows there are: by `HalfWeights` where it can, as with all models
    that were saved in fp16, else by `rowwise_linear`."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self._half = HalfWeights()

    def reset_parameters(self) -> None:
        """Of torch, whose constructor ends with it. Weights lie in memory as (C, C'), as products of few rows want them."""
        outputs, inputs = self.weight.shape
        self.weight = nn.Parameter(self.weight.new_empty(inputs, outputs).T)
        super().reset_parameters()

    def _apply(self, *args, **kwargs) -> Linear:
        self._half = HalfWeights()  # moved or converted: the old weights are not to stay in memory
        return super()._apply(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        packed = self._half.of(self.weight, self.bias) if inferring(x) else None
        return rowwise_linear(x, self.weight, self.bias) if packed is None else product(x, packed)
