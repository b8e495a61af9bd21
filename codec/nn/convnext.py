"""Causal ConvNeXt block (Liu et al. 2022, https://arxiv.org/abs/2201.03545) for frames, as Vocos uses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.convnext_laid import Laid
from codec.nn.depthwise import CausalDepthwiseConv
from codec.nn.linear import Linear
from quantizers.half_weights import inferring


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm, two pointwise layers with GELU, layer scale, residual. (B, T, C) to the same."""

    def __init__(self, channels: int, hidden: int, kernel_size: int = 7, layer_scale: float = 0.1):
        super().__init__()
        self.depthwise = CausalDepthwiseConv(channels, kernel_size)
        self.norm = nn.LayerNorm(channels)
        self.expand = Linear(channels, hidden)
        self.project = Linear(hidden, channels)
        self.scale = nn.Parameter(torch.full((channels,), layer_scale))
        self._laid: Laid | None = None

    def _apply(self, *args, **kwargs) -> ConvNeXtBlock:
        self._laid = None  # moved or converted: the old weights are not to stay in memory
        return super()._apply(*args, **kwargs)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if inferring(x):
            laid = self._laid
            if laid is None or not laid.fits(self):
                laid = self._laid = Laid(self)  # set at once: threads may be here together
            if laid.usable:
                return laid(x, state)
        y, state = self.depthwise(x, state)
        return x + self.scale * self.project(F.gelu(self.expand(self.norm(y)))), state
