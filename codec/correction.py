"""What was done to the level and the spectrum of a recording before it was encoded, which decoding takes off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from typing import Any

FIRST = 125.0  # Hz, the middle of the first octave
MAX_BANDS = 10
MAX_GAIN, MAX_EQ = 200.0, 24  # dB, either way


@dataclass(frozen=True)
class Correction:
    """A gain of each channel in dB (`gain_db`), and of each channel gains in octaves from 125 Hz on, in whole dB (`eq_db`, of the
    equalizer of `codec.audio.equalizer`). Either is empty where there was none.

    Raises ValueError for other numbers than decibels.
    """

    gain_db: tuple[float, ...] = ()
    eq_db: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not _are(Real, self.gain_db, MAX_GAIN):
            raise ValueError(f"gain_db={_start(self.gain_db)} must be numbers of at most {MAX_GAIN:g} dB, one for each row or channel")
        if not isinstance(self.eq_db, Iterable) or not all(_are(Integral, row, MAX_EQ) for row in self.eq_db):
            raise ValueError(f"eq_db={_start(self.eq_db)} must be whole numbers of at most {MAX_EQ} dB, one for each band of each row or channel")
        object.__setattr__(self, "gain_db", tuple(map(float, self.gain_db)))
        object.__setattr__(self, "eq_db", tuple(tuple(map(int, row)) for row in self.eq_db))

    def check(self, rows: int, sample_rate: int) -> None:
        """Raise ValueError unless it is of so many rows or channels, at a model's rate in Hz."""
        for name, values in (("gain_db", self.gain_db), ("eq_db", self.eq_db)):
            if len(values) not in (0, rows):
                raise ValueError(f"{name} has {len(values)} entries, and must have {rows}, one for each row or channel, or none")
        if not all(fits(len(row), sample_rate) for row in self.eq_db):
            raise ValueError(f"eq_db={_start(self.eq_db)}: there are 2 or more octaves from 125 Hz up to half of {sample_rate} Hz")

    def of(self, rows: slice) -> Correction:
        return Correction(self.gain_db[rows], self.eq_db[rows])


def joined(corrections: Sequence[Correction]) -> Correction:
    """Of several signals, one after the other."""
    return Correction(
        tuple(chain.from_iterable(each.gain_db for each in corrections)), tuple(chain.from_iterable(each.eq_db for each in corrections))
    )


def edges(bands: int) -> list[float]:
    """Between so many octaves, in Hz. The first one reaches down to 0, the last one up to half the sample rate."""
    return [FIRST * math.sqrt(2) * 2.0**band for band in range(bands - 1)]


def fits(bands: int, sample_rate: int) -> bool:
    """Whether so many octaves begin below half the sample rate."""
    return 2 <= bands <= MAX_BANDS and edges(bands)[-1] < sample_rate / 2


def _are(kind: type, values: Any, most: float) -> bool:
    return isinstance(values, Iterable) and all(isinstance(each, kind) and not isinstance(each, bool) and abs(each) <= most for each in values)


def _start(values: Any) -> str:
    return str(values)[:80]
