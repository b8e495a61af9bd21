"""Pseudo-quadrature mirror filters: a waveform as equally wide frequency bands at a fraction of its rate, and back."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KAISER_BETA = 9.0  # 90 dB between bands that are no neighbours


class PQMF(nn.Module):
    """A cosine-modulated filter bank: analysis, then synthesis, give the waveform with an error 60 dB below it.

    Source: Nguyen, "Near-perfect-reconstruction pseudo-QMF banks", 1994; prototype: Lin and Vaidyanathan, "A Kaiser
    window approach for the design of prototype filters of cosine modulated filterbanks", 1998. Neither filter delays.

    bands  M, equally wide, lowest first; at least 2.
    taps   order of each filter, an even number; default 16 per band.
    """

    def __init__(self, bands: int, taps: int | None = None) -> None:
        super().__init__()
        taps = 16 * bands if taps is None else taps
        if bands < 2 or taps < 8 * bands or taps % 2:
            raise ValueError(
                f"a filter bank of {bands} bands and {taps} taps does not separate them; take 2 bands or more and an "
                f"even number of taps from {8 * max(2, bands)}"
            )
        self.bands, self.taps = bands, taps
        prototype = kaiser_prototype(bands, taps)
        time = torch.arange(taps + 1, dtype=torch.float64) - taps / 2
        band = torch.arange(bands, dtype=torch.float64).unsqueeze(1)
        phase = (2 * band + 1) * math.pi / (2 * bands) * time
        turn = torch.where(band % 2 == 0, math.pi / 4, -math.pi / 4)  # cancels the aliases of neighbours
        analysis, synthesis = (2 * prototype * torch.cos(phase + sign * turn) for sign in (1, -1))
        # conv1d correlates: filters are turned round. Both (M, 1, taps + 1)
        self.register_buffer("analysis_filters", analysis.flip(1).float().unsqueeze(1), persistent=False)
        self.register_buffer("synthesis_filters", synthesis.float().unsqueeze(1) * bands, persistent=False)

    def analysis(self, wav: Tensor) -> Tensor:
        """wav (B, T) -> bands (B, M, ceil(T / M)); the waveform counts as silent beyond its ends."""
        return F.conv1d(wav.unsqueeze(1), self.analysis_filters, stride=self.bands, padding=self.taps // 2)

    def synthesis(self, bands: Tensor, samples: int | None = None) -> Tensor:
        """bands (B, M, N) -> wav (B, samples), by default M * N; near the ends, where filters reach out, roughly."""
        samples = self.bands * bands.shape[-1] if samples is None else samples
        wav = F.conv_transpose1d(bands, self.synthesis_filters, stride=self.bands)[:, 0, self.taps // 2 :]
        return F.pad(wav, (0, max(0, samples - wav.shape[-1])))[:, :samples]


def kaiser_prototype(bands: int, taps: int) -> Tensor:
    """(taps + 1,) float64: the Kaiser-windowed low pass whose autocorrelation is nearest to zero at multiples of
    2 * bands, which makes the powers of all bands add up to 1. Its cutoff is searched for in ever smaller steps."""
    time = torch.arange(taps + 1, dtype=torch.float64) - taps / 2
    window = torch.kaiser_window(taps + 1, periodic=False, beta=KAISER_BETA, dtype=torch.float64)

    def low_pass(cutoff: float) -> Tensor:
        return cutoff * torch.sinc(cutoff * time) * window

    def deviation(cutoff: float) -> float:
        taps_at = low_pass(cutoff)
        power = torch.fft.rfft(taps_at, 4 * taps).abs().square()
        correlation = torch.fft.irfft(power)  # lags 0 .. 4 taps, of which those up to taps are not zero by length
        return (correlation[2 * bands : taps + 1 : 2 * bands].abs().max() / correlation[0]).item()

    cutoff, step = 1.15 / (2 * bands), 0.1 / (2 * bands)
    while step > 1e-7 / bands:
        best = min((cutoff - step, cutoff, cutoff + step), key=deviation)
        cutoff, step = (best, step) if best != cutoff else (cutoff, step / 2)
    prototype = low_pass(cutoff)
    return prototype * (2 * bands * prototype.square().sum()).rsqrt()  # gain of the whole: 1
