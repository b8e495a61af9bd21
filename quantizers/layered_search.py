"""Search of residual codes in layers, each of which quantizes what the ones above it leave: codebooks of several frame
rates. (A split quantizer settles its halves alike.)

The best few choices of a layer for a group of frames are each completed by the layers below, which see smaller groups
and not each other, and of the completed ones the best is taken. A beam through all codes of a group (22 for two
codebooks of each of the strides 4 and 2 and four of stride 1) would have to be far wider to find as good ones.

A choice settles where what it decodes to is coded to it again: where it is then among the choices of its layer, and what
is below it settles, too. Where no choice does, what the layers below make of the first one has moved it into another's
cell. They are then given less to do along the directions in which the layer sees (`PULLS`), until it stays in its own:
all of the pull leaves the middle of the cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quantizers.beam_search import CHUNK, TRIES, Table, search, settled

COMPLETED = 16  # choices of all layers together that are completed, about
PULLS = (0.25, 0.5, 0.75, 1.0)


class Found(NamedTuple):
    """codes (N, ...), what they decode to (N, ...), and whether that is coded to them again (N,)."""

    codes: Tensor
    decoded: Tensor
    stays: Tensor


Choose = Callable[[Tensor], Tensor]  # rows (N, ...) to the choices of a layer (N, choices, codes), the best first
Complete = Callable[[Tensor, Tensor, float], Found]  # rows, one choice of each (N, codes), and a pull


class Layer(NamedTuple):
    """Codebooks that hold a code for `stride` frames."""

    stride: int
    tables: tuple[Table, ...]


def best(rows: Tensor, choose: Choose, complete: Complete) -> Found:
    """Of the choices for rows (N, ...) that stay, the best; where none does, the first if a pull makes it stay, or else the
    best of all."""
    choices = choose(rows)
    count, each, _ = choices.shape

    def tried(rows: Tensor, codes: Tensor, pull: float) -> Found:
        found = complete(rows, codes, pull)
        among = (choose(found.decoded) == codes[:, None]).all(2).any(1)
        return found._replace(stays=found.stays & among)

    many = rows.repeat_interleave(each, 0)
    found = tried(many, choices.flatten(0, 1), 0.0)
    error = (found.decoded - many).flatten(1).square().sum(1)
    worst = torch.where(found.stays, 0.0, 2 * error.max() + 1) if error.numel() else error
    pick = (error + worst).reshape(count, each).argmin(1) + each * torch.arange(count, device=rows.device)
    kept = Found(*(part[pick] for part in found))
    for pull in PULLS:
        waiting = (~kept.stays).nonzero()[:, 0]
        if waiting.numel() == 0:
            break
        again = tried(rows[waiting], choices[waiting, 0], pull)
        for old, new in zip(kept, again):
            old[waiting[again.stays]] = new[again.stays]
    return kept


def encode(latents: Tensor, tables: Sequence[Table], strides: Sequence[int], beam: int) -> Tensor:
    """latents (B, dim, T) to codes (B, K, T), which add up the tables' vectors.

    strides: frames that a code of each table holds for, each a multiple of the next.
    """
    layers = [
        Layer(stride, tuple(table for table, _ in group))
        for stride, group in itertools.groupby(zip(tables, strides), key=lambda pair: pair[1])
    ]
    each = TRIES
    while each > 2 and each ** (len(layers) - 1) > COMPLETED:
        each -= 1
    return _groups(latents.mT, layers, beam, min(beam, each)).codes


def _groups(rows: Tensor, layers: Sequence[Layer], beam: int, each: int) -> Found:
    """rows (N, frames, width) by groups of as many frames as the first layer says: codes (N, K, frames)."""
    count, frames, width = rows.shape
    group, found = layers[0].stride, []
    whole = frames // group * group
    for start, stop, length in ((0, whole, group), (whole, frames, frames - whole)):  # the last group may be shorter
        if start == stop:
            continue
        parts = rows[:, start:stop].reshape(-1, length, width).split(max(1, CHUNK // length))
        done = [_layer(part, layers, beam, each) for part in parts]
        codes, decoded, stays = (torch.cat(same).unflatten(0, (count, -1)) for same in zip(*done))
        found.append(Found(codes.transpose(1, 2).flatten(2), decoded.flatten(1, 2), stays.all(1)))
    if not found:
        codes = torch.zeros(count, sum(len(layer.tables) for layer in layers), 0, dtype=torch.int64, device=rows.device)
        return Found(codes, rows, torch.ones(count, dtype=torch.bool, device=rows.device))
    codes, decoded, stays = zip(*found)
    return Found(torch.cat(codes, 2), torch.cat(decoded, 1), torch.stack(stays).all(0))


def _layer(rows: Tensor, layers: Sequence[Layer], beam: int, each: int) -> Found:
    """rows (N, frames, width), each a group of the first layer."""
    tables, frames = layers[0].tables, rows.shape[1]
    if len(layers) == 1:
        means = average(rows)
        codes, stays = settled(means, lambda rows: search(rows, tables, beam), lambda codes: add_up(tables, codes))
        decoded = add_up(tables, codes)[:, None].expand(-1, frames, -1)
        return Found(codes[:, :, None].expand(-1, -1, frames), decoded, stays)

    def choose(rows: Tensor) -> Tensor:
        return search(average(rows), tables, beam, each)

    def complete(rows: Tensor, codes: Tensor, pull: float) -> Found:
        vectors = add_up(tables, codes)[:, None]
        left = rows - vectors
        if pull:
            left = left - pull * average(left)[:, None]
        below = _groups(left, layers[1:], beam, each)
        held = codes[:, :, None].expand(-1, -1, frames)
        return Found(torch.cat([held, below.codes], 1), vectors + below.decoded, below.stays)

    return best(rows, choose, complete)


def average(rows: Tensor) -> Tensor:
    """rows (N, frames, width) to (N, width)."""
    total = rows[:, 0]
    for frame in range(1, rows.shape[1]):  # one by one: the order of a sum may depend on the other dimensions
        total = total + rows[:, frame]
    return total / rows.shape[1]


def add_up(tables: Sequence[Table], codes: Tensor) -> Tensor:
    """codes (N, k) to the sum (N, width) of their vectors."""
    total = tables[0].vectors[codes[:, 0]]
    for table, column in zip(tables[1:], codes[:, 1:].unbind(1)):
        total = total + table.vectors[column]
    return total
