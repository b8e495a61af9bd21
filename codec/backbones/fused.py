"""Content and sound side by side before the quantizer, as in X-Codec (Ye et al. 2024, https://arxiv.org/abs/2408.17175),
but live: a small causal network that is trained to answer as the teacher does stands in its place.

X-Codec itself runs its teacher, which hears the whole recording, whenever it encodes (`codec.backbones.xcodec`). The student
here is a part of the model like any other: encoding needs no teacher, and streams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec.backbones.base import Network
from codec.backbones.convnext_stft import ConvNeXtEncoder
from codec.nn.linear import Linear
from codec.nn.state import State


class FusedEncoder(Network):
    """(B, 1, n * hop) samples to (B, dim, n) latents, causal. `content` is as wide as the teacher's features."""

    def __init__(
        self, dim: int, hop: int, window: int, channels: int, hidden: int, blocks: int, kernel_size: int, sound_dim: int,
        content_dim: int, content_channels: int, content_hidden: int, content_blocks: int,
    ):
        super().__init__()
        self.hop, self.content_dim = hop, content_dim
        self.sound = ConvNeXtEncoder(sound_dim, hop, window, channels, hidden, blocks, kernel_size)
        self.content = ConvNeXtEncoder(
            content_dim, hop, window, content_channels, content_hidden, content_blocks, kernel_size
        )
        self.merge = Linear(sound_dim + content_dim, dim)

    def forward(self, wav: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        latents, _, state = self.with_content(wav, state)
        return latents, state

    def with_content(self, wav: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """As `forward`, with the student's features (B, content_dim, n) between latents and state."""
        own, other = (None, None) if state is None else state
        sound, own = self.sound(wav, own)
        content, other = self.content(wav, other)
        latents = self.merge(torch.cat([sound, content], dim=1).transpose(1, 2)).transpose(1, 2)
        return latents, content, (own, other)
