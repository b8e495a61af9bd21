"""A linear layer whose rows do not depend on how many rows there are."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

ROW_MULTIPLE, MANY_ROWS = 8, 256
FEW_OUTPUTS = 16


def rowwise_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` on (..., C), equal bit by bit for a frame alone and the same frame among a thousand.

    CPU matrix libraries sum in another order when the rows that a thread gets leave a remainder of one to three, and
    for fewer than 12 outputs (measured with MKL on 1 to 16 threads). Small inputs (some frames of a live stream) are
    therefore padded to a multiple of `ROW_MULTIPLE` rows, and small weights to `FEW_OUTPUTS`. Tokens then do not depend
    on the size of the chunks, nor on the number of threads.
    """
    outputs = weight.shape[0]
    if x.numel() == 0:
        return F.linear(x, weight, bias)
    if outputs < FEW_OUTPUTS:
        missing = FEW_OUTPUTS - outputs
        weight, bias = F.pad(weight, (0, 0, 0, missing)), None if bias is None else F.pad(bias, (0, missing))
    flat = x.reshape(-1, x.shape[-1])  # (rows, C)
    rows = flat.shape[0]
    if rows < MANY_ROWS and rows % ROW_MULTIPLE:
        flat = F.pad(flat, (0, 0, 0, -rows % ROW_MULTIPLE))
    return F.linear(flat, weight, bias)[:rows, :outputs].contiguous().view(*x.shape[:-1], outputs)


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `rowwise_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return rowwise_linear(x, self.weight, self.bias)
