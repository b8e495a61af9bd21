"""X-Codec 2: sound and content in one scalar quantizer, a transformer and an inverse STFT behind it.

Ye et al. 2025 (https://arxiv.org/abs/2502.04128), as published in zhenye234/X-Codec-2.0: BigCodec's convolutions hear the
sound, the first 16 layers of w2v-BERT 2.0 and convolutions behind them the content; one linear map leads from both to the
axes of the quantizer and one back, where the published code has two in a row, which are one. Not causal, and of unlimited
context on both sides: attention and normalisation over all that is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.backbones.base import Network
from codec.backbones.dac import check_strides
from codec.nn.fast_linear import FastLinear
from codec.nn.fbank import Filterbank
from codec.nn.istft import CentredSynthesis, from_polar
from codec.nn.snake_beta import SnakeBeta
from codec.nn.teacher import FilterbankTeacher

KERNEL, DILATIONS = 7, (1, 3, 9)
BANDS, STACKED = 80, 2  # of the filterbank; its frames side by side are one of the teacher
GROUPS = 32
EPSILON = 1e-3  # of the quantizer's bound, see `quantizers.fsq`


class Unit(nn.Module):
    """A dilated convolution and a pointwise one with a skip connection. (B, C, T)."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.snake1, self.snake2 = SnakeBeta(channels), SnakeBeta(channels)
        self.conv1 = nn.Conv1d(channels, channels, KERNEL, dilation=dilation, padding=KERNEL // 2 * dilation)
        self.conv2 = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.snake2(self.conv1(self.snake1(x))))


