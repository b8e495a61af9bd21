"""Many signals in one batch that need not be in step: rows start anew, join and leave while the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from codec.nn.state import flatten, join, select, shapes, unflatten


class Rows:
    """Base of what holds state of B signals, one a row. It says by name which of its attributes are

    states: None, tensors or nested states, rows first,
    numbers: whole numbers that hold for all of the rows,
    parts: Rows themselves.
    """

    states: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    batch_size = 0

    def phase(self) -> tuple:
        """Rows of equal phases can run together."""
        return (
            *(shapes(getattr(self, name)) for name in self.states), *(getattr(self, name) for name in self.numbers),
            *(getattr(self, name).phase() for name in self.parts),
        )

    def take(self, rows: Sequence[int]) -> Any:
        """A copy of some of the rows, in this order."""
        taken, index = copy(self), torch.tensor(rows, dtype=torch.int64)
        taken.batch_size = len(rows)
        for name in self.states:
            setattr(taken, name, select(getattr(self, name), index))
        for name in self.parts:
            setattr(taken, name, getattr(self, name).take(rows))
        return taken

    def join(self, others: Sequence[Any]) -> Any:
        """These rows, and behind them those of others in the same phase."""
        joined, all_of_them = copy(self), [self, *others]
        joined.batch_size = sum(rows.batch_size for rows in all_of_them)
        for name in self.states:
            setattr(joined, name, join([getattr(rows, name) for rows in all_of_them]))
        for name in self.parts:
            setattr(joined, name, getattr(self, name).join([getattr(rows, name) for rows in others]))
        return joined

    def dump(self) -> dict[str, Tensor]:
        """Everything as named tensors."""
        values = {name.strip("_"): torch.tensor(getattr(self, name)) for name in self.numbers}
        for name in self.states:
            values |= flatten(getattr(self, name), name.strip("_"))
        for name in self.parts:
            values |= {f"{name.strip('_')}.{key}": value for key, value in getattr(self, name).dump().items()}
        return values

    def load(self, values: dict[str, Tensor], device: torch.device) -> None:
        """The way back, for as many rows. Raises KeyError or ValueError for what `dump` has not written."""
        for name in self.numbers:
            setattr(self, name, int(values[name.strip("_")]))
        for name in self.states:
            key = name.strip("_")
            own = {k: v.to(device) for k, v in values.items() if k == key or k.startswith(f"{key}.")}
            if any(v.dim() == 0 or v.shape[0] != self.batch_size for v in own.values()):
                raise ValueError(f"{key} is not of {self.batch_size} rows")
            setattr(self, name, unflatten(own, key))
        for name in self.parts:
            getattr(self, name).load(_under(values, name.strip("_")), device)


class Cohorts:
    """B rows in groups of one phase each: every group is run as a batch, and groups that come into step are joined.

    Args:
        fresh: makes the Rows of so many signals at their start.
    """

    def __init__(self, fresh: Callable[[int], Rows], batch_size: int):
        self._fresh, self.batch_size = fresh, batch_size
        self._groups: list[tuple[list[int], Rows]] = [(list(range(batch_size)), fresh(batch_size))]

    def reset(self, rows: Iterable[int]) -> None:
        """These rows are at the start of a signal."""
        rows = sorted(set(rows))
        if not rows:
            return
        kept = set(range(self.batch_size)) - set(rows)
        self._groups = [*self._of(kept), (rows, self._fresh(len(rows)))]
        self._settle()

    def take(self, rows: Sequence[int]) -> Cohorts:
        """A copy of some of the rows, numbered anew in this order."""
        taken, number = copy(self), {row: index for index, row in enumerate(rows)}
        taken.batch_size = len(rows)
        taken._groups = [([number[row] for row in members], run) for members, run in self._of(number)]
        taken._settle()
        return taken

    def join(self, other: Cohorts) -> None:
        """Rows of the same model, numbered on from the last one here."""
        copied = other.take(range(other.batch_size))
        self._groups += [([self.batch_size + row for row in members], run) for members, run in copied._groups]
        self.batch_size += other.batch_size
        self._settle()

    def run(
        self, call: Callable[[Any, Tensor], Tensor], x: Tensor, lengths: Sequence[int] | None = None, fill: int = 0
    ) -> tuple[Tensor, list[int] | None]:
        """`call(rows, inputs (R, C, n))` on every group, where the last lengths[i] of x (B, C, n) are inputs of row i.

        Returns (B, C', m), the outputs of each row at the end, `fill` in front of those of fewer; and how many each row has,
        None for m.
        """
        if len(self._groups) == 1 and (lengths is None or all(length == x.shape[2] for length in lengths)):
            return call(self._groups[0][1], x), None
        if lengths is not None:
            self._groups = [part for group in self._groups for part in _by_length(group, lengths)]
        idle = lengths is not None and max(lengths) > 0  # rows without inputs have nothing to do while others have
        outputs = []
        for members, run in self._groups:
            length = x.shape[2] if lengths is None else lengths[members[0]]
            if length or not idle:
                outputs.append((members, call(run, x[members, :, x.shape[2] - length :])))
        most = max(y.shape[2] for _, y in outputs)
        result = outputs[0][1].new_full((self.batch_size, outputs[0][1].shape[1], most), fill)
        counts = [0] * self.batch_size
        for members, y in outputs:
            result[members, :, most - y.shape[2] :] = y
            for row in members:
                counts[row] = y.shape[2]
        self._settle()
        return result, None if min(counts) == most else counts

    def dump(self) -> dict[str, Tensor]:
        """Everything as named tensors: of group i, `i.rows` and what its Rows dump."""
        values = {}
        for index, (members, run) in enumerate(self._groups):
            values[f"{index}.rows"] = torch.tensor(members)
            values |= {f"{index}.{key}": value for key, value in run.dump().items()}
        return values

    def load(self, values: dict[str, Tensor], device: torch.device) -> None:
        """The way back. Raises KeyError or ValueError for what `dump` has not written; then nothing has changed."""
        groups = []
        for index in range(len({key.partition(".")[0] for key in values})):
            members = values[f"{index}.rows"].tolist()
            groups.append((members, self._fresh(len(members))))
            groups[-1][1].load(_under(values, str(index)), device)
        if sorted(row for members, _ in groups for row in members) != list(range(self.batch_size)):
            raise ValueError(f"its rows are not 0 to {self.batch_size - 1}")
        self._groups = groups

    def _of(self, rows: Iterable[int]) -> list[tuple[list[int], Rows]]:
        """The groups without all other rows."""
        groups, wanted = [], set(rows)
        for members, run in self._groups:
            places = [place for place, row in enumerate(members) if row in wanted]
            if places:
                run = run.take(places)
                groups.append(([members[place] for place in places], run))
        return groups

    def _settle(self) -> None:
        """Join groups of one phase, and put rows in order."""
        phases: dict[tuple, list[tuple[list[int], Rows]]] = {}
        for group in self._groups:
            phases.setdefault(group[1].phase(), []).append(group)
        self._groups = []
        for (members, run), *others in phases.values():
            if others:
                members = [*members, *(row for group, _ in others for row in group)]
                run = run.join([other for _, other in others])
            if members != sorted(members):
                order = sorted(range(len(members)), key=members.__getitem__)
                members, run = sorted(members), run.take(order)
            self._groups.append((members, run))


def _by_length(group: tuple[list[int], Rows], lengths: Sequence[int]) -> list[tuple[list[int], Rows]]:
    """A group as groups of rows that are given as many inputs."""
    members, run = group
    places: dict[int, list[int]] = {}
    for place, row in enumerate(members):
        places.setdefault(lengths[row], []).append(place)
    if len(places) == 1:
        return [group]
    return [([members[place] for place in part], run.take(part)) for part in places.values()]


def _under(values: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key[len(name) + 1 :]: value for key, value in values.items() if key.startswith(f"{name}.")}
