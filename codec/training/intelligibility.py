"""STOI, the short-time objective intelligibility, as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from codec.training.loss_term import Term
from codec.training.spectra import Pair

WINDOW, HOP = 0.0256, 0.0128  # seconds
LOWEST, BANDS = 150.0, 15  # centre of the lowest third of an octave, Hz, and their number
SEGMENT = 30  # frames that are correlated: 384 ms
QUIETEST = 1e-4  # of the loudest frame's power: what lies below is silence and not judged
LARGEST = 1 + 10 ** (15 / 20)  # of the target's magnitude: a signal to distortion ratio of -15 dB
EPS = 1e-5  # of a magnitude at the common level


class STOI(Term):
    """1 - STOI, or 1 - ESTOI: how little the envelopes of decoded and target speech follow one another.

    Source: Taal et al., "An algorithm for intelligibility prediction of time-frequency weighted noisy speech", 2011; Jensen and
    Taal, "An algorithm for predicting the intelligibility of speech masked by modulated noise maskers" (ESTOI), 2016. Magnitudes
    in 15 thirds of an octave from 150 Hz to 4.3 kHz, correlated over 384 ms; frames 40 dB below the loudest of the target are
    left out. Unlike there, nothing is resampled to 10 kHz and the silent frames are left out of the spectra instead of the
    waveforms: over whole recordings it comes within about 0.01. An item with less than 384 ms of speech is not judged.

    A model trained with it has a better STOI than its other figures say: judge it by those too.

    extended  ESTOI: the spectra of the segments are normalized too, so that a smeared modulation counts as well.
    """

    def __init__(self, sample_rate: int, extended: bool = False) -> None:
        window, n_fft = 4 * round(WINDOW * sample_rate / 4), 4 * round(2 * WINDOW * sample_rate / 4)
        super().__init__([n_fft], [round(HOP * sample_rate)], [window])
        if sample_rate / 2 < LOWEST * 2 ** ((2 * BANDS - 1) / 6):
            raise ValueError(f"the stoi loss judges speech up to 4.3 kHz and needs 10000 Hz or more, not {sample_rate}")
        self.extended = extended
        edges = LOWEST * 2 ** ((2 * torch.arange(BANDS + 1) - 1) / 6)
        bins = (edges * n_fft / sample_rate).round().long()
        bank = torch.zeros(n_fft // 2 + 1, BANDS)
        for band in range(BANDS):
            bank[bins[band] : bins[band + 1], band] = 1.0
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, pair: Pair) -> Tensor:
        (resolution,) = self.resolutions
        decoded, target = self.spectra(pair, resolution)
        speech = target.power.sum(-1)  # (B, frames)
        speech = speech > QUIETEST * speech.amax(-1, keepdim=True)
        speech &= torch.zeros_like(speech).index_fill(0, pair.audible, True)
        length = speech.sum(-1)  # (B,)
        if length.max() < SEGMENT:
            return pair.decoded.sum() * 0.0
        order = speech.long().argsort(dim=-1, descending=True, stable=True)  # frames of speech first, in their order
        x, y = (self._segments(each.power, order) for each in (target, decoded))  # (B, segments, 15, 30)
        judged = torch.arange(x.shape[1], device=x.device) <= (length - SEGMENT).unsqueeze(-1)  # (B, segments)
        x, y = x[judged], y[judged]  # (N, 15, 30)
        if self.extended:
            x, y = (_normalized(_normalized(each, -1), -2) for each in (x, y))
            return 1 - (x * y).sum((-2, -1)).mean() / SEGMENT
        y = torch.minimum(y * (x.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True).clamp_min(EPS)), x * LARGEST)
        return 1 - (_normalized(x, -1) * _normalized(y, -1)).sum(-1).mean()

    def _segments(self, power: Tensor, order: Tensor) -> Tensor:
        """Powers (B, frames, bins) -> magnitudes of bands (B, segments, 15, 30), one segment from each frame on."""
        bands = ((power @ self.bank) + EPS**2).sqrt()
        bands = bands.gather(1, order.unsqueeze(-1).expand_as(bands))
        return bands.unfold(1, SEGMENT, 1)


def _normalized(x: Tensor, dim: int) -> Tensor:
    """Of mean 0 and norm 1 along dim."""
    x = x - x.mean(dim, keepdim=True)
    return x / x.norm(dim=dim, keepdim=True).clamp_min(EPS)
