"""A linear layer whose rows do not depend on how many rows there are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_ROWS = 8


def rowwise_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` on (..., C), equal bit by bit for a frame alone and the same frame among a thousand.

    CPU matrix libraries take another kernel, with another order of summation, for products of one to three rows.
    Such small inputs (one frame of a live stream) are padded to `MIN_ROWS` rows, where the kernel, and with it the
    rounding, is the one of the long inputs. Tokens then do not depend on the size of the chunks.
    """
    rows = x.numel() // x.shape[-1] if x.numel() else 0
    if rows >= MIN_ROWS or rows == 0 or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    flat = F.pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, MIN_ROWS - rows))
    return F.linear(flat, weight, bias)[:rows].reshape(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `rowwise_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return rowwise_linear(x, self.weight, self.bias)
