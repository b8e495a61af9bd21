"""Bringing recordings to the level and near the spectrum that a model codes best, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from codec.audio.equalizer import Equalizer, design, response
from codec.audio.level import ActiveLevel, decibels
from codec.correction import Correction

LOUDEST = -10.0  # dBFS, of a block that a gain makes louder
MOST = 60.0  # dB, either way, of a gain
SHARE = 0.5  # of the way to the spectrum that a model codes best
FARTHEST = 12.0  # dB, either way, in each band


class Normal(NamedTuple):
    """What a model codes best: speech at `level`, in dBFS without its pauses, whose powers in octaves are `spectrum`, in dBFS
    (empty: any). sample_rate: of the model, in Hz."""

    level: float
    spectrum: tuple[float, ...]
    sample_rate: int


def correction(parts: Iterable[np.ndarray], sample_rate: int, channels: int, normal: Normal) -> Correction:
    """What brings a signal, of which these are the parts (C, n), to what a model codes best. Silence stays as it is, and no block gets
    louder than `LOUDEST` by the gain."""
    measured = ActiveLevel(sample_rate, channels, max(1, len(normal.spectrum)), normal.sample_rate)
    for part in parts:
        measured.update(part)
    measured.finish()
    found = [_of_channel(normal, *measured.channel(number)) for number in range(channels)]
    return Correction(tuple(gain for gain, _ in found), tuple(eq for _, eq in found) if normal.spectrum else ())


class Normalizer:
    """Applies a correction, at a model's rate, to the next samples (C, n) float32 of a signal; or takes it off (`undo`). Parts of any
    sizes come out as they would of the whole, bit for bit."""

    def __init__(self, done: Correction, sample_rate: int, undo: bool = False):
        sign = -1 if undo else 1
        self._factors = np.array([[10 ** (sign * gain / 20)] for gain in done.gain_db] or [[1.0]], np.float32)
        rows = [[sign * gain for gain in row] for row in done.eq_db]
        self._equalizer = Equalizer(rows, sample_rate) if any(map(any, rows)) else None

    def process(self, wav: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(C, n); into `out`, which may be `wav`, where it is given."""
        if self._equalizer is not None:
            wav = out = self._equalizer.process(wav, out)
        return np.multiply(wav, self._factors, out=out)


def _of_channel(normal: Normal, powers: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Gain and gains of bands, of powers (blocks, bands), those of offsets (blocks,) and which blocks count (blocks,)."""
    if not counts.any():
        return 0.0, (0,) * len(normal.spectrum)
    if not normal.spectrum:
        return _gain(normal.level, powers[:, 0], counts), ()
    mean = powers[counts].mean(0, dtype=np.float64)
    found = 10 * np.log10(np.maximum(mean, 1e-30)) - decibels(mean.sum()) + normal.level
    found[0] += decibels(1 + offsets[counts].mean(dtype=np.float64) / max(mean[0], 1e-30))  # an offset is not to be made larger
    eq = design(np.clip(SHARE * (np.array(normal.spectrum) - found), -FARTHEST, FARTHEST), normal.sample_rate)
    return _gain(normal.level, powers @ 10 ** (response(eq, normal.sample_rate) / 10), counts), eq


def _gain(level: float, powers: np.ndarray, counts: np.ndarray) -> float:
    """Of powers (blocks,) and which of them count."""
    gain = level - decibels(powers[counts].mean(dtype=np.float64))
    if gain > 0:
        gain = min(gain, max(0.0, LOUDEST - decibels(powers.max())))
    return round(min(max(gain, -MOST), MOST), 1) + 0.0  # no -0.0
