"""Streaming state: a tensor, or a tuple of states, whose tensors all have the batch as first dimension."""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor

State = Union[Tensor, tuple["State", ...]]


def run(layers, x: Tensor, state: tuple[State, ...] | None) -> tuple[Tensor, tuple[State, ...]]:
    """Run streaming layers one after the other, each with its own part of the state."""
    states = []
    for index, layer in enumerate(layers):
        x, new = layer(x, None if state is None else state[index])
        states.append(new)
    return x, tuple(states)


def run_sliced(layers, x: Tensor, state: tuple[State, ...] | None, size: int, unit: int) -> tuple[Tensor, tuple[State, ...]]:
    """As `run`, for layers on (B, C, T), over equal slices of about `size` steps (a multiple of `unit`) one after the other,
    where no gradients are asked for: what lies between the layers then stays small and in the cache."""
    count = x.shape[2] // size
    if count < 2 or torch.is_grad_enabled():
        return run(layers, x, state)
    parts = []
    for part in x.split(-(-x.shape[2] // (count * unit)) * unit, dim=2):
        y, state = run(layers, part, state)
        parts.append(y)
    return torch.cat(parts, dim=2), state
