"""Log mel filterbanks as Kaldi computes them (https://kaldi-asr.org), which many speech models hear through."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codec.nn.stft import dft_basis

FLOOR = torch.finfo(torch.float32).eps
PREEMPHASIS = 0.97
FULL_SCALE = 2.0**15  # samples of 16 bits


class Filterbank(nn.Module):
    """Samples (B, T), full scale at 1, to log energies (B, n, bands) of frames that lie inside of the signal.

    Each frame of `window` samples loses its mean, is pre-emphasised by 0.97 (its first sample by itself), shaped by Povey's
    window (a Hann window to the power of 0.85) and filled up to a power of two. Bands are triangles on the mel scale over
    power spectra, from 20 Hz to half the rate. All up to the spectrum is linear: one matrix.
    """

    def __init__(self, sample_rate: int, window: int, hop: int, bands: int):
        super().__init__()
        self.window, self.hop = window, hop
        size = 2 ** math.ceil(math.log2(window))
        steps = torch.eye(window, dtype=torch.float64, device="cpu")
        steps = steps - 1 / window  # columns: what is done to a unit impulse at each sample
        steps = steps - PREEMPHASIS * torch.cat([steps[:1], steps[:-1]])
        shape = torch.hann_window(window, periodic=False, dtype=torch.float64, device="cpu") ** 0.85
        basis = dft_basis(size)[:, :window] @ (FULL_SCALE * shape[:, None] * steps)  # (2 * bins, window)
        keep = torch.arange(size // 2, device="cpu")  # not the highest bin
        basis = basis[torch.cat([keep, keep + size // 2 + 1])]
        device = torch.get_default_device()
        self.register_buffer("basis", basis.float().to(device), persistent=False)
        self.register_buffer("bands", _triangles(sample_rate, size, bands).float().to(device), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        frames = wav.unfold(1, self.window, self.hop) @ self.basis.T  # (B, n, 2 * bins)
        real, imaginary = frames.chunk(2, dim=2)
        return (torch.addcmul(real * real, imaginary, imaginary) @ self.bands.T).clamp_min(FLOOR).log()


def _triangles(sample_rate: int, size: int, bands: int) -> Tensor:
    """(bands, size / 2) weights of the bins."""
    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    ends = mel(torch.tensor([20.0, sample_rate / 2], dtype=torch.float64, device="cpu"))
    step = (ends[1] - ends[0]) / (bands + 1)
    left = ends[0] + step * torch.arange(bands, dtype=torch.float64, device="cpu")[:, None]
    bins = mel(torch.arange(size // 2, dtype=torch.float64, device="cpu") * sample_rate / size)
    return torch.minimum((bins - left) / step, (left + 2 * step - bins) / step).clamp_min(0)
