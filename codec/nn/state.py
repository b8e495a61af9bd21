"""Streaming state: a tensor, or a tuple of states, whose tensors all have the batch as first dimension."""

from __future__ import annotations

from typing import Union

from torch import Tensor

State = Union[Tensor, tuple["State", ...]]


def run(layers, x: Tensor, state: tuple[State, ...] | None) -> tuple[Tensor, tuple[State, ...]]:
    """Run streaming layers one after the other, each with its own part of the state."""
    states = []
    for index, layer in enumerate(layers):
        x, new = layer(x, None if state is None else state[index])
        states.append(new)
    return x, tuple(states)
