"""SEANet that looks ahead as far as back, with LSTMs in one or both directions: it sees all of a signal.

The form of EnCodec (Défossez et al. 2022, https://arxiv.org/abs/2210.13438) that is not causal: the ends of the signal are
mirrored before every convolution. SpeechTokenizer (Zhang et al. 2023, https://arxiv.org/abs/2308.16692) and DM-Codec (Ahasan
et al. 2024, https://arxiv.org/abs/2410.15017) have it with a bidirectional LSTM in the encoder, WavTokenizer (Ji et al. 2024,
https://arxiv.org/abs/2408.16532) has the encoder with one of one direction. Without weight normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from codec.backbones.base import Network
from codec.nn.activations import ELU
from codec.nn.lstm import BidirectionalLSTM, ResidualLSTM
from codec.nn.padded import PaddedConv1d, TrimmedConvTranspose1d
from codec.nn.slices import Slices, wide_strides
from codec.nn.snake import Snake

FEW_NUMBERS = 4_000  # a frame: their LSTM takes much memory by itself, so that little else may lie around (`codec.nn.slices`)
ACTIVATIONS = {"elu": lambda channels: ELU(), "snake": Snake}


class ResidualUnit(nn.Module):
    """A dilated convolution to `channels / compress` and a pointwise one back, beside a pointwise one. (B, C, T)."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, compress: int, activation: str):
        super().__init__()
        hidden = max(1, channels // compress)
        self.block = nn.Sequential(
            ACTIVATIONS[activation](channels), PaddedConv1d(channels, hidden, kernel_size, dilation=dilation),
            ACTIVATIONS[activation](hidden), PaddedConv1d(hidden, channels, 1),
        )
        self.shortcut = PaddedConv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class Stateless(nn.Module):
    """A residual LSTM of one direction that is run on whole signals. (B, C, T)."""

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.residual = ResidualLSTM(channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x)[0]


class MirroredSEANetEncoder(Network):
    """(B, 1, T) samples to (B, dim, ceil(T / hop)) latents; the last frame is filled up by mirroring.

    Args:
        channels: width at the sample rate; it doubles at each of `strides`, whose product is the hop.
        kernel_size: of the first and the last convolution.
        residual_kernel_size, residual_layers, dilation_base: units before every stride; unit j is dilated by base**j.
        compress: see `ResidualUnit`.
        lstm_layers: at frame rate; 0 for none. bidirectional: in both directions.
        activation: elu, or snake.
        window_frames, overlap_frames: the grid on which longer signals are coded, see `codec.coding.Windows`.
    """

    ragged = True

    def __init__(
        self, dim: int, hop: int, channels: int, strides: Sequence[int], kernel_size: int, residual_kernel_size: int,
        residual_layers: int, dilation_base: int, compress: int, lstm_layers: int, bidirectional: bool, activation: str,
        window_frames: int, overlap_frames: int,
    ):
        super().__init__()
        check(strides, hop, activation)
        self.window = grid(window_frames, overlap_frames)
        wide = wide_strides(strides, channels, FEW_NUMBERS)
        down = math.prod(strides[:wide])
        numbers = channels * down
        layers: list[nn.Module] = [PaddedConv1d(1, channels, kernel_size)]
        for stride in strides:
            for j in range(residual_layers):
                layers.append(ResidualUnit(channels, residual_kernel_size, dilation_base**j, compress, activation))
            layers += [ACTIVATIONS[activation](channels), PaddedConv1d(channels, 2 * channels, 2 * stride, stride)]
            channels *= 2
        if lstm_layers:
            layers.append((BidirectionalLSTM if bidirectional else Stateless)(channels, lstm_layers))
            channels *= 2 if bidirectional else 1
        layers += [ACTIVATIONS[activation](channels), PaddedConv1d(channels, dim, kernel_size)]
        self.layers = nn.Sequential(*layers)
        self._fine = 1 + wide * (residual_layers + 2)
        self._slices = Slices(self._fine_layers(), numbers, down=down)

    def _fine_layers(self) -> list[nn.Module]:
        return list(self.layers[: self._fine])

    def forward(self, wav: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.layers[self._fine :](self._slices.run(self._fine_layers(), wav)), None


class MirroredSEANetDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples: the encoder's mirror image, its LSTM of one direction.

    Args: as `MirroredSEANetEncoder`; `channels` is the width at the sample rate.
    """

    def __init__(
        self, dim: int, hop: int, channels: int, strides: Sequence[int], kernel_size: int, residual_kernel_size: int,
        residual_layers: int, dilation_base: int, compress: int, lstm_layers: int, activation: str, window_frames: int,
        overlap_frames: int,
    ):
        super().__init__()
        check(strides, hop, activation)
        self.window = grid(window_frames, overlap_frames)
        coarse = len(strides) - wide_strides(strides[::-1], channels, FEW_NUMBERS)
        up = math.prod(strides[coarse:])
        numbers = channels * up
        channels *= 2 ** len(strides)
        layers: list[nn.Module] = [PaddedConv1d(dim, channels, kernel_size)]
        if lstm_layers:
            layers.append(Stateless(channels, lstm_layers))
        for stride in strides:
            layers += [ACTIVATIONS[activation](channels), TrimmedConvTranspose1d(channels, channels // 2, 2 * stride, stride)]
            channels //= 2
            for j in range(residual_layers):
                layers.append(ResidualUnit(channels, residual_kernel_size, dilation_base**j, compress, activation))
        layers += [ACTIVATIONS[activation](channels), PaddedConv1d(channels, 1, kernel_size)]
        self.layers = nn.Sequential(*layers)
        self._coarse = 1 + bool(lstm_layers) + coarse * (residual_layers + 2)
        self._slices = Slices(self._fine_layers(), numbers, up=up)

    def _fine_layers(self) -> list[nn.Module]:
        return list(self.layers[self._coarse :])

    def forward(self, latents: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self._slices.run(self._fine_layers(), self.layers[: self._coarse](latents)), None


def check(strides: Sequence[int], hop: int, activation: str) -> None:
    if math.prod(strides) != hop or min(strides, default=1) < 1:
        raise ValueError(f"strides {tuple(strides)} multiply to {math.prod(strides)}: they must give the frame size {hop}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: there is {', '.join(ACTIVATIONS)}")


def grid(frames: int, overlap: int) -> tuple[int, int]:
    if not 0 <= overlap < frames:
        raise ValueError(f"windows of {frames} frames cannot overlap by {overlap}: take less than a window")
    return frames, overlap
