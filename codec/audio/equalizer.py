"""A graphic equalizer of octaves that can be taken off again: one biquad each, and the inverse of a biquad is that of the opposite gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from codec.correction import FIRST, MAX_BANDS, edges, fits

BOTTOM = 40.0  # Hz: voices have nothing below, so the middle of the first band lies between this and its upper edge
MOST = 12  # dB, either way, of a designed gain
PART = 1 << 18  # samples that are filtered at once, in float64


def design(wanted_db: Sequence[float], sample_rate: int) -> tuple[int, ...]:
    """Gains in whole dB of an equalizer that comes to what is wanted in the middle of each band."""
    gains = np.linalg.solve(_influence(len(wanted_db), sample_rate), np.asarray(wanted_db, np.float64))
    return tuple(int(gain) for gain in np.clip(np.rint(gains), -MOST, MOST))


def response(eq_db: Sequence[float], sample_rate: int) -> np.ndarray:
    """What an equalizer of these gains comes to in the middle of each band, in dB: (bands,)."""
    limits = np.array([BOTTOM, *edges(len(eq_db)), sample_rate / 2])
    delay = np.exp(-2j * math.pi * np.sqrt(limits[:-1] * limits[1:]) / sample_rate)[:, None] ** np.arange(3)
    sections = _sections(eq_db, sample_rate)
    return 20 * np.log10(np.abs((delay @ sections[:, :3].T) / (delay @ sections[:, 3:].T)).prod(1))


class Equalizer:
    """Filters channels, each by gains of its own; parts of a signal come out as they would of the whole, bit for bit.

    Args:
        eq_db: of each channel, a gain in dB for each band; of another sign they undo it, at the same rate.
        sample_rate: in Hz. Raises ValueError where bands lie above half of it.
    """

    def __init__(self, eq_db: Sequence[Sequence[float]], sample_rate: int):
        from scipy.signal import sosfilt  # takes longer to import than most files to filter

        for row in eq_db:
            if not fits(len(row), sample_rate):
                raise ValueError(f"an equalizer has 2 to {MAX_BANDS} bands, up to half the sample rate, and not {len(row)} at {sample_rate} Hz")
        self._filter, self._sections = sosfilt, [_sections(row, sample_rate) for row in eq_db]
        self._states = [np.zeros((len(sections), 2)) for sections in self._sections]

    def process(self, wav: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The next samples (C, n), in float32 as they come out; into `out`, which may be `wav`, where it is given."""
        out = np.empty(wav.shape, np.float32) if out is None else out
        for channel, sections in enumerate(self._sections):
            for start in range(0, wav.shape[1], PART):
                part = slice(start, start + PART)
                out[channel, part], self._states[channel] = self._filter(sections, wav[channel, part], zi=self._states[channel])
        return out


@lru_cache(maxsize=8)
def _influence(bands: int, sample_rate: int) -> np.ndarray:
    """What 1 dB of each band brings in the middle of each (bands, bands), measured at 3 dB."""
    return np.stack([response(3.0 * row, sample_rate) / 3.0 for row in np.eye(bands)], axis=1)


def _sections(eq_db: Sequence[float], sample_rate: int) -> np.ndarray:
    """Coefficients b0 b1 b2 a0 a1 a2 of a biquad for each band, a0 = 1: (bands, 6). Robert Bristow-Johnson's "Audio EQ cookbook"
    (W3C, 2021), a low shelf, peaks an octave wide, a high shelf."""
    between = edges(len(eq_db))
    shelves = _shelf(eq_db[0], between[0], sample_rate, low=True), _shelf(eq_db[-1], between[-1], sample_rate, low=False)
    peaks = [_peak(gain, FIRST * 2.0**band, sample_rate) for band, gain in enumerate(eq_db[1:-1], 1)]
    sections = np.array([shelves[0], *peaks, shelves[1]])
    return sections / sections[:, 3:4]


def _peak(gain: float, frequency: float, sample_rate: int) -> list[float]:
    amplitude, angle = 10 ** (gain / 40), 2 * math.pi * frequency / sample_rate
    alpha, middle = math.sin(angle) / (2 * math.sqrt(2)), -2 * math.cos(angle)  # Q = sqrt(2)
    return [1 + alpha * amplitude, middle, 1 - alpha * amplitude, 1 + alpha / amplitude, middle, 1 - alpha / amplitude]


def _shelf(gain: float, frequency: float, sample_rate: int, low: bool) -> list[float]:
    amplitude, angle = 10 ** (gain / 40), 2 * math.pi * frequency / sample_rate
    turn = 1 if low else -1  # a high shelf is a low one with z turned to -z
    cosine, slope = turn * math.cos(angle), math.sqrt(2 * amplitude) * math.sin(angle)  # 2 sqrt(A) alpha, with a slope of 1
    plus, minus = amplitude + 1, amplitude - 1
    return [
        amplitude * (plus - minus * cosine + slope), turn * 2 * amplitude * (minus - plus * cosine), amplitude * (plus - minus * cosine - slope),
        plus + minus * cosine + slope, turn * -2 * (minus + plus * cosine), plus + minus * cosine - slope,
    ]
