"""DAC's convolutions: Snake activations, dilated residual units, zeros around the signal on both sides.

Kumar et al. 2023 (https://arxiv.org/abs/2306.06546), as published in descript-audio-codec 1.0: kernels of twice the
stride, units dilated by 1, 3 and 9, channels doubled at every stride. Without weight normalisation. Not causal: what a
frame sees to both sides is the `context`, computed from the layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from codec.backbones.base import Network, block_frames
from codec.nn.conv1d import Conv1d, ConvTranspose1d
from codec.nn.reach import decoder_context, encoder_context
from codec.nn.slices import Slices, wide_strides
from codec.nn.snake import Snake

KERNEL = 7
DILATIONS = (1, 3, 9)


class ResidualUnit(nn.Module):
    """A dilated convolution and a pointwise one with a skip connection. (B, C, T). groups: of the dilated one."""

    def __init__(self, channels: int, dilation: int, groups: int = 1):
        super().__init__()
        self.snake1 = Snake(channels)
        padding = (KERNEL - 1) * dilation // 2
        self.conv1 = Conv1d(channels, channels, KERNEL, dilation=dilation, padding=padding, groups=groups)
        self.snake2 = Snake(channels)
        self.conv2 = Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.snake2(self.conv1(self.snake1(x)), reuse=True)).add_(x)


class DownBlock(nn.Module):
    """Residual units, then a strided convolution to twice the channels. (B, C, n * stride) to (B, 2 C, n)."""

    def __init__(self, channels: int, stride: int, groups: int = 1):
        super().__init__()
        self.units = nn.Sequential(*(ResidualUnit(channels, dilation, groups) for dilation in DILATIONS))
        self.snake = Snake(channels)
        self.conv = Conv1d(channels, 2 * channels, 2 * stride, stride=stride, padding=math.ceil(stride / 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.snake(self.units(x), reuse=True))


class UpBlock(nn.Module):
    """A transposed convolution to half the channels, then residual units. (B, C, n), which is written over where no gradients
    are needed, to (B, C / 2, n * stride).

    Not `whole`: one sample less where the stride is odd.
    """

    def __init__(self, channels: int, stride: int, whole: bool):
        super().__init__()
        self.snake = Snake(channels)
        self.conv = ConvTranspose1d(
            channels, channels // 2, 2 * stride, stride=stride, padding=math.ceil(stride / 2),
            output_padding=stride % 2 if whole else 0,
        )
        self.units = nn.Sequential(*(ResidualUnit(channels // 2, dilation) for dilation in DILATIONS))

    def forward(self, x: Tensor) -> Tensor:
        return self.units(self.conv(self.snake(x, reuse=True)))


class DACEncoder(Network):
    """(B, 1, n * hop) samples to (B, dim, n) latents.

    Args:
        channels: width at the sample rate; it doubles at each of `strides`, whose product is the hop.
    """

    def __init__(self, dim: int, hop: int, channels: int, strides: Sequence[int]):
        super().__init__()
        check_strides(strides, hop)
        self.conv1 = Conv1d(1, channels, KERNEL, padding=KERNEL // 2)
        self.blocks = nn.Sequential(*(DownBlock(channels * 2**i, stride) for i, stride in enumerate(strides)))
        self.snake = Snake(channels * 2 ** len(strides))
        self.conv2 = Conv1d(channels * 2 ** len(strides), dim, 3, padding=1)
        self.context = encoder_context(self, hop)
        self.block_frames = block_frames(channels * hop, self.context)
        self._fine = wide_strides(strides, channels)
        down = math.prod(strides[: self._fine])
        self._slices = Slices(self._fine_layers(), channels * down, down=down)

    def _fine_layers(self) -> list[nn.Module]:
        return [self.conv1, *self.blocks[: self._fine]]

    def forward(self, wav: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.conv2(self.snake(self.blocks[self._fine :](self._slices.run(self._fine_layers(), wav)), reuse=True)), None


class DACDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples.

    Args:
        channels: width at the frame rate; it halves at each of `strides`, whose product is the hop.
        whole: make every sample. DAC itself leaves out the last one of an odd stride, and what follows from it: there
            the last samples of a signal (8 with strides 8, 5, 4, 2) are zeros.
        tanh: bound the samples by it.
    """

    def __init__(self, dim: int, hop: int, channels: int, strides: Sequence[int], whole: bool, tanh: bool):
        super().__init__()
        check_strides(strides, hop)
        if channels % 2 ** len(strides):
            least = 2 ** len(strides)
            raise ValueError(f"channels={channels} cannot be halved {len(strides)} times: take a multiple of {least}")
        self.hop, self.tanh = hop, tanh
        last = channels // 2 ** len(strides)
        self.conv1 = Conv1d(dim, channels, KERNEL, padding=KERNEL // 2)
        self.blocks = nn.Sequential(*(UpBlock(channels // 2**i, stride, whole) for i, stride in enumerate(strides)))
        self.snake = Snake(last)
        self.conv2 = Conv1d(last, 1, KERNEL, padding=KERNEL // 2)
        self.context = decoder_context(self, hop)
        self.block_frames = block_frames(last * hop, self.context)
        self._coarse = len(strides) - wide_strides(strides[::-1], last)
        up = math.prod(strides[self._coarse :])
        self._slices = Slices(self._fine_layers(), last * up, up=up)

    def _fine_layers(self) -> list[nn.Module]:
        return [*self.blocks[self._coarse :], self.snake, self.conv2]

    def forward(self, latents: Tensor, state: None = None) -> tuple[Tensor, None]:
        wav = self._slices.run(self._fine_layers(), self.blocks[: self._coarse](self.conv1(latents)))
        wav = wav.tanh() if self.tanh else wav
        return F.pad(wav, (0, latents.shape[2] * self.hop - wav.shape[2])), None


def check_strides(strides: Sequence[int], hop: int) -> None:
    if min(strides, default=0) < 2:
        raise ValueError(f"strides {tuple(strides)}: at least one is needed, and each must be 2 or more")
    if math.prod(strides) != hop:
        raise ValueError(f"strides {tuple(strides)} multiply to {math.prod(strides)}: they must give the frame size {hop}")
