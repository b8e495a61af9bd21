"""X-Codec: what is said and how it sounds, joined before the quantizer.

Ye et al. 2024 (https://arxiv.org/abs/2408.17175), as published in zhenye234/xcodec: a DAC encoder hears the sound, a frozen
speech model (the mean of all its layers) and convolutions behind it the content; both side by side pass a linear map. A
linear map and a DAC decoder without its last tanh lead back to sound. Not causal, and of unlimited context: the speech
model attends to, and normalises over, all that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.backbones.base import Network
from codec.backbones.dac import DACDecoder, DACEncoder
from codec.nn.teacher import SpeechTeacher

TAIL_FRAMES = 50  # that are heard again for a last frame of a few samples only


class Unit(nn.Module):
    """ELU, a dilated convolution, ELU and a pointwise one with a skip connection. (B, C, T), no biases."""

    def __init__(self, channels: int, kernel_size: int, dilation: int):
        super().__init__()
        padding = (kernel_size - 1) // 2 * dilation
        self.conv1 = nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=padding, bias=False)
        self.conv2 = nn.Conv1d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.elu(self.conv1(F.elu(x))))


class Refiner(nn.Module):
    """The teacher's features (B, C, n) to semantic latents (B, channels[-1], n): a convolution, then for each of `channels`
    residual units, one of each dilation, and a convolution to that many."""

    def __init__(
        self, dim: int, channels: Sequence[int], kernel_size: int, unit_kernel_size: int, dilations: Sequence[int]
    ):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, bias=False)
        self.blocks = nn.ModuleList()
        for width in channels:
            units = (Unit(dim, unit_kernel_size, dilation) for dilation in dilations)
            self.blocks.append(nn.Sequential(*units, nn.Conv1d(dim, width, 3, padding=1)))
            dim = width

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return x


class XCodecEncoder(Network):
    """(B, 1, T) samples to (B, dim, ceil(T / hop)) latents.

    Frames are those of the public code, which is given the samples as they are. The teacher hears half a hop of zeros more
    on both sides, so that with n * hop samples both branches make n frames. Where they differ in number, the sound branch is
    given these zeros as well: it then lies half a frame beside the content. Where too few samples are left for a last frame
    of the teacher the public code makes none: here it is that of the last second, filled up with zeros.

    Args:
        channels, strides, sound_dim: of the DAC encoder.
        semantic_channels, semantic_kernel_size, semantic_unit_kernel_size, semantic_dilations: of the convolutions behind
            the teacher. sound_dim and the last of semantic_channels add up to `dim`.
        window_frames, overlap_frames: longer signals are coded in windows, see `codec.coding.Windows`.
        teacher: "hubert" or "wavlm", and with teacher_ before their names the options of `SpeechTeacher`.
    """

    ragged = True

    def __init__(
        self, dim: int, hop: int, channels: int, strides: Sequence[int], sound_dim: int, semantic_channels: Sequence[int],
        semantic_kernel_size: int, semantic_unit_kernel_size: int, semantic_dilations: Sequence[int], window_frames: int,
        overlap_frames: int, teacher: str, **teacher_options: Any,
    ):
        super().__init__()
        if not semantic_channels or sound_dim + semantic_channels[-1] != dim:
            raise ValueError(f"sound_dim={sound_dim} and the last of semantic_channels={tuple(semantic_channels)} must "
                             f"add up to dim={dim}")
        if semantic_kernel_size % 2 == 0 or semantic_unit_kernel_size % 2 == 0:
            raise ValueError("semantic_kernel_size and semantic_unit_kernel_size must be odd: frames have a middle")
        if not 0 <= overlap_frames < window_frames:
            raise ValueError(f"windows of {window_frames} frames cannot overlap by {overlap_frames}: take less than a window")
        self.window = window_frames, overlap_frames
        self.hop, self.pad = hop, hop // 2
        self.sound = DACEncoder(sound_dim, hop, channels, strides)
        options = {name.removeprefix("teacher_"): value for name, value in teacher_options.items()}
        self.teacher = SpeechTeacher(teacher, **options)
        if any(self.teacher.frames(n * hop + 2 * self.pad) != n for n in (1, 2, 3)):
            raise ValueError(f"the teacher's convolutions do not make a frame of every {hop} samples: their strides must "
                             f"multiply to that")
        self.refiner = Refiner(
            options["dim"], semantic_channels, semantic_kernel_size, semantic_unit_kernel_size, semantic_dilations
        )
        self.join = nn.Linear(dim, dim)

    def forward(self, wav: Tensor, state: None = None) -> tuple[Tensor, None]:
        samples = wav.shape[2]
        frames = -(-samples // self.hop)
        if self.teacher.frames(samples + 2 * self.pad) == frames:
            return self._heard(wav), None
        filled = F.pad(wav, (0, frames * self.hop - samples))[..., -TAIL_FRAMES * self.hop :]
        last = self._heard(filled)[..., -1:]
        return (torch.cat([self._heard(wav), last], 2) if frames > 1 else last), None

    def _heard(self, wav: Tensor) -> Tensor:
        """Latents as the public code makes them, n or ceil(T / hop) of T = n * hop + r samples."""
        content = self.teacher(F.pad(wav[:, 0], (self.pad, self.pad))).transpose(1, 2)  # (B, C, n)
        content = self.refiner(content)
        sound = wav if _frames(self.sound, wav.shape[2]) == content.shape[2] else F.pad(wav, (self.pad, self.pad))
        both = torch.cat([self.sound(sound)[0], content], 1)
        return self.join(both.transpose(1, 2)).transpose(1, 2)


class XCodecDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples: a linear map to `sound_dim`, then a DAC decoder.

    Its context is finite: that of the DAC decoder.
    """

    def __init__(self, dim: int, hop: int, sound_dim: int, channels: int, strides: Sequence[int]):
        super().__init__()
        self.split = nn.Linear(dim, sound_dim)
        self.sound = DACDecoder(sound_dim, hop, channels, strides, whole=True, tanh=False)
        self.context, self.block_frames = self.sound.context, self.sound.block_frames

    def forward(self, latents: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.sound(self.split(latents.transpose(1, 2)).transpose(1, 2))


def _frames(network: nn.Module, samples: int) -> int:
    """How many frames a chain of strided convolutions makes of so many samples."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d):
            (kernel,), (stride,), (padding,), (dilation,) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
            samples = (samples + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return samples
