"""How loud the sounding part of a recording is, and what brings it to the level that a model codes best."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

BLOCK = 0.1  # seconds
GATE = 10.0  # dB below the mean of what counts: quieter blocks are pauses
EVENT, RARE, APART = 3, 0.1, 15.0  # at most so many blocks, and this share of all, are left out where they are so many dB above all others
LOUDEST = -10.0  # dBFS, of a block that a gain makes louder
MOST = 60.0  # dB, either way, of a gain


class ActiveLevel:
    """RMS of a signal without its pauses, from parts of any sizes.

    Blocks of 100 ms count that are not more than 10 dB below the mean power of those that count: the relative gate of ITU-R BS.1770,
    until nothing falls below it any more, without its weighting of frequencies. Up to 0.3 s that are 15 dB louder than all the rest, as a
    slammed door, do not count, and neither do offsets. Memory grows by 8 bytes a block and channel.
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
        return [_decibels(_gated(row)) for row in self._rows()]

    def gains(self, level: float) -> tuple[float, ...]:
        """What brings each channel to a level in dBFS, in dB, to a tenth; 0 for silence. No block gets louder than `LOUDEST` by it."""
        return tuple(_gain(level, active, _decibels(row.max(initial=0.0))) for active, row in zip(self.dbfs(), self._rows()))

    def _rows(self) -> np.ndarray:
        """Powers (C, blocks), the last block a shorter one."""
        rest = [_powers(self._waiting[:, None])] if self._waiting.shape[1] else []
        return np.concatenate([*self._powers, *rest], axis=1)


def gains(parts: Iterable[np.ndarray], sample_rate: int, channels: int, level: float) -> tuple[float, ...]:
    """`ActiveLevel.gains` of the parts (C, n) of a signal."""
    measured = ActiveLevel(sample_rate, channels)
    for part in parts:
        measured.update(part)
    return measured.gains(level)


def factors(gain_db: Iterable[float]) -> np.ndarray:
    """Gains (C,) in dB as what samples (C, n) are multiplied by: (C, 1) float32, and 1 where there are none."""
    return np.array([[10 ** (gain / 20)] for gain in gain_db] or [[1.0]], np.float32)


def _gain(level: float, active: float, loudest: float) -> float:
    if active == -math.inf:
        return 0.0
    gain = level - active
    if gain > 0:
        gain = min(gain, max(0.0, LOUDEST - loudest))
    return round(min(max(gain, -MOST), MOST), 1) + 0.0  # no -0.0


def _powers(blocks: np.ndarray) -> np.ndarray:
    """Samples (C, blocks, n) to mean squares (C, blocks), without an offset where it is the most of them."""
    squares, offsets = np.square(blocks, dtype=np.float64).mean(2), np.square(blocks.mean(2, dtype=np.float64))
    return np.where(offsets > squares / 2, np.maximum(squares - offsets, 0.0), squares)


def _gated(powers: np.ndarray) -> float:
    """The mean of those of the powers (n,) that count."""
    span, loud = 10 ** (GATE / 10), np.sort(powers[powers > 0])
    events = min(EVENT, int(RARE * loud.size))
    if events:
        most = 10 ** (APART / 10) * loud[-events - 1]
        loud = loud[loud <= most]
    while loud.size and loud[0] * span < loud.mean():
        loud = loud[loud * span >= loud.mean()]
    return float(loud.mean()) if loud.size else 0.0


def _decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf
