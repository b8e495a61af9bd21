"""Whether tensors are what they were when something was computed of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ACROSS = 2  # numbers that are looked at along each axis: each is far from the others, and waits for memory


class Unchanged:
    """Tensors as they are now.

    `of` says whether others are the same memory and have not been written to: by torch's count of changes, and, as that counts
    nothing that goes through `.data`, numpy or another process, on a CPU also by a grid of their numbers. A change of few
    numbers by such a way is not seen.
    """

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        # Holding them keeps old memory taken, so that no new values can have its address.
        held = [None if tensor is None else tensor.detach() for tensor in tensors]
        self._marks = [None if tensor is None else (tensor.data_ptr(), _version(tensor), tensor.device) for tensor in tensors]
        self._held, self._grids = held, [_grid(tensor) for tensor in held if tensor is not None and _readable(tensor)]
        self._numbers = [grid.tolist() for grid in self._grids]

    def __reduce__(self):
        return Unchanged, ((),)  # copies know nothing

    def of(self, tensors: Sequence[Tensor | None]) -> bool:
        if len(tensors) != len(self._marks):
            return False
        for tensor, mark in zip(tensors, self._marks):
            if tensor is None or mark is None:
                if tensor is not mark:
                    return False
            elif tensor.data_ptr() != mark[0] or _version(tensor) != mark[1] or tensor.device != mark[2]:
                return False
        for grid, numbers in zip(self._grids, self._numbers):
            if grid.tolist() != numbers:
                return False
        return True


def _version(tensor: Tensor) -> int:
    """How often it has been written to; of inference mode, whose tensors do not count that, 0."""
    return 0 if tensor.is_inference() else tensor._version


def _readable(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.is_cpu and tensor.numel() > 0 and tensor.element_size() in _BITS


def _grid(tensor: Tensor) -> Tensor:
    """A view of some numbers, the first and some of every axis, as the bits they are: NaN is itself then."""
    grid = tensor[tuple(slice(None, None, -(-size // _ACROSS)) for size in tensor.shape)]
    return grid.view(_BITS[grid.element_size()])
