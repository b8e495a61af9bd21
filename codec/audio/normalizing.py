"""Bringing recordings to the level and near the spectrum that a model codes best, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from codec.audio.equalizer import Equalizer, design, fits, response
from codec.audio.level import ActiveLevel, decibels

LOUDEST = -10.0  # dBFS, of a block that a gain makes louder
MOST = 60.0  # dB, either way, of a gain
SHARE = 0.5  # of the way to the spectrum that a model codes best
FARTHEST = 12.0  # dB, either way, in each band
MAX_GAIN, MAX_EQ = 200.0, 24  # dB, that decoders take off


class Normal(NamedTuple):
    """What a model codes best: speech at `level`, in dBFS without its pauses, whose powers in octaves are `spectrum`, in dBFS
    (`codec.audio.equalizer`; empty: any). sample_rate: of the model, in Hz."""

    level: float
    spectrum: tuple[float, ...]
    sample_rate: int


@dataclass(frozen=True)
class Correction:
    """What was done to channels before they were encoded, and decoding takes off: a gain of each (`gain_db`), and gains in octaves of
    each (`eq_db`, whole dB, see `codec.audio.equalizer`). Either is empty where there was none.

    Raises ValueError for other numbers than decibels.
    """

    gain_db: tuple[float, ...] = ()
    eq_db: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not all(type(gain) in (int, float) and abs(gain) <= MAX_GAIN for gain in self.gain_db):
            raise ValueError(f"gain_db={self.gain_db[:8]} must be numbers of at most {MAX_GAIN:g} dB, one for each row or channel")
        if not all(type(gain) is int and abs(gain) <= MAX_EQ for row in self.eq_db for gain in row):
            raise ValueError(f"eq_db={self.eq_db[:2]} must be whole numbers of at most {MAX_EQ} dB, one for each band of each row or channel")

    def check(self, rows: int, sample_rate: int) -> None:
        """Raise ValueError unless it is of so many rows or channels, at a model's rate in Hz."""
        for name, values in (("gain_db", self.gain_db), ("eq_db", self.eq_db)):
            if len(values) not in (0, rows):
                raise ValueError(f"{name} has {len(values)} entries, and must have {rows}, one for each row or channel, or none")
        if not all(fits(len(row), sample_rate) for row in self.eq_db):
            raise ValueError(f"eq_db={self.eq_db[:2]}: there are 2 or more octaves from 125 Hz up to half of {sample_rate} Hz")

    def of(self, rows: slice) -> Correction:
        return Correction(self.gain_db[rows], self.eq_db[rows])


def correction(parts: Iterable[np.ndarray], sample_rate: int, channels: int, normal: Normal) -> Correction:
    """What brings a signal, of which these are the parts (C, n), to what a model codes best. Silence stays as it is, and no block gets
    louder than `LOUDEST` by the gain."""
    measured = ActiveLevel(sample_rate, channels, len(normal.spectrum), normal.sample_rate)
    for part in parts:
        measured.update(part)
    measured.finish()
    found = [_of_channel(normal, *each) for each in zip(*measured.blocks())]
    return Correction(tuple(gain for gain, _ in found), tuple(eq for _, eq in found) if normal.spectrum else ())


def joined(corrections: Iterable[Correction]) -> Correction:
    """Of several signals, one after the other."""
    corrections = tuple(corrections)
    return Correction(*(tuple(chain.from_iterable(getattr(each, name) for each in corrections)) for name in ("gain_db", "eq_db")))


class Normalizer:
    """Applies a correction, at a model's rate, to the next samples (C, n) float32 of a signal; or takes it off (`undo`). Parts of any
    sizes come out as they would of the whole, bit for bit."""

    def __init__(self, done: Correction, sample_rate: int, undo: bool = False):
        sign = -1 if undo else 1
        self._factors = np.array([[10 ** (sign * gain / 20)] for gain in done.gain_db], np.float32)
        rows = [[sign * gain for gain in row] for row in done.eq_db]
        self._equalizer = Equalizer(rows, sample_rate) if any(map(any, rows)) else None

    def process(self, wav: np.ndarray) -> np.ndarray:
        if self._equalizer is not None:
            wav = self._equalizer.process(wav)
        return wav * self._factors if len(self._factors) else wav


def _of_channel(normal: Normal, powers: np.ndarray, octaves: np.ndarray, counts: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Gain and gains of bands, of powers (blocks,) and those in octaves (blocks, bands) and which blocks count (blocks,)."""
    mean = octaves[counts].mean(0) if counts.any() else np.zeros(len(normal.spectrum))
    if not mean.any():  # silence, or nothing that has a spectrum
        return _gain(normal.level, powers, powers, counts), (0,) * len(normal.spectrum)
    eq = _equalized(normal, mean)
    return _gain(normal.level, octaves @ 10 ** (response(eq, normal.sample_rate) / 10), powers, counts), eq


def _equalized(normal: Normal, octaves: np.ndarray) -> tuple[int, ...]:
    """Gains of the bands, of the mean powers in them (bands,)."""
    found = 10 * np.log10(np.maximum(octaves, 1e-30))
    wanted = np.array(normal.spectrum) - (found + normal.level - decibels(octaves.sum()))
    return design(np.clip(SHARE * wanted, -FARTHEST, FARTHEST), normal.sample_rate)


def _gain(level: float, equalized: np.ndarray, powers: np.ndarray, counts: np.ndarray) -> float:
    if not counts.any():
        return 0.0
    gain = level - decibels(equalized[counts].mean())
    if gain > 0:
        gain = min(gain, max(0.0, LOUDEST - decibels(max(equalized.max(), powers.max()))))
    return round(min(max(gain, -MOST), MOST), 1) + 0.0  # no -0.0
