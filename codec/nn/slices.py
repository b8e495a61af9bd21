"""Layers that look ahead, run over slices of a signal with what they see around these."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codec.nn.reach import decoder_context, encoder_context

SLICE_NUMBERS = 1_000_000  # in the widest activation of a slice
FEW_NUMBERS = 10_000  # a frame: layers of so few, with their many weights, run on all frames at once


class Slices:
    """Runs a chain of layers on (B, C, T) a slice at a time, where no gradients are asked for on a CPU: what lies between the
    layers then stays small and in the cache. The result is that of the whole: a slice has around it what its outputs depend on.

    Args:
        layers: to measure how far they see: `down` of their inputs make one output, or one input makes `up` outputs, but for
            a few missing at the end.
        numbers: of the widest activation, for each output or input of these.
    """

    def __init__(self, layers: Sequence[nn.Module], numbers: int, down: int = 1, up: int = 1):
        chain = nn.Sequential(*layers)
        self.down, self.up = down, up
        self.margin = encoder_context(chain, down) if down > 1 else decoder_context(chain, up)
        self.size = max(4 * self.margin, SLICE_NUMBERS // numbers)

    def run(self, layers: Sequence[nn.Module], x: Tensor) -> Tensor:
        """These layers on x (B, C, T)."""
        steps = -(-x.shape[2] // self.down)
        whole = torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing()
        count = round(steps / self.size)  # at most half as long again: a short one would be mostly margin
        if whole or count < 2 or steps <= 2 * self.margin:
            return _run(layers, x)
        # All of one size with their margins, the last one, too: memory is then taken again as it was left.
        size, parts, done = -(-(steps + 2 * self.margin * (count - 1)) // count), [], 0
        for index in range(count):
            left = min(index * (size - 2 * self.margin), steps - size)
            last = index == count - 1
            y = _run(layers, x[..., left * self.down : None if last else (left + size) * self.down].clone())  # may be written over
            stop = steps if last else left + size - self.margin
            parts.append(y[..., (done - left) * self.up : None if last else (stop - left) * self.up].mT)
            done = stop
        return torch.cat(parts, 1).mT  # the channels of a moment stay side by side


def _run(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def wide_strides(strides: Sequence[int], channels: int, few: int = FEW_NUMBERS) -> int:
    """How many of the strides, from the sample rate on, have more than `few` numbers a frame before them; `channels` at the
    sample rate double at each."""
    numbers = (channels * 2**index * math.prod(strides[index:]) for index in range(len(strides)))
    return next((index for index, number in enumerate(numbers) if number <= few), len(strides))
