"""CAM++, a network that tells speakers apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BANDS = 80  # of its spectra
SEGMENT = 100  # frames over which the masks of a layer take a mean
BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation


class Heard(NamedTuple):
    """``embedding`` (B, size) of a voice, and ``blocks``, what each block of layers made on the way, (B, channels, N / 2)."""

    embedding: Tensor
    blocks: tuple[Tensor, ...]


class CAMPPlus(nn.Module):
    """Spectra (B, N, 80), logarithms of mel powers whose mean over time is 0, by frames of 10 ms -> what is :class:`Heard`.

    Source: Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking", 2023
    (https://arxiv.org/abs/2303.00332). Parameters are named as in 3D-Speaker, whose checkpoints load as they are. For what is trained:
    it is never trained here.
    """

    def __init__(self, size: int = 192) -> None:
        super().__init__()
        self.head = _Spectral(32)
        channels, layers = 128, {"tdnn": _Conv(32 * BANDS // 8, 128, 5, stride=2)}
        for number, (depth, dilation) in enumerate(BLOCKS, start=1):
            layers[f"block{number}"] = _Dense(channels, depth, dilation)
            channels += 32 * depth
            layers[f"transit{number}"] = _Transit(channels)
            channels //= 2
        layers["out_nonlinear"] = _activation(channels)
        layers["stats"] = _Statistics()
        layers["dense"] = _Embedding(2 * channels, size)
        self.xvector = _sequence(**layers)

    def forward(self, spectra: Tensor) -> Heard:
        x, blocks = self.head(spectra.mT), []
        for layer in self.xvector:
            x = layer(x)
            if isinstance(layer, _Dense):
                blocks.append(x)
        return Heard(x, tuple(blocks))


class _Spectral(nn.Module):
    """(B, 80, N) -> (B, 10 channels, N): convolutions over bands and time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv2d(1, channels), nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(_Residual(channels, 2), _Residual(channels, 1))
        self.layer2 = nn.Sequential(_Residual(channels, 2), _Residual(channels, 1))
        self.conv2, self.bn2 = _conv2d(channels, channels, 2), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x.unsqueeze(1))))
        x = self.layer2(self.layer1(x))
        return F.relu(self.bn2(self.conv2(x))).flatten(1, 2)


class _Residual(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv2d(channels, channels, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv2d(channels, channels), nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, (stride, 1), bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class _Conv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.nonlinear = _activation(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x))


class _Dense(nn.Module):
    """Layers that each see what went in and what all the earlier ones made of it: (B, C, N) -> (B, C + 32 depth, N)."""

    def __init__(self, channels: int, depth: int, dilation: int) -> None:
        super().__init__()
        for number in range(depth):
            self.add_module(f"tdnnd{number + 1}", _DenseLayer(channels + 32 * number, dilation))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = torch.cat([x, layer(x)], dim=1)
        return x


class _DenseLayer(nn.Module):
    def __init__(self, in_channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _activation(in_channels)
        self.linear1 = nn.Conv1d(in_channels, 128, 1, bias=False)
        self.nonlinear2 = _activation(128)
        self.cam_layer = _Masked(128, 32, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))


class _Masked(nn.Module):
    """A convolution whose channels are weighed by the means over the recording and over each second of it."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(in_channels, in_channels // 2, 1)
        self.linear2 = nn.Conv1d(in_channels // 2, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        segments = F.avg_pool1d(x, SEGMENT, SEGMENT, ceil_mode=True).repeat_interleave(SEGMENT, dim=-1)
        context = x.mean(-1, keepdim=True) + segments[..., : x.shape[-1]]
        return self.linear_local(x) * self.linear2(F.relu(self.linear1(context))).sigmoid()


class _Transit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nonlinear = _activation(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.nonlinear(x))


class _Statistics(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(-1), x.std(-1)], dim=-1)


class _Embedding(nn.Module):
    def __init__(self, in_channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, size, 1, bias=False)
        self.nonlinear = _sequence(batchnorm=nn.BatchNorm1d(size, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x.unsqueeze(-1)).squeeze(-1))


def _conv2d(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Over bands, of which one of `stride` remains, and time."""
    return nn.Conv2d(in_channels, out_channels, 3, (stride, 1), 1, bias=False)


def _activation(channels: int) -> nn.Sequential:
    return _sequence(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU())


def _sequence(**layers: nn.Module) -> nn.Sequential:
    sequence = nn.Sequential()
    for name, layer in layers.items():
        sequence.add_module(name, layer)
    return sequence
