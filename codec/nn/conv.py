"""Causal convolutions on (B, C, T) that stream: no output depends on an input that comes after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalConv1d(nn.Module):
    """Convolution of (B, C, n * stride) to (B, C', n): output t sees inputs up to (t + 1) * stride - 1.

    State: the last `(kernel_size - 1) * dilation + 1 - stride` inputs, zeros before the start of a signal.
    """

    def __init__(self, channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.history = (kernel_size - 1) * dilation + 1 - stride
        if self.history < 0:
            raise ValueError(f"a kernel of {kernel_size} (dilation {dilation}) skips inputs at stride {stride}: widen it")
        self.conv = nn.Conv1d(channels, out_channels, kernel_size, stride=stride, dilation=dilation)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        past = x.new_zeros(x.shape[0], x.shape[1], self.history) if state is None else state
        x = torch.cat([past, x], dim=2)  # (B, C, history + n * stride)
        # Cloned: a view would keep the whole block alive until the next one.
        return self.conv(x), x[..., x.shape[2] - self.history :].clone()


class CausalConvTranspose1d(nn.Module):
    """Transposed convolution of (B, C, n) to (B, C', n * stride): outputs from t * stride on see input t.

    What later inputs can still change is held back, so that the output lags by nothing. State: these
    `kernel_size - stride` unfinished outputs, without bias.
    """

    def __init__(self, channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        if kernel_size < stride:
            raise ValueError(f"a kernel of {kernel_size} leaves holes at stride {stride}: take at least {stride}")
        self.overlap = kernel_size - stride
        self.conv = nn.ConvTranspose1d(channels, out_channels, kernel_size, stride=stride, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels, 1))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.conv(x)  # (B, C', n * stride + overlap)
        if state is not None:
            y = y + F.pad(state, (0, y.shape[2] - self.overlap))
        finished = y.shape[2] - self.overlap
        return y[..., :finished] + self.bias, y[..., finished:].clone()
