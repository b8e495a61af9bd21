"""Beam search of residual codes, for encoding: of the best `beam` choices of codes for the codebooks so far, each is
continued with every vector of the next codebook, and the `beam` best of these go on. A beam of 1 is the greedy search.

Of a choice is kept what it leaves of x, r, and its score, -|r|^2 / 2, to which a vector v adds r.v - |v|^2 / 2. The
score is found of r at every turn: where latents are far from zero, a sum of such changes would carry the rounding of the
first to the end. One matrix product scores all vectors for all choices of many frames, so that a search costs about `beam`
times a greedy one.

Even so, what codes decode to is not always searched back to the same codes: these may fall out of the beam on their
way. Therefore the best choices of the end are decoded and searched again, one after the other, and the first that comes
back is taken (`settled`). Where none of `TRIES` does, what the best one is searched back to is tried, and so on. So
codes survive decoding and encoding; it takes a bit more than the time of a second search, and makes the error a few
percent larger. Codebooks that hold a code for several frames are for `layered_search`.

Frames do not see each other: one alone has the codes that it has among many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quantizers.search import MANY_ROWS, products

MAX_BEAM = 1024
TRIES = 8  # choices that are searched again
CHUNK = 1024  # rows of which the choices are held at once

Propose = Callable[[Tensor], Tensor]  # rows (N, width) to codes (N, choices, codes), the best choice first
Restore = Callable[[Tensor], Tensor]  # codes (N, codes) to rows (N, width)
Decode = Callable[[Tensor], Tensor]  # codes (N, K, n) to latents (N, dim, n)


class Table(NamedTuple):
    """Of a codebook: vectors (size, width) and half of their squared norms (size,).

    Where the vectors are keys (size, d) times a matrix and much wider than these, inward (width, d), the matrix
    transposed, and keys give r.v sooner.
    """

    vectors: Tensor
    half_norms: Tensor
    inward: Tensor | None = None
    keys: Tensor | None = None


def check_beam(beam: int) -> int:
    """Raises ValueError for a width that no search has."""
    if not isinstance(beam, int) or isinstance(beam, bool) or not 1 <= beam <= MAX_BEAM:
        raise ValueError(f"beam={beam!r}: it must be at least 1, the greedy search, and at most {MAX_BEAM}")
    return beam


def encode(
    latents: Tensor, tables: Sequence[Table], beam: int, decode: Decode, middle: Tensor | None = None
) -> Tensor:
    """latents (B, dim, T) to codes (B, K, T), which add up the tables' vectors.

    decode: codes (N, K, n) to latents (N, dim, n). middle (dim,): what the tables leave out of the sum.
    """
    batch, dim, frames = latents.shape
    codes, _ = settled(
        latents.mT.reshape(batch * frames, dim),
        propose=lambda rows: search(rows if middle is None else rows - middle, tables, beam),
        restore=lambda codes: decode(codes[:, :, None])[:, :, 0],
    )
    return codes.reshape(batch, frames, len(tables)).mT


def settled(
    rows: Tensor, propose: Propose, restore: Restore, again: Propose | None = None, further: int = TRIES
) -> tuple[Tensor, Tensor]:
    """rows (N, width) to codes (N, codes) that, restored, are proposed first again: the first such choice, or else the
    first such among the `further` that the first choice leads to; the first choice where there is none. And whether there
    was one (N,). again: what proposes for restored rows, where that is another than for these."""
    found = [_settled(chunk, propose, restore, again or propose, further) for chunk in rows.split(CHUNK)]
    return torch.cat([codes for codes, _ in found]), torch.cat([stays for _, stays in found])


def _settled(
    rows: Tensor, propose: Propose, restore: Restore, repropose: Propose, further: int
) -> tuple[Tensor, Tensor]:
    choices = propose(rows)
    codes, onward = choices[:, 0].clone(), torch.empty_like(choices[:, 0])
    waiting = torch.arange(rows.shape[0], device=rows.device)
    stays = torch.ones_like(waiting, dtype=torch.bool)
    for attempt in range(choices.shape[1] + further):
        proposed = attempt < choices.shape[1]
        tried = choices[waiting, attempt] if proposed else onward[waiting]
        again = repropose(restore(tried))[:, 0]
        if attempt == 0 or not proposed:
            onward[waiting] = again
        same = (again == tried).all(1)
        codes[waiting[same]] = tried[same]
        waiting = waiting[~same]
        if waiting.numel() == 0:
            break
    stays[waiting] = False
    return codes, stays


@torch.no_grad()
def search(rows: Tensor, tables: Sequence[Table], beam: int, choices: int = TRIES) -> Tensor:
    """rows (N, width) to codes (N, choices, tables): the best choices, as many as there are."""
    block = max(1, MANY_ROWS // beam)  # so many rows at once that their scores stay in a CPU's cache
    return torch.cat([_search(part, tables, beam, choices) for part in rows.split(block)])


def _search(rows: Tensor, tables: Sequence[Table], beam: int, choices: int) -> Tensor:
    count = rows.shape[0]
    left, score = rows[:, None], rows.new_zeros(count, 1)  # (N, choices, width), (N, choices)
    codes = torch.empty(count, 1, 0, dtype=torch.int64, device=rows.device)
    for index, table in enumerate(tables):
        size, ends = table.vectors.shape[0], index + 1 == len(tables)
        scores = _gains(left.flatten(0, 1), table).reshape(count, -1, size).add_(score[:, :, None]).flatten(1)
        pick = largest(scores, min(choices if ends else beam, scores.shape[1]))[1]
        parent, code = pick // size, pick % size
        codes = torch.cat([codes.gather(1, parent[:, :, None].expand(-1, -1, index)), code[:, :, None]], 2)
        if not ends:
            left = left.gather(1, parent[:, :, None].expand(-1, -1, left.shape[2])) - table.vectors[code]
            score = -0.5 * left.square().sum(2)
    return codes


def _gains(left: Tensor, table: Table) -> Tensor:
    """left (N, width) to what each of the vectors gains (N, size)."""
    if table.inward is None:
        return products(left, table.vectors.T, -table.half_norms)
    return products(products(left, table.inward), table.keys.T, -table.half_norms)


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row (N, L), the largest first, and where they are.

    They lie in at most `count` columns of the row folded to a matrix, those with the largest peaks: the rest is not
    sorted.
    """
    rows, length = values.shape
    folds = 2 ** round(0.5 * math.log2(length / count))  # about as many peaks as numbers in these columns
    columns = length // folds
    if length % folds or columns < 2 * count:
        return values.topk(count, dim=1)
    folded = values.view(rows, folds, columns)
    column = folded.amax(1).topk(count, dim=1).indices  # (N, count)
    found, pick = folded.gather(2, column[:, None].expand(-1, folds, -1)).flatten(1).topk(count, dim=1)
    return found, pick // count * columns + column.gather(1, pick % count)
