"""Short-time transforms: framing, Fourier transform, overlap-add with state.

Complex operators export to ONNX wrongly or not at all, so on the way into a graph the transform is a product with a matrix.
Frames are causal: frame t of the analysis ends with sample (t + 1) * hop - 1, and the synthesis emits the samples that no
later frame can change.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def dft_basis(size: int) -> Tensor:
    """Real DFT as a matrix (2 * bins, size): cosines, then negative sines; bins = size // 2 + 1. As `torch.fft.rfft`."""
    steps = torch.arange(size, dtype=torch.float64, device="cpu")  # made there whatever the default device is
    angle = 2 * math.pi * steps[: size // 2 + 1, None] * steps / size
    return torch.cat([torch.cos(angle), -torch.sin(angle)])


def inverse_dft_basis(size: int) -> Tensor:
    """Inverse of `dft_basis` (2 * bins, size): frames = spectrum @ basis. As `torch.fft.irfft`."""
    weights = torch.full((size // 2 + 1, 1), 2.0, dtype=torch.float64, device="cpu")
    weights[0] = weights[-1] = 1.0
    return dft_basis(size) * torch.cat([weights, weights]) / size


def real_dft(frames: Tensor) -> Tensor:
    """`torch.fft.rfft` of frames (..., window) as (..., 2 * bins), real parts then imaginary parts."""
    if torch.compiler.is_exporting():
        return frames @ dft_basis(frames.shape[-1]).to(frames).T
    spectrum = torch.fft.rfft(frames)
    return torch.cat([spectrum.real, spectrum.imag], -1)


def inverse_real_dft(spectrum: Tensor) -> Tensor:
    """The way back: spectra (..., 2 * bins) to frames (..., window)."""
    bins = spectrum.shape[-1] // 2
    if torch.compiler.is_exporting():
        return spectrum @ inverse_dft_basis(2 * bins - 2).to(spectrum)
    return torch.fft.irfft(torch.complex(spectrum[..., :bins], spectrum[..., bins:]))


def hann(size: int) -> Tensor:
    """Periodic Hann window (size,)."""
    return torch.hann_window(size, dtype=torch.float64, device="cpu")


class Analysis(nn.Module):
    """Causal STFT: (B, n * hop) samples to (B, n, 2 * bins), real parts then imaginary parts.

    With `center=False` framing on a signal preceded by `window - hop` zeros it equals `torch.stft` with a Hann window.
    State: the last `window - hop` samples.
    """

    def __init__(self, window: int, hop: int):
        super().__init__()
        if window < hop or window % 2:
            raise ValueError(f"an analysis window of {window} samples does not fit a hop of {hop}: take an even one >= hop")
        self.window, self.hop = window, hop
        self.register_buffer("taper", hann(window).to(torch.get_default_device(), torch.float32), persistent=False)

    @property
    def bins(self) -> int:
        return self.window // 2 + 1

    def forward(self, wav: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        history = self.window - self.hop
        past = wav.new_zeros(wav.shape[0], history) if state is None else state
        wav = torch.cat([past, wav], dim=1)
        frames = wav.unfold(1, self.window, self.hop) * self.taper  # (B, n, window)
        return real_dft(frames), wav[:, wav.shape[1] - history :]


class OverlapAdd(nn.Module):
    """Frames (B, n, window) to samples (B, n * hop): the sum of windows of which each starts `hop` after the last.

    `window` is a multiple of `hop`. The output lags the frames by nothing: frame t finishes the samples
    [t * hop, (t + 1) * hop) counted from the start of the first frame. State: the unfinished tail.
    """

    def __init__(self, window: int, hop: int):
        super().__init__()
        if window % hop:
            raise ValueError(f"a synthesis window of {window} samples is not a multiple of its hop of {hop}")
        self.window, self.hop = window, hop

    def forward(self, frames: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, count, _ = frames.shape
        overlap = self.window // self.hop
        parts = frames.reshape(batch, count, overlap, self.hop)
        tail = frames.new_zeros(batch, overlap - 1, self.hop) if state is None else state
        # Oldest frame first: the order of a stream, so that the sum rounds alike for every chunking.
        out = frames.new_zeros(batch, count + overlap - 1, self.hop)
        out[:, : overlap - 1] = tail
        for part in range(overlap - 1, -1, -1):
            out.narrow(1, part, count).add_(parts.select(2, part))
        return out[:, :count].reshape(batch, count * self.hop), out[:, count:]


def synthesis_window(window: int, hop: int) -> Tensor:
    """Hann synthesis window (window,) scaled so that analysis by a Hann window and overlap-add give the signal back."""
    squared = hann(window) ** 2
    return hann(window) / squared.reshape(window // hop, hop).sum(0).repeat(window // hop)


class Synthesis(nn.Module):
    """Inverse STFT: (B, n, 2 * bins) to (B, n * hop) samples, streaming. State: the unfinished samples."""

    def __init__(self, window: int, hop: int):
        super().__init__()
        self.overlap_add = OverlapAdd(window, hop)
        taper = synthesis_window(window, hop).to(torch.get_default_device(), torch.float32)
        self.register_buffer("taper", taper, persistent=False)

    def forward(self, spectrum: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.overlap_add(inverse_real_dft(spectrum) * self.taper, state)
