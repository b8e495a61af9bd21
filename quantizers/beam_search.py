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
percent larger. Of codebooks that hold a code for several frames this would make it much larger: there the choices of
the end are all.

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

Propose = Callable[[Tensor], Tensor]  # rows (N, frames, width) to codes (N, choices, codes), the best choice first
Restore = Callable[[Tensor], Tensor]  # codes (N, codes) to rows (N, frames, width)
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


class Turn(NamedTuple):
    """A code of `table` that is added to the frames first to last - 1 of those that are coded together."""

    table: Table
    first: int = 0
    last: int = 1


def check_beam(beam: int) -> int:
    """Raises ValueError for a width that no search has."""
    if not isinstance(beam, int) or isinstance(beam, bool) or not 1 <= beam <= MAX_BEAM:
        raise ValueError(f"beam={beam!r}: it must be at least 1, the greedy search, and at most {MAX_BEAM}")
    return beam


def encode(
    latents: Tensor, tables: Sequence[Table], strides: Sequence[int], beam: int, decode: Decode,
    middle: Tensor | None = None,
) -> Tensor:
    """latents (B, dim, T) to codes (B, K, T), which add up the tables' vectors.

    strides: frames that a code of each table holds for, each a multiple of the next; a group of as many frames as the
    first says is searched as a whole. decode: codes (N, K, n) to latents (N, dim, n). middle (dim,): what the tables
    leave out of the sum.
    """
    frames, group = latents.shape[2], strides[0]
    codes = torch.zeros(latents.shape[0], len(tables), frames, dtype=torch.int64, device=latents.device)
    whole = frames // group * group
    for start, stop, length in ((0, whole, group), (whole, frames, frames - whole)):  # the last group may be shorter
        if start < stop:
            part = latents[..., start:stop]
            codes[..., start:stop] = _encode_groups(part, length, tables, strides, beam, decode, middle)
    return codes


def _encode_groups(
    latents: Tensor, group: int, tables: Sequence[Table], strides: Sequence[int], beam: int, decode: Decode,
    middle: Tensor | None,
) -> Tensor:
    """latents (B, dim, n * group) to codes (B, K, n * group)."""
    batch, dim, frames = latents.shape
    turns, holding = [], []  # holding: of each table, the turn whose code is on each frame
    for table, stride in zip(tables, strides):
        holding.append([len(turns) + frame // stride for frame in range(group)])
        turns += [Turn(table, first, min(first + stride, group)) for first in range(0, group, stride)]
    found = settled(
        latents.mT.reshape(-1, group, dim),
        propose=lambda rows: search(rows if middle is None else rows - middle, turns, beam),
        restore=lambda codes: decode(codes[:, holding]).mT,
        further=TRIES if group == 1 else 0,
    )
    return found[:, holding].reshape(batch, -1, len(tables), group).transpose(1, 2).reshape(batch, len(tables), frames)


def settled(rows: Tensor, propose: Propose, restore: Restore, further: int = TRIES) -> Tensor:
    """rows (N, ...) to codes (N, codes) that, restored, are proposed first again: the first such choice, or else the
    first such among the `further` that the first choice leads to; the first choice where there is none."""
    return torch.cat([_settled(chunk, propose, restore, further) for chunk in rows.split(CHUNK)])


def _settled(rows: Tensor, propose: Propose, restore: Restore, further: int) -> Tensor:
    choices = propose(rows)
    codes, onward = choices[:, 0].clone(), torch.empty_like(choices[:, 0])
    waiting = torch.arange(rows.shape[0], device=rows.device)
    for attempt in range(choices.shape[1] + further):
        proposed = attempt < choices.shape[1]
        tried = choices[waiting, attempt] if proposed else onward[waiting]
        again = propose(restore(tried))[:, 0]
        if attempt == 0 or not proposed:
            onward[waiting] = again
        same = (again == tried).all(1)
        codes[waiting[same]] = tried[same]
        waiting = waiting[~same]
        if waiting.numel() == 0:
            break
    return codes


@torch.no_grad()
def search(rows: Tensor, turns: Sequence[Turn], beam: int) -> Tensor:
    """rows (N, frames, width) to codes (N, choices, turns): the `TRIES` best choices, or as many as there are."""
    block = max(1, MANY_ROWS // beam)  # so many rows at once that their scores stay in a CPU's cache
    return torch.cat([_search(part, turns, beam) for part in rows.split(block)])


def _search(rows: Tensor, turns: Sequence[Turn], beam: int) -> Tensor:
    count = rows.shape[0]
    left, score = rows[:, None], rows.new_zeros(count, 1)  # (N, choices, frames, width), (N, choices)
    codes = torch.empty(count, 1, 0, dtype=torch.int64, device=rows.device)
    for index, (table, first, last) in enumerate(turns):
        size, ends = table.vectors.shape[0], index + 1 == len(turns)
        scores = _gains(left[:, :, first:last], table).reshape(count, -1, size).add_(score[:, :, None]).flatten(1)
        pick = largest(scores, min(TRIES if ends else beam, scores.shape[1]))[1]
        parent, code = pick // size, pick % size
        codes = torch.cat([codes.gather(1, parent[:, :, None].expand(-1, -1, index)), code[:, :, None]], 2)
        if not ends:
            left = left.gather(1, parent[:, :, None, None].expand(-1, -1, *left.shape[2:]))
            left[:, :, first:last] -= table.vectors[code][:, :, None]
            score = -0.5 * left.flatten(2).square().sum(2)
    return codes


def _gains(left: Tensor, table: Table) -> Tensor:
    """left (N, choices, frames, width) to what each of the vectors gains on these frames (N * choices, size)."""
    total = left[:, :, 0]
    for frame in range(1, left.shape[2]):  # one by one: the order of a sum may depend on the other dimensions
        total = total + left[:, :, frame]
    total, half_norms = total.flatten(0, 1), -left.shape[2] * table.half_norms
    if table.inward is None:
        return products(total, table.vectors.T, half_norms)
    return products(products(total, table.inward), table.keys.T, half_norms)


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
