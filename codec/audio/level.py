"""How loud the sounding part of a recording is, and what brings it to the level that a model codes best."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

BLOCK = 0.1  # seconds
GATE = 10.0  # dB below the mean of what counts: quieter blocks are pauses
MOST = 60.0  # dB, either way, of a gain


class ActiveLevel:
    """RMS of a signal without its pauses, from parts of any sizes.

    Blocks of 100 ms count that are not more than 10 dB below the mean power of those that count: the relative gate of ITU-R BS.1770,
    until nothing falls below it any more, without its weighting of frequencies. Memory grows by 8 bytes a block and channel.
    """

    def __init__(self, sample_rate: int, channels: int):
        self._size = max(1, round(BLOCK * sample_rate))
        self._waiting = np.zeros((channels, 0), np.float32)
        self._powers: list[np.ndarray] = []  # (channels, blocks) each

    def update(self, wav: np.ndarray) -> None:
        """The next samples (C, n)."""
        wav = np.concatenate([self._waiting, wav], axis=1)
        whole = wav.shape[1] // self._size * self._size
        self._powers.append(_powers(wav[:, :whole].reshape(len(wav), -1, self._size)))
        self._waiting = wav[:, whole:].copy()

    def dbfs(self) -> list[float]:
        """Of each channel, in dB of full scale; -inf for digital silence."""
        powers = [*self._powers, _powers(self._waiting[:, None])] if self._waiting.shape[1] else self._powers
        return [_gated(row) for row in np.concatenate(powers, axis=1)]


def gains(parts: Iterable[np.ndarray], sample_rate: int, channels: int, level: float) -> tuple[float, ...]:
    """The gain in dB, to a tenth, that brings each channel of the parts (C, n) of a signal to an active level in dBFS; 0 for silence."""
    measured = ActiveLevel(sample_rate, channels)
    for part in parts:
        measured.update(part)
    return tuple(round(min(max(level - dbfs, -MOST), MOST), 1) if dbfs > -math.inf else 0.0 for dbfs in measured.dbfs())


def factors(gain_db: Iterable[float]) -> np.ndarray:
    """Gains (C,) in dB as what samples (C, n) are multiplied by: (C, 1) float32."""
    return np.array([[10 ** (gain / 20)] for gain in gain_db], np.float32)


def _powers(blocks: np.ndarray) -> np.ndarray:
    """Samples (C, blocks, n) to mean squares (C, blocks)."""
    return np.square(blocks, dtype=np.float64).mean(2)


def _gated(powers: np.ndarray) -> float:
    """The mean of powers (n,) that are not far below it, in dB."""
    counted = powers[powers > 0]
    if not counted.size:
        return -math.inf
    while True:
        loud = counted[counted >= counted.mean() * 10 ** (-GATE / 10)]
        if loud.size == counted.size:
            return 10 * math.log10(loud.mean())
        counted = loud
