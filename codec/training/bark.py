"""Loudness in 49 bands of the Bark scale, as PESQ computes it from power spectra.

Source of tables and constants: ITU-T P.862 (2001) for signals at 16 kHz, with the wide-band input filter of P.862.2 (2007).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = (  # of a 512-point transform at 16 kHz, in each band
    1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 3, 4, 5, 4, 5, 6, 6, 7, 8, 9, 9, 12, 12,
    15, 16, 18, 21, 25, 20,
)
CENTRES = (  # Bark
    0.078672, 0.316341, 0.636559, 0.961246, 1.290450, 1.624217, 1.962597, 2.305636, 2.653383, 3.005889, 3.363201, 3.725371, 4.092449,
    4.464486, 4.841533, 5.223642, 5.610866, 6.003256, 6.400869, 6.803755, 7.211971, 7.625571, 8.044611, 8.469146, 8.899232, 9.334927,
    9.776288, 10.223374, 10.676242, 11.134952, 11.599563, 12.070135, 12.546731, 13.029408, 13.518232, 14.013264, 14.514566, 15.022202,
    15.536238, 16.056736, 16.583761, 17.117382, 17.657663, 18.204674, 18.758478, 19.319147, 19.886751, 20.461355, 21.043034,
)
WIDTHS = (  # Bark
    0.157344, 0.317994, 0.322441, 0.326934, 0.331474, 0.336061, 0.340697, 0.345381, 0.350114, 0.354897, 0.359729, 0.364611, 0.369544,
    0.374529, 0.379565, 0.384653, 0.389794, 0.394989, 0.400236, 0.405538, 0.410894, 0.416306, 0.421773, 0.427297, 0.432877, 0.438514,
    0.444209, 0.449962, 0.455774, 0.461645, 0.467577, 0.473569, 0.479621, 0.485736, 0.491912, 0.498151, 0.504454, 0.510819, 0.517250,
    0.523745, 0.530308, 0.536934, 0.543629, 0.550390, 0.557220, 0.564119, 0.571085, 0.578125, 0.585232,
)
CORRECTIONS = (  # factors of the sums over bins
    100.0, 99.999992, 100.0, 100.000008, 100.000008, 100.000015, 99.999992, 99.999969, 50.000027, 100.0, 99.999969, 100.000015,
    99.999947, 100.000061, 53.047077, 110.000046, 117.991989, 65.0, 68.760147, 69.999931, 71.428818, 75.000038, 76.843384, 80.968781,
    88.646126, 63.864388, 68.155350, 72.547775, 75.584831, 58.379192, 80.950836, 64.135651, 54.384785, 73.821884, 64.437073, 59.176456,
    65.521278, 61.399822, 58.144047, 57.004543, 64.126297, 54.311001, 61.114979, 55.077751, 56.849335, 55.628868, 53.137054, 54.985844,
    79.546974,
)
THRESHOLDS = (  # powers at the threshold of hearing
    51286152.0, 2454709.5, 70794.59375, 4897.788574, 1174.897705, 389.045166, 104.71286, 45.70882, 17.782795, 9.772372, 4.897789,
    3.090296, 1.905461, 1.258925, 0.977237, 0.724436, 0.562341, 0.457088, 0.389045, 0.331131, 0.295121, 0.269153, 0.25704, 0.251189,
    0.251189, 0.251189, 0.251189, 0.263027, 0.288403, 0.30903, 0.338844, 0.371535, 0.398107, 0.436516, 0.467735, 0.489779, 0.501187,
    0.501187, 0.512861, 0.524807, 0.524807, 0.524807, 0.512861, 0.47863, 0.42658, 0.371535, 0.363078, 0.416869, 0.537032,
)
REFERENCE_RATE, REFERENCE_FFT = 16_000, 512  # of the tables: bins of 31.25 Hz
POWER_SCALE, LOUDNESS_SCALE, ZWICKER = 6.910853e-6, 1.866055e-1, 0.23
HIGH_PASS = ((2.740826, -5.4816519, 2.740826), (1.0, -1.9444777, 0.94597794))  # b and a of the input filter at 16 kHz
LISTENING_BAND, LISTENING_POWER = (325, 3250), 1e7  # Hz, and the mean square there that signals are brought to
QUIETEST = 1e-9  # mean square below which nothing is amplified any further


def smooth_root(squares: Tensor, floor: float = 1e-4) -> Tensor:
    """The square root less what keeps its gradient finite at 0, where it is 0."""
    return (squares + floor**2).sqrt() - floor


class Bark(nn.Module):
    """Powers and loudness of Bark bands. ``n_fft``: transforms of it have bins as wide as the tables' (within 0.3 %).

    Bins above 8 kHz are not heard. Raises ValueError for rates below 16 kHz, where bands would be missing.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        if sample_rate < REFERENCE_RATE:
            raise ValueError(f"PESQ's wide-band loudness needs {REFERENCE_RATE} Hz or more, not {sample_rate}")
        self.n_fft = 4 * round(sample_rate * REFERENCE_FFT / REFERENCE_RATE / 4)
        bins = self.n_fft // 2 + 1
        bank, start = torch.zeros(bins, len(BINS)), 0
        for band, (count, correction) in enumerate(zip(BINS, CORRECTIONS)):
            bank[start : start + count, band] = correction * POWER_SCALE * (REFERENCE_FFT / self.n_fft) ** 2
            start += count
        bank[0] = 0  # the constant is not heard
        frequencies = torch.arange(bins) * (sample_rate / self.n_fft)  # Hz
        z = torch.exp(-2j * torch.pi * frequencies / REFERENCE_RATE)
        above, below = (sum(factor * z**power for power, factor in enumerate(side)) for side in HIGH_PASS)
        low, high = LISTENING_BAND
        thresholds = torch.tensor(THRESHOLDS)
        exponents = (6 / (torch.tensor(CENTRES) + 2)).clamp(1, 2) ** 0.15 * ZWICKER
        for name, values in {
            "bank": bank * (above / below).abs().square().unsqueeze(1),  # (bins, 49)
            "listening": ((frequencies >= low) & (frequencies <= high)).float(),  # (bins,)
            "thresholds": thresholds,
            "exponents": exponents,
            "scales": LOUDNESS_SCALE * (2 * thresholds) ** exponents,
            "widths": torch.tensor(WIDTHS),
        }.items():
            self.register_buffer(name, values, persistent=False)

    def powers(self, power: Tensor, window_energy: Tensor) -> Tensor:
        """Power spectra (B, frames, bins) -> (B, frames, 49), of signals brought to PESQ's listening level.

        window_energy: the sum of the window's squares.
        """
        mean_square = (power @ self.listening).mean(-1) * 2 / (self.n_fft * window_energy)  # (B,)
        gain = LISTENING_POWER / mean_square.clamp_min(QUIETEST)
        return power @ self.bank * gain[:, None, None]

    def audible(self, powers: Tensor) -> Tensor:
        """(B, frames, 49) -> (B, frames): the sum of what is above the threshold of hearing."""
        return (powers * (powers > self.thresholds)).sum(-1)

    def loudness(self, powers: Tensor) -> Tensor:
        """(B, frames, 49) -> the same shape, in sone: Zwicker's law, 0 below the threshold of hearing."""
        ratio = powers.clamp_min(self.thresholds) / self.thresholds
        return self.scales * ((0.5 + 0.5 * ratio) ** self.exponents - 1)

    def norm(self, disturbance: Tensor, p: int) -> Tensor:
        """(B, frames, 49) -> (B, frames): p-norm over all bands but the lowest, by their widths. p: 1 or 2."""
        weighted = (disturbance * self.widths)[..., 1:]
        if p == 1:
            return weighted.abs().sum(-1)
        total = self.widths[1:].sum()
        return smooth_root(weighted.square().sum(-1) * total)
