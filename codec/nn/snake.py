"""Snake, an activation with a period of its own in every channel (Ziyin et al. 2020, https://arxiv.org/abs/2006.08195)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TILE = 131_072  # numbers that go through all steps at once: a tile stays in a CPU's cache


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha on (B, C, T), alpha (C, 1) learned. As DAC has it: 1e-9 keeps an alpha of 0 finite."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor, reuse: bool = False) -> Tensor:
        """reuse: nobody needs x any more, so that the result may take its place in memory."""
        scale = (self.alpha + 1e-9).reciprocal()
        if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
            return torch.addcmul(x, scale, torch.sin(self.alpha * x).square())
        return self._by_tiles(x, scale, x if reuse else torch.empty_like(x))

    def _by_tiles(self, x: Tensor, scale: Tensor, out: Tensor) -> Tensor:
        """The same numbers, a tile at a time: some steps of all channels where these lie side by side in memory, or else some
        channels with all steps."""
        moments = x.stride(1) == 1
        tile = max(1, TILE // max(1, x.shape[1] if moments else x.shape[2]))
        alpha = self.alpha[:, 0] if moments else self.alpha
        scale = scale[:, 0] if moments else scale
        for item, result in zip(x, out):
            if moments:
                item, result = item.T, result.T
            for start in range(0, item.shape[0], tile):
                part = slice(start, start + tile)
                own, by = (alpha, scale) if moments else (alpha[part], scale[part])
                wave = (item[part] * own).sin_()
                torch.addcmul(item[part], by, wave.mul_(wave), out=result[part])
        return out
