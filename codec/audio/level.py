"""How loud the sounding part of a recording is, and its spectrum in octaves."""

from __future__ import annotations

import math

import numpy as np

from codec.audio.equalizer import LOWEST, edges

BLOCK = 0.1  # seconds
GATE = 10.0  # dB below the mean of what counts: quieter blocks are pauses
EVENT, RARE, APART = 3, 0.1, 15.0  # at most so many blocks, and this share of all, are left out where they are so many dB above all others
TOGETHER = 256  # blocks that are transformed at once


class ActiveLevel:
    """Mean power of a signal without its pauses, from parts of any sizes.

    Blocks of 100 ms count that are not more than 10 dB below the mean power of those that count: the relative gate of ITU-R BS.1770,
    until nothing falls below it any more, without its weighting of frequencies. Up to 0.3 s that are 15 dB louder than all the rest, as a
    slammed door, do not count, and neither do offsets. Memory grows by 8 bytes a block and channel, and 8 for each band.

    Args:
        bands: octaves (`codec.audio.equalizer`) in which it is measured, too; the last one ends at half of `top_rate`, in Hz.
    """

    def __init__(self, sample_rate: int, channels: int, bands: int = 0, top_rate: int = 0):
        self._rate, self._size = sample_rate, max(1, round(BLOCK * sample_rate))
        self._limits = np.array([LOWEST, *edges(bands), top_rate / 2]) if bands else np.zeros(1)
        self._waiting = np.zeros((channels, 0), np.float32)
        self._powers = [np.zeros((channels, 0))]  # (channels, blocks) each
        self._octaves = [np.zeros((channels, 0, bands))]  # (channels, blocks, bands) each

    def update(self, wav: np.ndarray) -> None:
        """The next samples (C, n)."""
        wav = np.concatenate([self._waiting, wav], axis=1)
        whole = wav.shape[1] // self._size * self._size
        for start in range(0, whole, TOGETHER * self._size):
            self._measure(wav[:, start : min(start + TOGETHER * self._size, whole)].reshape(len(wav), -1, self._size))
        self._waiting = wav[:, whole:].copy()

    def finish(self) -> None:
        """The signal ends here, and its last block may be a shorter one."""
        if self._waiting.shape[1]:
            self._measure(self._waiting[:, None])
        self._waiting = self._waiting[:, :0]

    def _measure(self, blocks: np.ndarray) -> None:
        self._powers.append(_powers(blocks))
        self._octaves.append(_octaves(blocks, self._rate, self._limits))

    def blocks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of what came before `finish`: powers (C, blocks), those of the bands (C, blocks, bands), and which of the blocks count (C, blocks)."""
        powers = np.concatenate(self._powers, axis=1)
        return powers, np.concatenate(self._octaves, axis=1), np.stack([_counts(row) for row in powers])


def decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf


def _powers(blocks: np.ndarray) -> np.ndarray:
    """Samples (C, blocks, n) to mean squares (C, blocks), without an offset where it is the most of them."""
    squares, offsets = np.square(blocks, dtype=np.float64).mean(2), np.square(blocks.mean(2, dtype=np.float64))
    return np.where(offsets > squares / 2, np.maximum(squares - offsets, 0.0), squares)


def _octaves(blocks: np.ndarray, sample_rate: int, limits: np.ndarray) -> np.ndarray:
    """Samples (C, blocks, n) to mean squares between the limits in Hz, (C, blocks, limits - 1), by one window of Hann each."""
    size = blocks.shape[2]
    window = np.hanning(size + 2)[1:-1]
    spectrum = np.square(np.abs(np.fft.rfft(blocks * window)))  # in float64
    band = np.searchsorted(limits, np.fft.rfftfreq(size, 1 / sample_rate), side="right")  # 0 and len(limits): in none
    within = (band[:, None] == np.arange(1, len(limits))).astype(np.float64)
    return spectrum @ within * (2 / (size * np.square(window).sum()))


def _counts(powers: np.ndarray) -> np.ndarray:
    """Which of the powers (n,) count: (n,) bool."""
    span, loud, most = 10 ** (GATE / 10), np.sort(powers[powers > 0]), math.inf
    events = min(EVENT, int(RARE * loud.size))
    if events:
        most = 10 ** (APART / 10) * loud[-events - 1]
        loud = loud[loud <= most]
    while loud.size and loud[0] * span < loud.mean():
        loud = loud[loud * span >= loud.mean()]
    return (powers >= loud[0]) & (powers <= most) if loud.size else np.zeros(len(powers), bool)
