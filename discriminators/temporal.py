"""The convolutions over time that judge sequences of vectors: mel bands, or states of a network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import conv1d


class TemporalJudge(nn.Module):
    """x (B, in_channels, N) -> scores (B, 1, N) and three hidden maps (B, channels, N); every layer sees all of a vector at once.

    first_kernel  of the first layer; the second and third have 5, the scores 3.
    """

    def __init__(self, in_channels: int, channels: int, first_kernel: int) -> None:
        super().__init__()
        widths = [(in_channels, first_kernel), (channels, 5), (channels, 5)]
        self.layers = nn.ModuleList(conv1d(width, channels, kernel) for width, kernel in widths)
        self.head = conv1d(channels, 1, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x), features
