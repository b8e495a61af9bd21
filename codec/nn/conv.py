"""Causal convolutions on (B, C, T) that stream: no output depends on an input that comes after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.products import linear

LARGE_WEIGHTS = ((4_000_000, 128), (100_000, 16))  # numbers of weights, and for how many outputs they are then read in vain
PADDINGS = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}  # ours to those of torch


def prefers_product(weight: Tensor, outputs: int) -> bool:
    """Whether a plain matrix product is faster for so few outputs: a CPU's convolutions rearrange all weights at every call.
    Not with gradients."""
    if weight.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_exporting():
        return False
    return any(weight.numel() >= numbers and outputs <= most for numbers, most in LARGE_WEIGHTS)


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
        steps = (x.shape[2] - self.history) // self.stride
        y = self._product(x, steps) if prefers_product(self.conv.weight, x.shape[0] * steps) else self.conv(x)
        # Cloned: a view would keep the whole block alive until the next one.
        return y, x[..., x.shape[2] - self.history :].clone()

    def _product(self, x: Tensor, steps: int) -> Tensor:
        """The convolution as one matrix product."""
        kernel, dilation = self.conv.kernel_size[0], self.conv.dilation[0]
        windows = x.unfold(2, (kernel - 1) * dilation + 1, self.stride)[..., ::dilation]  # (B, C, n, kernel)
        rows = windows.permute(0, 2, 1, 3).flatten(2)  # (B, n, C * kernel)
        return linear(rows, self.conv.weight.flatten(1), self.conv.bias).mT

    def _padded(self, x: Tensor, past: Tensor | None) -> Tensor:
        left, right, mode = self.history, -x.shape[2] % self.stride, PADDINGS[self.padding]
        right = 0 if torch.compiler.is_exporting() else right  # graphs take whole frames
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
        self.overlap, self.whole = kernel_size - stride, groups == 1 and kernel_size % stride == 0
        self.conv = nn.ConvTranspose1d(channels, out_channels, kernel_size, stride=stride, bias=False, groups=groups)
        self.bias = nn.Parameter(torch.zeros(out_channels, 1)) if bias else None

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        product = self.whole and prefers_product(self.conv.weight, x.shape[0] * x.shape[2])
        y = self._product(x) if product else self.conv(x)  # (B, C', n * stride + overlap)
        if state is not None:
            y = y + F.pad(state, (0, y.shape[2] - self.overlap))
        finished = y.shape[2] - self.overlap
        whole = y[..., :finished]
        return whole if self.bias is None else whole + self.bias, y[..., finished:].clone()

    def _product(self, x: Tensor) -> Tensor:
        """The transposed convolution without bias as one matrix product, whose results overlap."""
        weight = self.conv.weight  # (C, C', kernel)
        batch, _, steps = x.shape
        channels, kernel = weight.shape[1:]
        stride, overlaps = kernel - self.overlap, kernel // (kernel - self.overlap)
        parts = linear(x.mT, weight.flatten(1).T)  # (B, n, C' * kernel)
        parts = parts.view(batch, steps, channels, overlaps, stride).permute(3, 0, 2, 1, 4)  # (overlaps, B, C', n, stride)
        y = x.new_zeros(batch, channels, steps + overlaps - 1, stride)
        for index, part in enumerate(parts):
            y[:, :, index : index + steps] += part
        return y.flatten(2)
