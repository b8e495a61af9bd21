"""Products of many rows with one matrix, the inner loop of every search, with rows that do not see each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quantizers.half_weights import inferring, pack, product

# oneDNN sums alike for any number of rows but one. Other libraries sum in another order when the rows that a thread gets leave
# a remainder, and for few columns. Such products are padded, so that a frame has the same result alone and among many.
ROW_MULTIPLE, MANY_ROWS, FEW_COLUMNS = 8, 256, 16
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def products(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (N, d) @ matrix (d, M) + bias (M,), float32, each row bitwise as if it were alone."""
    count, columns = rows.shape[0], matrix.shape[1]
    if torch.compiler.is_exporting():
        return rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)
    if columns < FEW_COLUMNS:
        matrix = F.pad(matrix, (0, FEW_COLUMNS - columns))
        bias = None if bias is None else F.pad(bias, (0, FEW_COLUMNS - columns))
    if _ONEDNN and matrix.dtype == torch.float32 and inferring(rows):
        rows = (rows.expand(2, -1) if count == 1 else rows).contiguous()
        return torch.ops.mkldnn._linear_pointwise(rows, matrix.T, bias, "none", [], "")[:count, :columns]
    if count < MANY_ROWS and count % ROW_MULTIPLE:
        rows = F.pad(rows, (0, 0, 0, -count % ROW_MULTIPLE))
    result = rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)
    return result[:count, :columns]


def nearest(rows: Tensor, codebook: Tensor, half_norms: Tensor | None = None) -> Tensor:
    """Index (N,) of the vector of codebook (M, d) with the least squared distance to each of rows (N, d), the first of
    equals.

    |r - c|^2 = |r|^2 - 2 r.c + |c|^2, of which |r|^2 is the same for every c. half_norms (M,): |c|^2 / 2, where known.
    """
    half_norms = 0.5 * codebook.square().sum(1) if half_norms is None else half_norms
    return products(rows, codebook.T, -half_norms).argmax(1)


class Keys:
    """The vectors (M, d) of one codebook, float32, laid out once for many searches among them."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors, self.half_norms = vectors, 0.5 * vectors.square().sum(1)
        self._packed = pack(vectors, -self.half_norms)

    def gains(self, rows: Tensor) -> Tensor:
        """r.c - |c|^2 / 2 (N, M) of rows (N, d): the larger, the nearer."""
        if self._packed is not None and inferring(rows):
            return product(rows, self._packed)
        return products(rows, self.vectors.T, -self.half_norms)

    def nearest(self, rows: Tensor) -> Tensor:
        """As the function of this name."""
        return self.gains(rows).argmax(1)
