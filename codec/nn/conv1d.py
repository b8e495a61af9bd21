"""Convolutions on (B, C, T), which on a CPU without gradients keep the channels of a moment side by side in memory, (B, T, C).

That is how oneDNN's kernels want them: a third faster than (B, C, T), and convolutions of width 1 are matrix products as they
are. A chain of such layers with elementwise ones between them rearranges nothing. Weights lie in memory as the products take
them, so that nothing is rearranged for a short signal either. With gradients and on other devices all is as in torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.products import linear, usable

UNFOLDED = 4_000_000  # numbers
MANY_WEIGHTS = 2000  # for each output: with more of them a matrix product is faster than a convolution


def rows(x: Tensor) -> Tensor:
    """(B, C, T) as contiguous (B, T, C): no copy of what the layers here make."""
    return x.mT.contiguous()


def _few(weight: Tensor, outputs: int) -> bool:
    """Whether the outputs are so few for the weights that rearranging these, as convolutions do at every call, costs more than
    unfolding the inputs for a matrix product."""
    return weight.numel() > MANY_WEIGHTS * outputs


class Conv1d(nn.Conv1d):
    """`torch.nn.Conv1d` with zeros around the signal."""

    def reset_parameters(self) -> None:
        """Of torch, whose constructor ends with it. Nothing is copied: the weights may be many."""
        outputs, inputs, kernel = self.weight.shape
        self.weight = nn.Parameter(self.weight.new_empty(outputs, kernel, inputs).mT)  # (C', kernel, C) in memory
        super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if not usable(x, self.weight):
            return super().forward(x)
        (kernel,), (stride,), (padding,), (dilation,) = self.kernel_size, self.stride, self.padding, self.dilation
        if kernel == stride == self.groups == 1 and padding == 0:
            return linear(rows(x), self.weight[..., 0], self.bias).mT
        steps = (x.shape[2] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        if steps < 1:
            return super().forward(x)  # says what is wrong
        if self.groups == 1:
            if self.out_channels == stride == 1:
                return self._to_one(x, steps)
            if self.in_channels == 1 or _few(self.weight, x.shape[0] * steps):
                return self._product(x, steps)
        elif self.groups == x.shape[1] == self.out_channels and stride == 1 and dilation > 1:
            return self._shifted(x, steps)
        x = rows(x).mT[:, :, None]  # (B, C, 1, T), channels last
        y = F.conv2d(x, self.weight[:, :, None], self.bias, (1, stride), (0, padding), (1, dilation), self.groups)
        return y[:, :, 0]

    def _padded(self, x: Tensor) -> Tensor:
        """(B, C, T) to (B, T + 2 * padding, C)."""
        return F.pad(x.mT, (0, 0, self.padding[0], self.padding[0])).contiguous()

    def _product(self, x: Tensor, steps: int) -> Tensor:
        """Matrix products of the inputs, unfolded: so many at a time that they take little memory."""
        (kernel,), (stride,), (dilation,) = self.kernel_size, self.stride, self.dilation
        x = self._padded(x)
        batch, length, channels = x.shape
        x = x.as_strided((batch, steps, kernel, channels), (length * channels, stride * channels, dilation * channels, 1))
        weight, most = self.weight.mT.flatten(1), max(1, UNFOLDED // (batch * kernel * channels))
        parts = [linear(part.flatten(2), weight, self.bias) for part in x.split(most, 1)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).mT

    def _to_one(self, x: Tensor, steps: int) -> Tensor:
        """To one channel: the product of every input with every tap, then sums along the signal."""
        taps = linear(self._padded(x), self.weight[0].T.contiguous())  # (B, T + 2 * padding, kernel)
        total = taps[:, :steps, 0] if self.bias is None else taps[:, :steps, 0] + self.bias
        for tap in range(1, self.kernel_size[0]):
            start = tap * self.dilation[0]
            total = total + taps[:, start : start + steps, tap]
        return total[:, None]

    def _shifted(self, x: Tensor, steps: int) -> Tensor:
        """Every channel by itself: a sum of the shifted signal. torch's kernels are slow with a dilation."""
        x, taps = self._padded(x), self.weight[:, 0].T.contiguous()  # (kernel, C)
        y = x[:, :steps] * taps[0] if self.bias is None else torch.addcmul(self.bias, x[:, :steps], taps[0])
        for tap in range(1, self.kernel_size[0]):
            start = tap * self.dilation[0]
            y.addcmul_(x[:, start : start + steps], taps[tap])
        return y.mT


class ConvTranspose1d(nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d`."""

    def reset_parameters(self) -> None:
        """As `Conv1d.reset_parameters`."""
        inputs, outputs, kernel = self.weight.shape
        self.weight = nn.Parameter(self.weight.new_empty(kernel, outputs, inputs).permute(2, 1, 0))  # (kernel, C', C)
        super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if not usable(x, self.weight) or self.dilation != (1,):
            return super().forward(x)
        (kernel,), (stride,), (padding,), (more,) = self.kernel_size, self.stride, self.padding, self.output_padding
        batch, _, steps = x.shape
        length = (steps - 1) * stride - 2 * padding + kernel + more
        if self.groups == 1 and kernel % stride == 0 and length > 0 and _few(self.weight, batch * steps):
            return self._product(x)[:, padding : padding + length].mT
        x = rows(x).mT[:, :, None]  # (B, C, 1, T), channels last
        y = F.conv_transpose2d(
            x, self.weight[:, :, None], self.bias, (1, stride), (0, padding), (0, more), self.groups
        )
        return y[:, :, 0]

    def _product(self, x: Tensor) -> Tensor:
        """One matrix product, whose results overlap: (B, T', C') with nothing cut off, and `stride` zeros more."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        batch, _, steps = x.shape
        overlaps, width = kernel // stride, stride * self.out_channels
        parts = linear(rows(x), self.weight.permute(2, 1, 0).flatten(0, 1)).view(batch, steps, overlaps, width)
        y = x.new_zeros(batch, steps + overlaps, width)
        for index in range(overlaps):
            y[:, index : index + steps] += parts[:, :, index]
        y = y.view(batch, -1, self.out_channels)
        return y if self.bias is None else y.add_(self.bias)
