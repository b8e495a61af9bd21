"""The states of many streams, any of which run as one batch while the others hold still."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from codec.nn.state import State
from codec.rows import Rows


class Pool:
    """Rows by key. Those of one phase lie in one block of memory: a step copies the rows that run, and touches no others.
    (Cohorts, which streams of Python use, split and join whole batches.)

    Args:
        fresh: makes the Rows of so many signals at their start.
    """

    def __init__(self, fresh: Callable[[int], Rows]):
        self._fresh = fresh
        self._blocks: dict[tuple, _Block] = {}
        self._phases: dict[Hashable, tuple] = {}  # of keys that have a state

    def __len__(self) -> int:
        return len(self._phases)

    def run(self, call: Callable[[Any, Tensor], Tensor], keys: Sequence[Hashable], x: Tensor) -> list[Tensor]:
        """`call(rows, inputs (R, C, n))` with inputs x (B, C, n), one row for each key; a new key starts a signal.

        Returns the outputs (C', m) of each key, which may have different m.
        """
        places: dict[tuple | None, list[int]] = {}
        for index, key in enumerate(keys):
            places.setdefault(self._phases.get(key), []).append(index)
        outputs: list[Tensor] = [x] * len(keys)
        for phase, indices in places.items():
            names = [keys[index] for index in indices]
            rows = self._fresh(len(names)) if phase is None else self._blocks[phase].take(names)
            y = call(rows, x if len(names) == len(keys) else x[indices])
            self._put(names, rows)
            for index, one in zip(indices, y):
                outputs[index] = one
        return outputs

    def remove(self, keys: Iterable[Hashable]) -> None:
        """Forget streams; unknown keys are none."""
        for key in keys:
            phase = self._phases.pop(key, None)
            if phase is not None and self._blocks[phase].drop(key):
                del self._blocks[phase]

    def _put(self, names: list[Hashable], rows: Rows) -> None:
        phase = rows.phase()
        self.remove(name for name in names if self._phases.get(name, phase) != phase)
        if phase in self._blocks:
            self._blocks[phase].put(names, rows)
        else:
            self._blocks[phase] = _Block(names, rows)
        self._phases |= dict.fromkeys(names, phase)


class _Block:
    """Rows of one phase, some of which are nobody's."""

    def __init__(self, names: list[Hashable], rows: Rows):
        self._rows = rows.take(range(len(names)))  # copies: what a network hands out may be parts of larger tensors
        self._place = {name: place for place, name in enumerate(names)}
        self._unused: list[int] = []

    def take(self, names: list[Hashable]) -> Rows:
        return self._rows.take([self._place[name] for name in names])

    def put(self, names: list[Hashable], rows: Rows) -> None:
        for name in names:
            if name not in self._place and self._unused:
                self._place[name] = self._unused.pop()
        old = [index for index, name in enumerate(names) if name in self._place]
        if old:
            places = torch.tensor([self._place[names[index]] for index in old])
            _write(self._rows, places, rows if len(old) == len(names) else rows.take(old))
        if len(old) < len(names):
            new = [index for index, name in enumerate(names) if name not in self._place]
            self._place |= {names[index]: self._rows.batch_size + place for place, index in enumerate(new)}
            self._rows = self._rows.join([rows.take(new)])

    def drop(self, name: Hashable) -> bool:
        """Whether nothing is left."""
        self._unused.append(self._place.pop(name))
        return not self._place


def _write(target: Rows, places: Tensor, source: Rows) -> None:
    """Rows of the same phase into the places of target."""
    for name in target.states:
        _copy(getattr(target, name), places, getattr(source, name))
    for name in target.parts:
        _write(getattr(target, name), places, getattr(source, name))


def _copy(target: State | None, places: Tensor, source: State | None) -> None:
    if isinstance(target, Tensor):
        target.index_copy_(0, places.to(target.device), source)
    elif target is not None:
        for one, other in zip(target, source):
            _copy(one, places, other)
