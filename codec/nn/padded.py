"""Convolutions on (B, C, T) that see as far ahead as back, with the ends of the signal mirrored."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.conv1d import Conv1d, ConvTranspose1d


class PaddedConv1d(nn.Module):
    """Convolution of (B, C, T) to (B, C', ceil(T / stride)), as in EnCodec's form that is not causal.

    `(kernel_size - 1) * dilation + 1 - stride` inputs are mirrored, one more at the start where that is odd; the end also
    fills up the last stride. A signal that is too short to be mirrored is followed by zeros first.
    """

    def __init__(self, channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        total = (kernel_size - 1) * dilation + 1 - stride
        if total < 0:
            raise ValueError(f"a kernel of {kernel_size} (dilation {dilation}) skips inputs at stride {stride}: widen it")
        self.stride, self.right = stride, total // 2
        self.left = total - self.right
        self.conv = Conv1d(channels, out_channels, kernel_size, stride=stride, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left, self.right + -x.shape[2] % self.stride
        if (left or right) and max(left, right) < x.shape[2] and not torch.is_grad_enabled():  # as below, keeping the layout
            x = x.mT
            ends = x[:, 1 : left + 1].flip(1), x[:, x.shape[1] - 1 - right : -1].flip(1)
            x = torch.cat([ends[0], x, ends[1]], 1).mT
        elif left or right:
            zeros = max(0, max(left, right) + 1 - x.shape[2])
            x = F.pad(F.pad(x, (0, zeros)) if zeros else x, (left, right), "reflect")
            x = x[..., : x.shape[2] - zeros]
        return self.conv(x)


class TrimmedConvTranspose1d(nn.Module):
    """Transposed convolution of (B, C, T) to (B, C', T * stride): what is too long is cut off at both ends, one more at the
    start where that is odd."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        total = kernel_size - stride
        if total < 0:
            raise ValueError(f"a kernel of {kernel_size} leaves holes at stride {stride}: take at least {stride}")
        self.stride, self.left = stride, total - total // 2
        self.conv = ConvTranspose1d(channels, out_channels, kernel_size, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[..., self.left : self.left + x.shape[2] * self.stride]
