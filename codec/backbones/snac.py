"""SNAC's convolutions: DAC's, with depthwise ones in the residual units, and noise in the decoder.

Siuzdak et al. 2024 (https://arxiv.org/abs/2410.14411), as published in snac 1.2 for 24 kHz: without local attention.

The noise of a decoder block is white, one value a sample for all channels, scaled by a linear map of the block's input. It
is drawn in training alone. Otherwise it is left out, which is its mean: a decoder gives the same samples every time, and a
signal in parts the same as the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codec.backbones.base import Network, block_frames
from codec.backbones.dac import DILATIONS, KERNEL, DownBlock, ResidualUnit, check_strides
from codec.nn.conv1d import Conv1d, ConvTranspose1d
from codec.nn.reach import decoder_context, encoder_context
from codec.nn.slices import Slices, wide_strides
from codec.nn.snake import Snake


class Noise(nn.Module):
    """White noise (B, 1, T), in training, times a linear map of what it is added to. (B, C, T)."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = Conv1d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x + torch.randn_like(x[:, :1]) * self.scale(x)


class UpBlock(nn.Module):
    """A transposed convolution to half the channels, noise, residual units. (B, C, n), which is written over where no
    gradients are needed, to (B, C / 2, n * stride)."""

    def __init__(self, channels: int, stride: int, depthwise: bool, noise: bool):
        super().__init__()
        half = channels // 2
        self.snake = Snake(channels)
        self.conv = ConvTranspose1d(
            channels, half, 2 * stride, stride=stride, padding=math.ceil(stride / 2), output_padding=stride % 2
        )
        self.noise = Noise(half) if noise else None
        groups = half if depthwise else 1
        self.units = nn.Sequential(*(ResidualUnit(half, dilation, groups) for dilation in DILATIONS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.snake(x, reuse=True))
        return self.units(x if self.noise is None else self.noise(x))


class SNACEncoder(Network):
    """(B, 1, n * hop) samples to (B, dim, n) latents; dim is `channels` doubled at each of `strides`.

    Args:
        channels: width at the sample rate.
        strides: their product is the hop.
        depthwise: dilated convolutions, and the last one, work on every channel by itself.
    """

    def __init__(self, dim: int, hop: int, channels: int, strides: Sequence[int], depthwise: bool):
        super().__init__()
        check_strides(strides, hop)
        if dim != channels * 2 ** len(strides):
            raise ValueError(f"dim={dim}: an encoder that starts with {channels} channels has latents "
                             f"{channels * 2 ** len(strides)} wide after {len(strides)} strides")
        widths = [channels * 2**i for i in range(len(strides))]
        self.conv1 = Conv1d(1, channels, KERNEL, padding=KERNEL // 2)
        self.blocks = nn.Sequential(
            *(DownBlock(width, stride, width if depthwise else 1) for width, stride in zip(widths, strides))
        )
        self.conv2 = Conv1d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim if depthwise else 1)
        self.context = encoder_context(self, hop)
        self.block_frames = block_frames(channels * hop, self.context)
        self._fine = wide_strides(strides, channels)
        down = math.prod(strides[: self._fine])
        self._slices = Slices(self._fine_layers(), channels * down, down=down)

    def _fine_layers(self) -> list[nn.Module]:
        return [self.conv1, *self.blocks[: self._fine]]

    def forward(self, wav: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.conv2(self.blocks[self._fine :](self._slices.run(self._fine_layers(), wav))), None


class SNACDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples.

    Args:
        channels: width at the frame rate; it halves at each of `strides`, whose product is the hop.
        depthwise: as for the encoder; the first convolution is split in a depthwise and a pointwise one.
        noise: whether blocks add noise in training.
    """

    def __init__(self, dim: int, hop: int, channels: int, strides: Sequence[int], depthwise: bool, noise: bool):
        super().__init__()
        check_strides(strides, hop)
        last = channels // 2 ** len(strides)
        if last * 2 ** len(strides) != channels:
            least = 2 ** len(strides)
            raise ValueError(f"channels={channels} cannot be halved {len(strides)} times: take a multiple of {least}")
        first = Conv1d(dim, dim if depthwise else channels, KERNEL, padding=KERNEL // 2, groups=dim if depthwise else 1)
        self.first = nn.Sequential(first, Conv1d(dim, channels, 1)) if depthwise else nn.Sequential(first)
        self.blocks = nn.Sequential(
            *(UpBlock(channels // 2**i, stride, depthwise, noise) for i, stride in enumerate(strides))
        )
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
        wav = self._slices.run(self._fine_layers(), self.blocks[: self._coarse](self.first(latents)))
        return wav.tanh(), None
