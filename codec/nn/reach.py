"""How far a chain of convolutions sees."""

from __future__ import annotations

from torch import nn

from codec.nn.padded import PaddedConv1d, TrimmedConvTranspose1d


def reach(network: nn.Module, first: int, last: int) -> tuple[int, int]:
    """The first and last input that outputs `first` to `last` depend on, counted from the start of a long signal.

    `network` registers its convolutions in the order in which it applies them; what it adds around them (skips) must
    reach no further. Its padding must be the convolutions' own, or that of `codec.nn.padded`.
    """
    started = {m.conv: m.left for m in network.modules() if isinstance(m, (PaddedConv1d, TrimmedConvTranspose1d))}
    for layer in reversed([m for m in network.modules() if isinstance(m, (nn.Conv1d, nn.ConvTranspose1d))]):
        (kernel,), (stride,), (padding,), (dilation,) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        padding = started.get(layer, padding)
        width = (kernel - 1) * dilation
        if isinstance(layer, nn.ConvTranspose1d):
            first, last = -((width - padding - first) // stride), (last + padding) // stride
        else:
            first, last = first * stride - padding, last * stride - padding + width
    return first, last


def encoder_context(network: nn.Module, hop: int) -> int:
    """Frames of `hop` samples that a frame of an encoder sees to either side."""
    first, last = reach(network, 0, 0)
    return max(0, -(first // hop), last // hop)


def decoder_context(network: nn.Module, hop: int) -> int:
    """Frames that the `hop` samples of a frame of a decoder depend on, to either side."""
    first, last = reach(network, 0, hop - 1)
    return max(0, -first, last)
