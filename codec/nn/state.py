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
    if torch.compiler.is_exporting():
        return run(layers, x, state)
    count = x.shape[2] // size
    if count < 2 or torch.is_grad_enabled():
        return run(layers, x, state)
    parts = []
    for part in x.split(-(-x.shape[2] // (count * unit)) * unit, dim=2):
        y, state = run(layers, part, state)
        parts.append(y)
    return torch.cat(parts, dim=2), state


def select(state: State | None, rows: Tensor) -> State | None:
    """The rows with these numbers, (R,) int64."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state.index_select(0, rows.to(state.device))
    return tuple(select(part, rows) for part in state)


def join(states: list[State | None]) -> State | None:
    """States of one shape, the rows of each after those of the last."""
    if states[0] is None:
        return None
    if isinstance(states[0], Tensor):
        return torch.cat(states)
    return tuple(join(list(parts)) for parts in zip(*states))


def shapes(state: State | None) -> tuple | None:
    """Nested as the state, without the rows: states of equal shapes can be joined."""
    if state is None:
        return None
    return tuple(state.shape[1:]) if isinstance(state, Tensor) else tuple(shapes(part) for part in state)


def flatten(state: State | None, name: str) -> dict[str, Tensor]:
    """Tensors of their own by name: `name.1.0` is the first part of the second part."""
    if state is None:
        return {}
    if isinstance(state, Tensor):
        return {name: state.detach().clone(memory_format=torch.contiguous_format)}
    return {key: value for index, part in enumerate(state) for key, value in flatten(part, f"{name}.{index}").items()}


def unflatten(values: dict[str, Tensor], name: str) -> State | None:
    """The way back. Raises KeyError where a part is missing."""
    if name in values:
        return values[name]
    parts = {key[len(name) + 1 :].partition(".")[0] for key in values if key.startswith(f"{name}.")}
    if not parts:
        return None
    if parts != {str(index) for index in range(len(parts))}:
        raise KeyError(f"{name}.{len(parts)}")
    return tuple(unflatten(values, f"{name}.{index}") for index in range(len(parts)))
