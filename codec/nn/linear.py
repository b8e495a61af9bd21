"""A linear layer whose rows do not depend on how many rows there are."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

ROW_MULTIPLE, MANY_ROWS = 8, 256


def rowwise_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` on (..., C), equal bit by bit for a frame alone and the same frame among a thousand.

    CPU matrix libraries sum in another order when the rows that a thread gets leave a remainder of one to three.
    Small inputs (some frames of a live stream) are therefore padded to a multiple of `ROW_MULTIPLE` rows. Tokens then
    do not depend on the size of the chunks, nor on the number of threads.
    """
    if x.numel() == 0:
        return F.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])  # (rows, C)
    rows = flat.shape[0]
    if rows < MANY_ROWS and rows % ROW_MULTIPLE:
        flat = F.pad(flat, (0, 0, 0, -rows % ROW_MULTIPLE))
    return F.linear(flat, weight, bias)[:rows].reshape(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `rowwise_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return rowwise_linear(x, self.weight, self.bias)
