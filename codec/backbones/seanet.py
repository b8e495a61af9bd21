"""SEANet: strided convolutions with residual units, and an LSTM at frame rate.

Tagliasacchi et al. 2020 (https://arxiv.org/abs/2009.02095), in the causal form of SoundStream (Zeghidour et al. 2021,
https://arxiv.org/abs/2107.03312) and EnCodec (Défossez et al. 2022, https://arxiv.org/abs/2210.13438): kernels of
twice the stride, ELU before every convolution, channels doubled at every stride. Without weight normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from codec.backbones.base import Network
from codec.nn.activations import elu
from codec.nn.conv import CausalConv1d, CausalConvTranspose1d
from codec.nn.lstm import ResidualLSTM
from codec.nn.state import State, run, run_sliced

SLICE_NUMBERS = 750_000  # in the widest activation of a slice: what comes and goes then stays in memory, and near
FEW_NUMBERS = 5_000  # a frame: layers of so few, with their many weights, run on all frames at once


class Activated(nn.Module):
    """ELU, then a streaming layer with its state."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.layer(elu(x), state)


class ResidualUnit(nn.Module):
    """A dilated convolution to `channels / compress` and a pointwise one back, beside a skip connection, which may be a
    pointwise convolution itself. (B, C, T)."""

    def __init__(
        self, channels: int, kernel_size: int, dilation: int, compress: int = 2, conv_shortcut: bool = False,
        padding: str = "zeros",
    ):
        super().__init__()
        hidden = max(1, channels // compress)
        self.layers = nn.ModuleList([
            Activated(CausalConv1d(channels, hidden, kernel_size, dilation=dilation, padding=padding)),
            Activated(CausalConv1d(hidden, channels, 1)),
        ])
        self.shortcut = nn.Conv1d(channels, channels, 1) if conv_shortcut else None

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = run(self.layers, x, state)
        return (x if self.shortcut is None else self.shortcut(x)) + y, state


class SEANetEncoder(Network):
    """(B, 1, n * hop) samples to (B, dim, n) latents. Looks only back: frame t ends with sample (t + 1) * hop - 1.

    Args:
        channels: width at the sample rate; it doubles at each of `strides`, whose product is the hop.
        kernel_size, last_kernel_size: of the first and the last convolution; the last is as the first for None.
        residual_kernel_size, residual_layers, dilation_base: units before every stride; unit j is dilated by base**j.
        compress, conv_shortcut: see `ResidualUnit`.
        lstm_layers: at frame rate; 0 for none.
        padding: what convolutions see before the start of a signal: zeros, reflect or replicate.
        ragged: the last samples are given as they are, and every strided layer fills up what is missing for itself, as
            EnCodec and Mimi do; otherwise zeros follow the last sample.
    """

    def __init__(
        self, dim: int, hop: int, channels: int, strides: Sequence[int], kernel_size: int, residual_kernel_size: int,
        residual_layers: int, dilation_base: int, lstm_layers: int, last_kernel_size: int | None = None,
        compress: int = 2, conv_shortcut: bool = False, padding: str = "zeros", ragged: bool = False,
    ):
        super().__init__()
        _check_strides(strides, hop)
        self.hop, self.ragged = hop, ragged
        fine, widest = _fine_strides(strides, channels)
        layers: list[nn.Module] = [CausalConv1d(1, channels, kernel_size, padding=padding)]
        for stride in strides:
            layers += _units(channels, residual_layers, residual_kernel_size, dilation_base, compress, conv_shortcut, padding)
            layers += [Activated(CausalConv1d(channels, 2 * channels, 2 * stride, stride=stride, padding=padding))]
            channels *= 2
        if lstm_layers:
            layers += [ResidualLSTM(channels, lstm_layers)]
        layers += [Activated(CausalConv1d(channels, dim, last_kernel_size or kernel_size, padding=padding))]
        self.layers = nn.ModuleList(layers)
        self.start_frames = start_frames(self, hop)
        self._fine = 1 + fine * (residual_layers + 1)
        self._slice = hop * max(self.start_frames, SLICE_NUMBERS // widest)

    def forward(self, wav: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        fine, coarse = (None, None) if state is None else state
        x, fine = run_sliced(self.layers[: self._fine], wav, fine, self._slice, self.hop)
        x, coarse = run(self.layers[self._fine :], x, coarse)
        return x, (fine, coarse)


class SEANetDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples: the encoder's mirror image, which adds no delay.

    Args: as `SEANetEncoder`; `channels` is the width at the sample rate.
    """

    def __init__(
        self, dim: int, hop: int, channels: int, strides: Sequence[int], kernel_size: int, residual_kernel_size: int,
        residual_layers: int, dilation_base: int, lstm_layers: int, last_kernel_size: int | None = None,
        compress: int = 2, conv_shortcut: bool = False, padding: str = "zeros",
    ):
        super().__init__()
        _check_strides(strides, hop)
        self.hop = hop
        fine, widest = _fine_strides(strides[::-1], channels)
        channels *= 2 ** len(strides)
        layers: list[nn.Module] = [CausalConv1d(dim, channels, kernel_size, padding=padding)]
        if lstm_layers:
            layers += [ResidualLSTM(channels, lstm_layers)]
        for stride in strides:
            layers += [Activated(CausalConvTranspose1d(channels, channels // 2, 2 * stride, stride))]
            channels //= 2
            layers += _units(channels, residual_layers, residual_kernel_size, dilation_base, compress, conv_shortcut, padding)
        layers += [Activated(CausalConv1d(channels, 1, last_kernel_size or kernel_size, padding=padding))]
        self.layers = nn.ModuleList(layers)
        self.start_frames = start_frames(self, 1)
        self._fine = len(self.layers) - 1 - fine * (residual_layers + 1)
        self._slice = hop // math.prod(strides[len(strides) - fine :]) * max(self.start_frames, SLICE_NUMBERS // widest)

    def forward(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        coarse, fine = (None, None) if state is None else state
        x, coarse = run(self.layers[: self._fine], latents, coarse)
        x, fine = run_sliced(self.layers[self._fine :], x, fine, self._slice, 1)
        return x, (coarse, fine)


def _fine_strides(strides: Sequence[int], channels: int) -> tuple[int, int]:
    """How many of the strides, from the sample rate on, lead to `FEW_NUMBERS` a frame, and the most numbers of a frame."""
    numbers = [channels * 2**index * math.prod(strides[index:]) for index in range(len(strides) + 1)]
    return next((index for index, number in enumerate(numbers) if number <= FEW_NUMBERS), len(strides)), max(numbers)


def start_frames(network: nn.Module, inputs: int) -> int:
    """Frames that the first call needs, so that every convolution has enough to mirror; `inputs` of them are a frame."""
    frames = 1
    for layer in network.modules():  # in the order in which they run
        if isinstance(layer, CausalConv1d):
            frames = max(frames, -(-layer.start // inputs))
            inputs //= layer.stride
        elif isinstance(layer, CausalConvTranspose1d):
            inputs *= layer.conv.stride[0]
    return frames


def _units(
    channels: int, count: int, kernel_size: int, dilation_base: int, compress: int, conv_shortcut: bool, padding: str
) -> list[nn.Module]:
    return [
        ResidualUnit(channels, kernel_size, dilation_base**j, compress, conv_shortcut, padding) for j in range(count)
    ]


def _check_strides(strides: Sequence[int], hop: int) -> None:
    if math.prod(strides) != hop or min(strides, default=1) < 1:
        raise ValueError(f"strides {tuple(strides)} multiply to {math.prod(strides)}: they must give the frame size {hop}")
