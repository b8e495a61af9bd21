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
percent larger. Where that is not wanted, the best choice is taken as it is. Codebooks that hold a code for several frames
are for `layered_search`.

Frames do not see each other: one alone has the codes that it has among many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quantizers.search import MANY_ROWS, Keys, products

MAX_BEAM = 1024
TRIES = 8  # choices that are searched again
CHUNK = 1024  # rows of which the choices are held at once
FEW = 4 * 4096  # numbers times the largest of them that are wanted: those of a beam of 4 over 1024 vectors

Propose = Callable[[Tensor], Tensor]  # rows (N, width) to codes (N, choices, codes), the best choice first
Restore = Callable[[Tensor], Tensor]  # codes (N, codes) to rows (N, width)
Decode = Callable[[Tensor], Tensor]  # codes (N, K, n) to latents (N, dim, n)


class Table(NamedTuple):
    """Of a codebook: vectors (size, width) and half of their squared norms (size,).

    Where the vectors are keys (size, d) times a matrix and much wider than these, inward (width, d), the matrix
    transposed, and keys give r.v sooner. So does `among`, where the vectors are laid out for a search.
    """

    vectors: Tensor
    half_norms: Tensor
    inward: Tensor | None = None
    keys: Tensor | None = None
    among: Keys | None = None


def check_beam(beam: int) -> int:
    """Raises ValueError for a width that no search has."""
    if not isinstance(beam, int) or isinstance(beam, bool) or not 1 <= beam <= MAX_BEAM:
        raise ValueError(f"beam={beam!r}: it must be at least 1, the greedy search, and at most {MAX_BEAM}")
    return beam


def encode(
    latents: Tensor, tables: Sequence[Table], beam: int, decode: Decode | None, middle: Tensor | None = None
) -> Tensor:
    """latents (B, dim, T) to codes (B, K, T), which add up the tables' vectors.

    decode: codes (N, K, n) to latents (N, dim, n), for codes that survive it; None: the best ones. middle (dim,): what the
    tables leave out of the sum.
    """
    batch, dim, frames = latents.shape
    rows = latents.mT.reshape(batch * frames, dim)

    def propose(rows: Tensor, choices: int = TRIES) -> Tensor:
        return search(rows if middle is None else rows - middle, tables, beam, choices)

    if decode is None:
        codes = propose(rows, 1)[:, 0]
    else:
        codes, _ = settled(rows, propose, restore=lambda codes: decode(codes[:, :, None])[:, :, 0])
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
    if torch.compiler.is_exporting():  # rows are not counted yet
        return _search(rows, tables, beam, choices)
    block = max(1, MANY_ROWS // beam)  # so many rows at once that their scores stay in a CPU's cache
    return torch.cat([_search(part, tables, beam, choices) for part in rows.split(block)])


def _search(rows: Tensor, tables: Sequence[Table], beam: int, choices: int) -> Tensor:
    count = rows.shape[0]
    left, score, width, turns = rows, None, 1, []  # left (N * width, dim), score (N, width, 1): so many choices each
    for index, table in enumerate(tables):
        size, ends = table.vectors.shape[0], index + 1 == len(tables)
        scores = _gains(left, table).reshape(count, width, size)
        if score is not None:
            scores = scores + score
        kept = min(choices if ends else beam, width * size)
        pick = largest(scores.flatten(1), kept)[1]
        parent, code = pick // size, pick % size
        turns.append((parent, code))
        if not ends:
            if torch.compiler.is_exporting() or count > 1:  # among the choices of all rows
                parent = parent + torch.arange(0, count * width, width, device=rows.device)[:, None]
            left = left.index_select(0, parent.flatten()) - table.vectors.index_select(0, code.flatten())
            score, width = left.square().sum(1).mul(-0.5).reshape(count, kept, 1), kept
    return _trace(turns)


def _trace(turns: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The parents and codes (N, choices) of each turn to the codes (N, choices, turns) of the last one's choices."""
    parent, code = turns[-1]
    codes = [code]
    for earlier, code in reversed(turns[:-1]):
        codes.append(code.gather(1, parent))
        parent = earlier.gather(1, parent)
    return torch.stack(codes[::-1], 2)


def _gains(left: Tensor, table: Table) -> Tensor:
    """left (N, width) to what each of the vectors gains (N, size)."""
    if table.among is not None:
        return table.among.gains(left)
    if table.inward is None:
        return products(left, table.vectors.T, -table.half_norms)
    return products(products(left, table.inward), table.keys.T, -table.half_norms)


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row (N, L), the largest first, and where they are.

    They lie in at most `count` columns of the row folded to a matrix, those with the largest peaks: the rest is not
    sorted. Few numbers are not worth that.
    """
    rows, length = values.shape
    if length * count <= FEW:
        return values.topk(count, dim=1)
    folds = 2 ** round(0.5 * math.log2(length / count))  # about as many peaks as numbers in these columns
    columns = length // folds
    if length % folds or columns < 2 * count:
        return values.topk(count, dim=1)
    folded = values.view(rows, folds, columns)
    column = folded.amax(1).topk(count, dim=1).indices  # (N, count)
    found, pick = folded.gather(2, column[:, None].expand(-1, folds, -1)).flatten(1).topk(count, dim=1)
    return found, pick // count * columns + column.gather(1, pick % count)
