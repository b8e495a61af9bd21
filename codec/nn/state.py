"""Streaming state: a tensor, or a tuple of states, whose tensors all have the batch as first dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import torch
from torch import Tensor

State = Union[Tensor, tuple["State", ...]]


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `function` to every tensor of a state."""
    if isinstance(state, Tensor):
        return function(state)
    return tuple(map_state(function, part) for part in state)


def reset_rows(state: State, mask: Tensor) -> State:
    """Zero the rows of a state where `mask` (B,) is true: zeros are every layer's initial state."""
    def reset(tensor: Tensor) -> Tensor:
        keep = ~mask.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
        return torch.where(keep, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))

    return map_state(reset, state)


def run(layers, x: Tensor, state: tuple[State, ...] | None) -> tuple[Tensor, tuple[State, ...]]:
    """Run streaming layers one after the other, each with its own part of the state."""
    states = []
    for index, layer in enumerate(layers):
        x, new = layer(x, None if state is None else state[index])
        states.append(new)
    return x, tuple(states)
