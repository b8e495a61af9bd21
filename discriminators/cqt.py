"""The constant-Q transform in real arithmetic: short kernels for one octave at a time, on a waveform halved in rate
between octaves (Schörkhuber and Klapuri, "Constant-Q transform toolbox for music processing", 2010)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF_BAND_TAPS = 51  # 80 dB; flat up to 0.2 and closed from 0.3 of the rate before halving


class ConstantQ(nn.Module):
    """wav (B, 1, T) -> one spectrum (B, 2, N, bins_per_octave) per octave, lowest first, in float32: real and imaginary
    parts of N = ceil(T / hop) frames centred on samples 0, hop, 2 hop, ...

    Bin k of the whole is at f_min * 2**(k / bins_per_octave) Hz. Its kernel is a Hann window of Q = 1 / (2**(1 /
    bins_per_octave) - 1) periods with unit energy: levels of noise are those of the waveform. Beyond its ends
    the waveform counts as silent; of octaves with kernels longer than the waveform it sees a part.

    Raises ValueError where the topmost bins lie above 0.8 times the sample rate or octaves cannot be halved to the hop.
    Frequencies above half the sample rate, which the topmost octave may reach, hold nothing.
    """

    def __init__(self, sample_rate: int, hop: int, octaves: int, bins_per_octave: int, f_min: float = 32.703) -> None:
        super().__init__()
        self.hop, self.octaves, self.bins_per_octave = hop, octaves, bins_per_octave
        f_max = f_min * 2**octaves
        if not 0 < f_max <= 0.8 * sample_rate:
            fit = max(0, math.floor(math.log2(0.8 * sample_rate / f_min))) if f_min > 0 else 0
            raise ValueError(
                f"a constant-Q transform of {octaves} octaves from {f_min:g} Hz passes 0.8 of {sample_rate} Hz; "
                f"take at most {fit} octaves"
            )
        # The topmost octave is seen at the lowest rate that leaves it inside the half-band filter's flat part:
        # sample_rate / 2**halvings, where -1 is twice the sample rate.
        self.halvings = -1
        while f_max <= 0.4 * sample_rate / 2 ** (self.halvings + 1):
            self.halvings += 1
        deepest = max(0, self.halvings + octaves - 1)
        if hop % 2**deepest:
            raise ValueError(
                f"a constant-Q transform of {octaves} octaves needs a hop that is a multiple of {2**deepest}, "
                f"not {hop}; take fewer octaves or a longer hop"
            )
        self.register_buffer("half_band", half_band_filter().float().view(1, 1, -1), persistent=False)
        for octave in range(octaves):  # lowest first
            kernels = octave_kernels(
                sample_rate, self.halvings + octaves - 1 - octave, f_min * 2**octave, bins_per_octave
            )
            self.register_buffer(f"kernels_{octave}", kernels.float().unsqueeze(1), persistent=False)

    def forward(self, wav: Tensor) -> list[Tensor]:
        with torch.autocast(wav.device.type, enabled=False):
            x, halved = wav.float(), 0
            spectra = []
            for octave in reversed(range(self.octaves)):
                halvings = max(0, self.halvings + self.octaves - 1 - octave)
                while halved < halvings:
                    x, halved = F.conv1d(x, self.half_band, stride=2, padding=HALF_BAND_TAPS // 2), halved + 1
                kernels = getattr(self, f"kernels_{octave}")  # (2 bins, 1, odd)
                z = F.conv1d(x, kernels, stride=self.hop >> halvings, padding=kernels.shape[-1] // 2)  # (B, 2 bins, N)
                spectra.append(z.unflatten(1, (2, -1)).mT)
            return spectra[::-1]


def half_band_filter() -> Tensor:
    """(HALF_BAND_TAPS,) float64: a low pass at a quarter of the rate by a Kaiser window, of gain 1."""
    time = torch.arange(HALF_BAND_TAPS, dtype=torch.float64) - HALF_BAND_TAPS // 2
    taps = torch.sinc(time / 2) * torch.kaiser_window(HALF_BAND_TAPS, periodic=False, beta=7.86, dtype=torch.float64)
    return taps / taps.sum()


def octave_kernels(sample_rate: int, halvings: int, f_low: float, bins: int) -> Tensor:
    """(2 * bins, odd) float64: cosines, then negative sines, for a waveform of sample_rate / 2**halvings.

    At halvings = -1 the kernels are made for twice the sample rate, low-passed and halved, which equals raising the
    waveform's rate first.
    """
    rate = sample_rate / 2**halvings
    frequencies = f_low * 2 ** (torch.arange(bins, dtype=torch.float64).unsqueeze(1) / bins)  # (bins, 1)
    quality = 1 / (2 ** (1 / bins) - 1)
    lengths = quality * rate / frequencies  # in samples
    half = math.floor(lengths.max().item() / 2)
    time = torch.arange(-half, half + 1, dtype=torch.float64)  # (2 half + 1,)
    window = torch.where(time.abs() < lengths / 2, 0.5 + 0.5 * torch.cos(2 * math.pi * time / lengths), 0.0)
    energy = quality * sample_rate / frequencies / 1.5  # 1 / sum w**2 of a Hann window of sum 1, at the sample rate
    window = window / window.sum(1, keepdim=True) * energy.sqrt()
    phase = 2 * math.pi * frequencies / rate * time
    kernels = torch.cat([window * phase.cos(), -window * phase.sin()])
    if halvings >= 0:
        return kernels
    taps = 2 * half_band_filter()  # the gain of 2 makes up for the zeros between the samples
    spread = F.conv1d(kernels.unsqueeze(1), taps.view(1, 1, -1), padding=HALF_BAND_TAPS - 1).squeeze(1)
    centre = spread.shape[1] // 2
    return spread[:, centre % 2 :: 2]
