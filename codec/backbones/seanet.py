"""SEANet: strided convolutions with residual units, and an LSTM at frame rate.

Tagliasacchi et al. 2020 (https://arxiv.org/abs/2009.02095), in the causal form of SoundStream (Zeghidour et al. 2021,
https://arxiv.org/abs/2107.03312) and EnCodec (Défossez et al. 2022, https://arxiv.org/abs/2210.13438): kernels of
twice the stride, ELU before every convolution, channels doubled at every stride. Without weight normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from codec.backbones.base import Network
from codec.nn.conv import CausalConv1d, CausalConvTranspose1d
from codec.nn.lstm import ResidualLSTM
from codec.nn.state import State, run


class Activated(nn.Module):
    """ELU, then a streaming layer with its state."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.layer(F.elu(x), state)


class ResidualUnit(nn.Module):
    """A dilated convolution to half the channels and a pointwise one back, with a skip connection. (B, C, T)."""

    def __init__(self, channels: int, kernel_size: int, dilation: int):
        super().__init__()
        hidden = max(1, channels // 2)
        self.layers = nn.ModuleList([
            Activated(CausalConv1d(channels, hidden, kernel_size, dilation=dilation)),
            Activated(CausalConv1d(hidden, channels, 1)),
        ])

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = run(self.layers, x, state)
        return x + y, state


class SEANetEncoder(Network):
    """(B, 1, n * hop) samples to (B, dim, n) latents. Looks only back: frame t ends with sample (t + 1) * hop - 1.

    Args:
        channels: width at the sample rate; it doubles at each of `strides`, whose product is the hop.
        kernel_size: of the first and the last convolution.
        residual_kernel_size, residual_layers, dilation_base: units before every stride; unit j is dilated by base**j.
        lstm_layers: at frame rate; 0 for none.
    """

    def __init__(
        self, dim: int, hop: int, channels: int, strides: Sequence[int], kernel_size: int, residual_kernel_size: int,
        residual_layers: int, dilation_base: int, lstm_layers: int,
    ):
        super().__init__()
        _check_strides(strides, hop)
        self.hop = hop
        layers: list[nn.Module] = [CausalConv1d(1, channels, kernel_size)]
        for stride in strides:
            layers += [ResidualUnit(channels, residual_kernel_size, dilation_base**j) for j in range(residual_layers)]
            layers += [Activated(CausalConv1d(channels, 2 * channels, 2 * stride, stride=stride))]
            channels *= 2
        if lstm_layers:
            layers += [ResidualLSTM(channels, lstm_layers)]
        layers += [Activated(CausalConv1d(channels, dim, kernel_size))]
        self.layers = nn.ModuleList(layers)

    def forward(self, wav: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return run(self.layers, wav, state)


class SEANetDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples: the encoder's mirror image, which adds no delay.

    Args: as `SEANetEncoder`; `channels` is the width at the sample rate.
    """

    def __init__(
        self, dim: int, hop: int, channels: int, strides: Sequence[int], kernel_size: int, residual_kernel_size: int,
        residual_layers: int, dilation_base: int, lstm_layers: int,
    ):
        super().__init__()
        _check_strides(strides, hop)
        self.hop = hop
        channels *= 2 ** len(strides)
        layers: list[nn.Module] = [CausalConv1d(dim, channels, kernel_size)]
        if lstm_layers:
            layers += [ResidualLSTM(channels, lstm_layers)]
        for stride in strides:
            layers += [Activated(CausalConvTranspose1d(channels, channels // 2, 2 * stride, stride))]
            channels //= 2
            layers += [ResidualUnit(channels, residual_kernel_size, dilation_base**j) for j in range(residual_layers)]
        layers += [Activated(CausalConv1d(channels, 1, kernel_size))]
        self.layers = nn.ModuleList(layers)

    def forward(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return run(self.layers, latents, state)


def _check_strides(strides: Sequence[int], hop: int) -> None:
    if math.prod(strides) != hop or min(strides, default=1) < 1:
        raise ValueError(f"strides {tuple(strides)} multiply to {math.prod(strides)}: they must give the frame size {hop}")
