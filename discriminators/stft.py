"""The complex spectrum that the STFT discriminators look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ComplexSTFT(nn.Module):
    """wav (B, 1, T), T >= n_fft -> real and imaginary parts (B, 2, N, bins) in float32, channels-last in memory.

    N = (T - n_fft) // hop + 1 frames at a hop of a quarter window, without padding; bins = n_fft // 2 + 1. The Hann
    window has unit energy, so that levels are those of the waveform.

    compression  magnitudes are raised to this power, phases kept; 1.0 leaves them.
    """

    def __init__(self, n_fft: int, compression: float = 1.0) -> None:
        super().__init__()
        check_compression(compression)
        self.n_fft, self.compression = n_fft, compression
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        with torch.autocast(wav.device.type, enabled=False):
            z = torch.stft(
                wav.squeeze(1).float(),
                self.n_fft,
                self.n_fft // 4,
                window=self.window,
                center=False,
                return_complex=True,
            )
            parts = torch.view_as_real(z.transpose(1, 2))  # (B, N, bins, 2)
            return compress(parts, self.compression).permute(0, 3, 1, 2)


def check_compression(exponent: float) -> None:
    """Raise ValueError unless magnitudes can be raised to it."""
    if not 0 < exponent <= 1:
        raise ValueError(f"compression is {exponent!r}; give a number above 0, up to 1 for none")


def compress(parts: Tensor, exponent: float) -> Tensor:
    """Complex numbers (..., 2) with magnitudes raised to `exponent`; a floor of -50 dB bounds gradients at silence."""
    if exponent == 1.0:
        return parts
    power = parts.square().sum(-1, keepdim=True)
    return parts * (power + 1e-5).pow((exponent - 1) / 2)


def check_windows(family: str, n_ffts: tuple[int, ...] | list[int]) -> None:
    """Raise ValueError for a window whose quarter is no whole hop."""
    if any(n_fft % 4 for n_fft in n_ffts):
        raise ValueError(f"discriminator {family!r}: n_ffts are {list(n_ffts)}; give multiples of 4")
