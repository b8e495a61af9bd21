"""WavTokenizer's decoder: attention over all of a signal, ConvNeXt blocks at frame rate, an inverse STFT.

Ji et al. 2024 (https://arxiv.org/abs/2408.16532), on Vocos (Siuzdak 2023, https://arxiv.org/abs/2306.00814). Its normalisations
that depend on one of four bandwidths have become plain ones: all four are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.backbones.base import Network
from codec.backbones.seanet_mirrored import grid
from codec.nn.conv1d import Conv1d
from codec.nn.istft import CentredSynthesis, from_polar
from codec.nn.products import Linear

EPSILON = 1e-6  # of all normalisations
GROUPS = 32
DROPOUT = 0.1  # while training


class ResidualBlock(nn.Module):
    """Twice a normalisation over groups of channels and all time, SiLU and a convolution, with a skip connection. (B, C, T)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels, eps=EPSILON)
        self.conv1 = Conv1d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, channels, eps=EPSILON)
        self.dropout = nn.Dropout(DROPOUT)
        self.conv2 = Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(y))))


class AttentionBlock(nn.Module):
    """Attention of one head over all time, with a skip connection. (B, C, T)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, eps=EPSILON)
        self.qkv, self.out = Linear(channels, 3 * channels), Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(self.norm(x).transpose(1, 2)).chunk(3, dim=-1)  # (B, T, C) each
        y = F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])[:, 0]
        return x + self.out(y).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """As `codec.nn.convnext.ConvNeXtBlock`, but its convolution looks ahead as far as back. (B, C, T)."""

    def __init__(self, channels: int, hidden: int, kernel_size: int, layer_scale: float):
        super().__init__()
        self.depthwise = Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.expand, self.project = Linear(channels, hidden), Linear(hidden, channels)
        self.scale = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).transpose(1, 2))  # (B, T, C)
        return x + (self.scale * self.project(F.gelu(self.expand(y)))).transpose(1, 2)


class WavTokenizerDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples.

    Args:
        channels: width at frame rate, a multiple of 32. hidden: within a ConvNeXt block.
        blocks: ConvNeXt blocks. kernel_size: odd, of these and of the first convolution.
        window: of the inverse STFT in samples, a multiple of the hop.
        window_frames, overlap_frames: the grid on which longer signals are decoded, see `codec.coding.Windows`.
    """

    def __init__(
        self, dim: int, hop: int, channels: int, hidden: int, blocks: int, kernel_size: int, window: int, window_frames: int,
        overlap_frames: int,
    ):
        super().__init__()
        if channels % GROUPS or kernel_size % 2 == 0:
            raise ValueError(f"channels={channels} must be a multiple of {GROUPS}, kernel_size={kernel_size} odd")
        self.window = grid(window_frames, overlap_frames)
        self.embed = Conv1d(dim, channels, kernel_size, padding=kernel_size // 2)
        self.attention = nn.Sequential(
            ResidualBlock(channels), ResidualBlock(channels), AttentionBlock(channels), ResidualBlock(channels),
            ResidualBlock(channels), nn.GroupNorm(GROUPS, channels, eps=EPSILON),
        )
        self.norm_in = nn.LayerNorm(channels, eps=EPSILON)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(channels, hidden, kernel_size, 1 / blocks) for _ in range(blocks)))
        self.norm_out = nn.LayerNorm(channels, eps=EPSILON)
        self.head = Linear(channels, window + 2)
        self.synthesis = CentredSynthesis(window, hop)
        for layer in [self.embed, self.head, *self.blocks.modules()]:
            if isinstance(layer, (nn.Conv1d, nn.Linear)):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor, state: None = None) -> tuple[Tensor, None]:
        x = self.attention(self.embed(latents))  # (B, C, T)
        x = self.blocks(self.norm_in(x.transpose(1, 2)).transpose(1, 2))
        y = self.head(self.norm_out(x.transpose(1, 2)))  # (B, T, 2 * bins)
        with torch.autocast(y.device.type, enabled=False):
            return self.synthesis(from_polar(y.float()))[:, None], None
