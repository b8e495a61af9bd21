"""Search of residual codes that weighs distance against bits: entropy-constrained vector quantization (Chou, Lookabaugh and
Gray 1989), with the beam of `beam_search` in place of one choice per codebook.

Where a code is so much more likely than the others that it costs next to nothing, as the smallest vector of a codebook can
be, it says "no more of this codebook": so frames come to have as many codes as they are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantizers.search import MANY_ROWS

Cost = Callable[[int, Tensor, Tensor], Tensor]  # codebook k, rows (M,), codes below (k, M) to bits (M, size)


@torch.no_grad()
def search(rows: Tensor, codebooks: Sequence[Tensor], price: Tensor, cost: Cost, beam: int) -> Tensor:
    """rows (N, width) to codes (N, K) with the least |row - sum of vectors|^2 + price * bits that the beam meets.

    codebooks: vectors (size, width) of each. price (N,): squares that a bit is worth. cost: bits of the codes of a codebook
    for choices of rows, of which it is told the row and the codes so far.
    """
    parts = torch.arange(len(rows), device=rows.device).split(max(1, MANY_ROWS // beam))
    return torch.cat([_search(rows, part, codebooks, price, cost, beam) for part in parts])


def _search(rows: Tensor, part: Tensor, codebooks: Sequence[Tensor], price: Tensor, cost: Cost, beam: int) -> Tensor:
    count, width = len(part), 1
    left, spent = rows[part], torch.zeros(count, 1, device=rows.device)  # (N * width, dim), (N, width) bits
    below, row = torch.zeros(0, count, dtype=torch.int64, device=rows.device), part  # (k, N * width), (N * width,)
    for k, vectors in enumerate(codebooks):
        bits = cost(k, row, below).reshape(count, width, -1) + spent[:, :, None]
        squares = torch.addmm(vectors.square().sum(1), left, vectors.T, alpha=-2).reshape(count, width, -1)
        total = squares + left.square().sum(1).reshape(count, width, 1) + price[part][:, None, None] * bits
        kept = min(beam, total.flatten(1).shape[1]) if k + 1 < len(codebooks) else 1
        pick = total.flatten(1).topk(kept, dim=1, largest=False).indices  # (N, kept)
        spent = bits.flatten(1).gather(1, pick)
        parent = (pick // len(vectors) + torch.arange(count, device=rows.device)[:, None] * width).flatten()
        code = (pick % len(vectors)).flatten()
        left, row = left[parent] - vectors[code], row[parent]
        below, width = torch.cat([below[:, parent], code[None]]), kept
    return below.T
