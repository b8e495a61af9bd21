"""Inverse STFT of whole signals, in real arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.nn.products import linear
from codec.nn.stft import hann, inverse_dft_basis

LOUDEST = 100.0  # magnitude of a bin


def from_polar(y: Tensor) -> Tensor:
    """Log magnitudes and phases (B, n, 2 * bins) to real and imaginary parts (B, n, 2 * bins), as the heads of Vocos
    (Siuzdak 2023, https://arxiv.org/abs/2306.00814) make them."""
    log_magnitude, phase = y.chunk(2, dim=-1)
    magnitude = torch.exp(log_magnitude).clamp(max=LOUDEST)
    return torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], dim=-1)


class CentredSynthesis(nn.Module):
    """Inverse STFT with a Hann window: (B, n, 2 * bins), real parts then imaginary parts, to (B, n * hop) samples.

    Frame t is centred at the samples from t * hop to (t + 1) * hop, and what reaches out of the signal is cut off: the "same"
    padding of Vocos (Siuzdak 2023, https://arxiv.org/abs/2306.00814). The sum of the squared windows is divided by, also where
    fewer of them overlap, at both ends.

    Args:
        window: a multiple of hop, by an even number of samples longer.
    """

    def __init__(self, window: int, hop: int):
        super().__init__()
        if window % hop or (window - hop) % 2 or window == hop:
            raise ValueError(f"a synthesis window of {window} samples does not fit a hop of {hop}: take 4 times the hop")
        self.window, self.hop = window, hop
        basis = (inverse_dft_basis(window) * hann(window)).T.contiguous()  # (window, 2 * bins)
        self.register_buffer("basis", basis.to(torch.get_default_device(), torch.float32), persistent=False)
        squared = hann(window).square().to(torch.get_default_device(), torch.float32)
        self.register_buffer("squared", squared, persistent=False)

    def forward(self, spectrum: Tensor) -> Tensor:
        count, start = spectrum.shape[1], (self.window - self.hop) // 2
        y = self._sum(linear(spectrum, self.basis))
        envelope = self._sum(self.squared.expand(1, count, self.window))
        inside = slice(start, start + count * self.hop)
        return y[:, inside] / envelope[:, inside]

    def _sum(self, frames: Tensor) -> Tensor:
        """Frames (B, n, window) overlapped and added: (B, (n - 1) * hop + window)."""
        batch, count, _ = frames.shape
        overlap = self.window // self.hop
        parts = frames.reshape(batch, count, overlap, self.hop)
        out = frames.new_zeros(batch, count + overlap - 1, self.hop)
        for part in range(overlap):
            out[:, part : part + count] += parts[:, :, part]
        return out.flatten(1)
