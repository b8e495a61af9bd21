"""Causal depthwise convolution of frames, as shifted products."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _ShiftedProducts(torch.autograd.Function):
    """y[t] = bias + sum over k of weight[k] * x[t + k], on x (B, K - 1 + T, C) to y (B, T, C).

    Written out because autograd's own backward of seven slices fills and copies the whole input seven times.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        frames = x.shape[1] - weight.shape[0] + 1
        y = torch.addcmul(bias, x[:, :frames], weight[0])
        for tap in range(1, weight.shape[0]):
            y.addcmul_(x[:, tap : tap + frames], weight[tap])
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        frames = grad.shape[1]
        grad_x, grad_weight = torch.zeros_like(x), torch.empty_like(weight)
        for tap in range(weight.shape[0]):
            grad_x[:, tap : tap + frames].addcmul_(grad, weight[tap])
            grad_weight[tap] = (grad * x[:, tap : tap + frames]).sum((0, 1))
        return grad_x, grad_weight, grad.sum((0, 1))


class CausalDepthwiseConv(nn.Module):
    """Depthwise convolution over time on (B, T, C) that looks `kernel_size - 1` frames back and none ahead.

    It is a sum of shifted products in a fixed order: the same bits for every chunking, and on a CPU faster than a
    grouped convolution with its two transpositions. State: what the frames so far have added to the sums of the next
    `kernel_size - 1`, so that a single frame takes one operation. Sums start at zero, and the bias comes last.
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.history = kernel_size - 1
        self.weight = nn.Parameter(torch.empty(kernel_size, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.weight, std=kernel_size**-0.5)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, frames = x.float(), x.shape[1]
        if state is None and torch.is_grad_enabled():
            with torch.no_grad():
                state = self.forward(x[:, -self.history :])[1]
            return _ShiftedProducts.apply(F.pad(x, (0, 0, self.history, 0)), self.weight, self.bias), state
        state = x.new_zeros(x.shape[0], self.history, x.shape[2]) if state is None else state
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            sums = self._added(F.pad(state, (0, 0, 0, frames)), x)
        else:
            sums = added(x, state, self.weight, self.weight.flip(0))
        return sums[:, :frames] + self.bias, sums[:, frames:]

    def _added(self, sums: Tensor, x: Tensor) -> Tensor:
        """What x (B, T, C) adds to sums (B, history + T, C), for gradients and graphs, which nothing is changed in place for."""
        if x.shape[1] == 1:
            return torch.addcmul(sums, x, self.weight.flip(0))
        for tap in range(self.history + 1):
            sums = sums + F.pad(x * self.weight[tap], (0, 0, self.history - tap, tap))
        return sums


def added(x: Tensor, state: Tensor, weight: Tensor, flipped: Tensor) -> Tensor:
    """What frames x (B, T, C) add to their sums and to those of the K - 1 frames that follow: (B, K - 1 + T, C). State
    (B, K - 1, C) is what the frames before have added; weight (K, C), and flipped with its last tap first.

    Every sum takes its frames in order, whether all of one tap are added at once or all of one frame, as suits few."""
    frames, taps = x.shape[1], weight.shape[0]
    sums = F.pad(state, (0, 0, 0, frames))
    if frames == 1:
        return sums.addcmul_(x, flipped)
    few = frames < taps
    parts, length = (frames, taps) if few else (taps, frames)
    shifted = sums.as_strided((parts, x.shape[0], length, x.shape[2]), (sums.stride(1), *sums.stride())).unbind()
    if few:
        for part, frame in zip(shifted, x.unsqueeze(2).unbind(1)):
            part.addcmul_(frame, flipped)
    else:
        for part, tap in zip(reversed(shifted), weight.unbind()):
            part.addcmul_(x, tap)
    return sums
