"""Causal convolutions on (B, C, T) that stream: no output depends on an input that comes after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PADDINGS = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}  # ours to those of torch


class CausalConv1d(nn.Module):
    """Convolution of (B, C, n * stride) to (B, C', n): output t sees inputs up to (t + 1) * stride - 1.

    State: the last `(kernel_size - 1) * dilation + 1 - stride` inputs. Before the start of a signal these are zeros, the
    signal's first inputs mirrored (which a first call must hold `start` of, unless the signal ends there: then zeros follow
    before it is mirrored, as in EnCodec) or its first one repeated. Only the last block of a signal may have a length that
    is no multiple of the stride: it is filled up in the same way.

    Args:
        padding: zeros, reflect or replicate.
    """

    def __init__(
        self, channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1,
        padding: str = "zeros", bias: bool = True,
    ):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.history = (kernel_size - 1) * dilation + 1 - stride
        if self.history < 0:
            raise ValueError(f"a kernel of {kernel_size} (dilation {dilation}) skips inputs at stride {stride}: widen it")
        if padding not in PADDINGS:
            raise ValueError(f"padding={padding!r}: there is {', '.join(PADDINGS)}")
        if padding == "reflect" and self.history < stride - 1:
            raise ValueError(f"a kernel of {kernel_size} keeps too little to mirror at stride {stride}: widen it")
        self.conv = nn.Conv1d(channels, out_channels, kernel_size, stride=stride, dilation=dilation, bias=bias)

    @property
    def start(self) -> int:
        """Inputs that the first call needs."""
        return self.history + 1 if self.padding == "reflect" else 1

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._padded(x, state)  # (B, C, history + n * stride)
        # Cloned: a view would keep the whole block alive until the next one.
        return self.conv(x), x[..., x.shape[2] - self.history :].clone()

    def _padded(self, x: Tensor, past: Tensor | None) -> Tensor:
        left, right, mode = self.history, -x.shape[2] % self.stride, PADDINGS[self.padding]
        if past is not None:
            x = torch.cat([past, x], dim=2) if left else x
            return F.pad(x, (0, right), mode) if right else x
        if mode == "reflect" and x.shape[2] <= left:
            zeros = left + 1 - x.shape[2]
            return F.pad(F.pad(x, (0, zeros)), (left, right), mode)[..., :-zeros]
        if mode == "reflect" and not right:  # torch's own is several times as slow
            return torch.cat([x[..., 1 : left + 1].flip(2), x], dim=2) if left else x
        return F.pad(x, (left, right), mode) if left or right else x


class CausalConvTranspose1d(nn.Module):
    """Transposed convolution of (B, C, n) to (B, C', n * stride): outputs from t * stride on see input t.

    What later inputs can still change is held back, so that the output lags by nothing. State: these
    `kernel_size - stride` unfinished outputs, without bias.
    """

    def __init__(
        self, channels: int, out_channels: int, kernel_size: int, stride: int, bias: bool = True, groups: int = 1
    ):
        super().__init__()
        if kernel_size < stride:
            raise ValueError(f"a kernel of {kernel_size} leaves holes at stride {stride}: take at least {stride}")
        self.overlap = kernel_size - stride
        self.conv = nn.ConvTranspose1d(channels, out_channels, kernel_size, stride=stride, bias=False, groups=groups)
        self.bias = nn.Parameter(torch.zeros(out_channels, 1)) if bias else None

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.conv(x)  # (B, C', n * stride + overlap)
        if state is not None:
            y = y + F.pad(state, (0, y.shape[2] - self.overlap))
        finished = y.shape[2] - self.overlap
        whole = y[..., :finished]
        return whole if self.bias is None else whole + self.bias, y[..., finished:].clone()
