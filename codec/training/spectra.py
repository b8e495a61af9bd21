"""Spectra of decoded and target audio, each computed once and shared between the losses that look at it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEVEL = 10 ** (-26 / 20)  # RMS that every target is brought to
FLOOR = 10 ** (-50 / 20)  # RMS below which a target counts as silence


def level_gain(target: Tensor) -> tuple[Tensor, Tensor]:
    """(..., T) -> the gain (..., 1) that brings it to ``LEVEL``, or silence as far as ``FLOOR`` would come, and where it is none."""
    rms = target.square().mean(-1, keepdim=True).sqrt()
    return LEVEL / rms.clamp_min(FLOOR), rms >= FLOOR


class OneSidedDFT(torch.autograd.Function):
    """frames (..., n) -> real and imaginary parts (..., n // 2 + 1), each contiguous.

    The values are those of ``torch.fft.rfft``, but the gradient is one real inverse transform, where torch transforms
    all n complex bins, and no strided view of a complex tensor slows down what follows: half the time of a loss on a
    CPU. n must be even.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.fft.rfft(frames)
        return z.real.contiguous(), z.imag.contiguous()

    @staticmethod
    def backward(ctx: Any, real: Tensor, imag: Tensor) -> Tensor:
        z = torch.complex(real, imag)
        z[..., 1:-1] *= 0.5  # the inverse counts every bin twice but the first and the last
        return torch.fft.irfft(z, norm="forward")


class Resolution(NamedTuple):
    """Of an STFT, in samples: transform, hop, and Hann window, which is centred in the transform."""

    n_fft: int
    hop: int
    window: int


class Spectrum:
    """A centred STFT, as ``torch.stft`` computes it; window (n_fft,).

    real, imag and power are (B, frames, bins).
    """

    def __init__(self, wav: Tensor, n_fft: int, window: Tensor, hop: int | None = None) -> None:
        hop = n_fft // 4 if hop is None else hop
        wav = F.pad(wav.unsqueeze(1), (n_fft // 2, n_fft // 2), mode="reflect").squeeze(1)
        frames = wav.unfold(-1, n_fft, hop) if 4 * hop != n_fft else _quarter_frames(wav, hop)  # (B, frames, n_fft)
        self.real, self.imag = OneSidedDFT.apply(frames * window)
        self.power = self.real.square() + self.imag.square()
        self._magnitude: dict[float, Tensor] = {}

    def magnitude(self, eps: float) -> Tensor:
        """The magnitude as ``auraloss`` floors it, (B, frames, bins)."""
        if eps not in self._magnitude:
            self._magnitude[eps] = self.power.clamp_min(eps).sqrt()
        return self._magnitude[eps]


def _quarter_frames(wav: Tensor, hop: int) -> Tensor:
    """``wav.unfold(-1, 4 * hop, hop)`` whose gradient is faster."""
    frames = 1 + (wav.shape[-1] - 4 * hop) // hop
    quarters = wav[:, : (frames + 3) * hop].unflatten(-1, (-1, hop))  # (B, frames + 3, hop)
    return torch.cat([quarters[:, i : frames + i] for i in range(4)], dim=-1)


class Pair:
    """Decoded and target waveforms (B, T) and their spectra, each computed once.

    audible    the items whose target is no silence, as indices.
    decimated  how many samples of a crop each sample here stands for.
    """

    def __init__(self, decoded: Tensor, target: Tensor, audible: Tensor, decimated: int = 1) -> None:
        self.decoded, self.target, self.audible, self.decimated = decoded, target, audible, decimated
        self._spectra: dict[Resolution, tuple[Spectrum, Spectrum]] = {}

    @classmethod
    def at_level(cls, decoded: Tensor, target: Tensor) -> Pair:
        """Both multiplied by the gain that brings the target to ``LEVEL``."""
        gain, heard = level_gain(target)
        return cls(decoded * gain, target * gain, heard.squeeze(-1).nonzero().flatten())

    def spectra(self, resolution: Resolution, window: Tensor) -> tuple[Spectrum, Spectrum]:
        """Spectra of decoded and target; window (n_fft,) is that of `resolution`."""
        n_fft, samples = resolution.n_fft, self.target.shape[-1]
        if resolution not in self._spectra:
            if samples <= n_fft // 2:
                raise ValueError(
                    f"{samples * self.decimated} samples are too few for a spectrum of {n_fft * self.decimated}; "
                    "train on longer crops"
                )
            decoded, target = (Spectrum(wav, n_fft, window, resolution.hop) for wav in (self.decoded, self.target))
            self._spectra[resolution] = (decoded, target)
        return self._spectra[resolution]
