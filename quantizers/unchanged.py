"""Whether tensors are what they were when something was computed of them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import product

from torch import Tensor

_WORDS = {1: ctypes.c_int8, 2: ctypes.c_int16, 4: ctypes.c_int32, 8: ctypes.c_int64}
_ACROSS = 2  # numbers that are looked at along each axis: each is far from the others, and waits for memory


class Unchanged:
    """Tensors as they are now.

    `of` says whether others are the same memory and have not been written to: by torch's count of changes, and, as that counts
    nothing that goes through `.data`, numpy or another process, on a CPU also by a grid of their numbers. A change of few
    numbers by such a way is not seen. It is asked before every product of a step of a stream: hence no operations of torch.

    Args:
        parts: views of the tensors, each of which has a grid of its own; the tensors themselves by default.
    """

    def __init__(self, tensors: Sequence[Tensor | None], parts: Sequence[Tensor] | None = None) -> None:
        # Holding them keeps old memory taken, so that no new values can have its address.
        self._held = [None if tensor is None else tensor.detach() for tensor in tensors]
        self._marks = [None if tensor is None else (tensor.data_ptr(), _version(tensor)) for tensor in tensors]
        watched = self._held if parts is None else [part.detach() for part in parts]
        self._words = [word for tensor in watched if tensor is not None and _readable(tensor) for word in _grid(tensor)]
        self._numbers = [word.value for word in self._words]

    def __reduce__(self):
        return Unchanged, ((),)  # copies know nothing

    def of(self, tensors: Sequence[Tensor | None]) -> bool:
        if len(tensors) != len(self._marks):
            return False
        for tensor, mark in zip(tensors, self._marks):
            if tensor is None or mark is None:
                if tensor is not mark:
                    return False
            elif tensor.data_ptr() != mark[0] or (0 if tensor.is_inference() else tensor._version) != mark[1]:
                return False
        return [word.value for word in self._words] == self._numbers  # memory that is still theirs, as it is in the same place


def _version(tensor: Tensor) -> int:
    """How often it has been written to; of inference mode, whose tensors do not count that, 0."""
    return 0 if tensor.is_inference() else tensor._version


def _readable(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.is_cpu and tensor.numel() > 0 and tensor.element_size() in _WORDS


def _grid(tensor: Tensor) -> list[ctypes._SimpleCData]:
    """Some numbers, the first and some of every axis, as the bits in memory that they are: NaN is itself then."""
    word, start, size = _WORDS[tensor.element_size()], tensor.data_ptr(), tensor.element_size()
    places = [range(0, length, -(-length // _ACROSS)) for length in tensor.shape]
    offsets = (sum(index * stride for index, stride in zip(place, tensor.stride())) for place in product(*places))
    return [word.from_address(start + size * offset) for offset in offsets]