class SoundEncoder(nn.Sequential):
    """(B, 1, n * hop) samples to (B, dim, n): residual units and a strided convolution to twice the channels at each stride,
    as in BigCodec (Xin et al. 2024, https://arxiv.org/abs/2409.05377)."""

    def __init__(self, dim: int, channels: int, strides: Sequence[int]):
        layers: list[nn.Module] = [nn.Conv1d(1, channels, KERNEL, padding=KERNEL // 2)]
        for stride in strides:
            layers += [Unit(channels, dilation) for dilation in DILATIONS]
            layers.append(SnakeBeta(channels))
            layers.append(nn.Conv1d(channels, 2 * channels, 2 * stride, stride=stride, padding=math.ceil(stride / 2)))
            channels *= 2
        super().__init__(*layers, SnakeBeta(channels), nn.Conv1d(channels, dim, 3, padding=1))


class Refiner(nn.Module):
    """The teacher's features (B, C, n) through four convolutions, a skip connection around the two in the middle."""

    def __init__(self, channels: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=1, bias=index in (1, 2)) for index in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.convs[0](x))
        return self.convs[3](x + self.convs[2](F.relu(self.convs[1](x))))


class XCodec2Encoder(Network):
    """(B, 1, T) samples at 16 kHz to (B, dim, ceil(T / hop)) numbers for the axes of an FSQ with as many levels each as
    `levels` says. They are bounded once more than FSQ itself does, as the weights are trained.

    The public feature extractors put at least one zero behind every signal and fill up the frame: one that ends with a
    frame has another one of silence there. Here it is heard, too, so that the codes are the same, but not coded.

    Args:
        channels, strides: of the sound branch, `channels` at the sample rate; they double at each of `strides`, whose
            product is the hop: 320, two frames of the filterbank.
        sound_dim: its width at the frame rate.
        levels: of the quantizer.
        centred: whether the teacher's frames lie around the frames, as in X-Codec 2. In NeuCodec they begin half a
            frame later, so that the last one is incomplete: a signal that does not end with a frame takes the content of
            the frame before for its last, which theirs does not code.
        window_frames, overlap_frames: longer signals are coded in windows, see `codec.coding.Windows`.
        With teacher_ before their names: the options of `FilterbankTeacher`.
    """

    ragged = True

    def __init__(
        self, dim: int, hop: int, channels: int, strides: Sequence[int], sound_dim: int, levels: Sequence[int],
        centred: bool, window_frames: int, overlap_frames: int, **teacher_options: Any,
    ):
        super().__init__()
        check_strides(strides, hop)
        if hop % STACKED:
            raise ValueError(f"a frame size of {hop} samples is odd: {STACKED} frames of the filterbank make one")
        if len(levels) != dim:
            raise ValueError(f"levels {tuple(levels)} must be as many as dim={dim}")
        if not 0 <= overlap_frames < window_frames:
            raise ValueError(f"windows of {window_frames} frames cannot overlap by {overlap_frames}: take less than a window")
        self.hop, self.centred, self.window = hop, centred, (window_frames, overlap_frames)
        options = {name.removeprefix("teacher_"): value for name, value in teacher_options.items()}
        self.filterbank = Filterbank(16_000, hop * 5 // 4, hop // STACKED, BANDS)
        self.teacher = FilterbankTeacher(BANDS * STACKED, **options)
        self.refiner = Refiner(options["dim"])
        self.sound = SoundEncoder(sound_dim, channels, strides)
        self.join = nn.Linear(options["dim"] + sound_dim, dim)
        count = torch.tensor(levels, dtype=torch.float64, device="cpu")
        half, offset = (count - 1) * (1 + EPSILON) / 2, (1 - count % 2) / 2
        for name, value in (("span", half), ("offset", offset), ("shift", torch.atanh(offset / half))):
            self.register_buffer(name, value.float().to(torch.get_default_device()), persistent=False)

    def forward(self, wav: Tensor, state: None = None) -> tuple[Tensor, None]:
        frames = -(-wav.shape[2] // self.hop)
        wav = F.pad(wav, (0, self.hop - wav.shape[2] % self.hop))  # at least one zero
        content = self.refiner(self.content(wav[:, 0]).transpose(1, 2))[..., :frames]
        content = F.pad(content, (0, frames - content.shape[2]), "replicate")
        axes = self.join(torch.cat([content, self.sound(wav)[..., :frames]], 1).transpose(1, 2))
        return (torch.tanh(axes + self.shift) * self.span - self.offset).transpose(1, 2), None

    @torch.no_grad()
    def content(self, wav: Tensor) -> Tensor:
        """Samples (B, n * hop) to the teacher's features (B, n, C), or n - 1 where they are not centred but at least one, of
        energies that are normalised over all frames."""
        pads = (self.hop // 2, self.hop // 2) if self.centred else (0, max(0, 2 * self.hop - wav.shape[1]))
        energies = self.filterbank(F.pad(wav, pads))  # (B, 2 n, bands)
        variance, mean = torch.var_mean(energies, 1, keepdim=True)
        energies = (energies - mean) / torch.sqrt(variance + 1e-7)
        return self.teacher(energies.reshape(wav.shape[0], -1, BANDS * STACKED))


class Residual(nn.Module):
    """Two convolutions behind normalisations over time, with a skip connection. (B, C, n)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(GROUPS, channels, eps=1e-6) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv1d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Layer(nn.Module):
    """Attention over all frames, without positions, and two linear layers with SiLU. (B, n, C).

    The published code has rotary positions that count heads instead of frames: queries and keys of a head are turned by the
    same angle, which changes nothing.
    """

    def __init__(self, channels: int, heads: int, head_dim: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.RMSNorm(channels, eps=1e-6), nn.RMSNorm(channels, eps=1e-6)
        self.qkv = FastLinear(channels, 3 * heads * head_dim, bias=False)
        self.out = FastLinear(heads * head_dim, channels, bias=False)
        self.expand, self.project = FastLinear(channels, hidden, bias=False), FastLinear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, _ = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv)  # (B, heads, n, width)
        x = x + self.out(y.transpose(1, 2).reshape(batch, frames, -1))
        return x + self.project(F.silu(self.expand(self.norm_mlp(x))))


class XCodec2Decoder(Network):
    """(B, dim, n) levels of the quantizer to (B, 1, n * hop) samples: convolutions normalised over time before and behind a
    transformer, and an inverse STFT of four hops.

    Args:
        channels: a multiple of 32. layers, heads, head_dim, hidden: of the transformer.
        window_frames, overlap_frames: longer signals are coded in windows, see `codec.coding.Windows`.
    """

    def __init__(
        self, dim: int, hop: int, channels: int, layers: int, heads: int, head_dim: int, hidden: int, window_frames: int,
        overlap_frames: int,
    ):
        super().__init__()
        if channels % GROUPS:
            raise ValueError(f"channels={channels} do not make {GROUPS} groups: take a multiple")
        if not 0 <= overlap_frames < window_frames:
            raise ValueError(f"windows of {window_frames} frames cannot overlap by {overlap_frames}: take less than a window")
        self.window = window_frames, overlap_frames
        self.split = nn.Linear(dim, channels)
        self.embed = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2)
        self.before, self.behind = (nn.Sequential(Residual(channels), Residual(channels)) for _ in range(2))
        self.layers = nn.Sequential(*(Layer(channels, heads, head_dim, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, 4 * hop + 2)
        self.synthesis = CentredSynthesis(4 * hop, hop)

    def forward(self, latents: Tensor, state: None = None) -> tuple[Tensor, None]:
        x = self.before(self.embed(self.split(latents.transpose(1, 2)).transpose(1, 2)))
        x = self.behind(self.layers(x.transpose(1, 2)).transpose(1, 2))
        y = self.head(self.norm(x.transpose(1, 2)))  # (B, n, 2 * bins)
        with torch.autocast(y.device.type, enabled=False):
            return self.synthesis(from_polar(y.float()))[:, None], None
