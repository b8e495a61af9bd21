"""How loud the sounding part of a recording is, in octaves."""

from __future__ import annotations

import math

import numpy as np

from codec.correction import edges

BLOCK = 0.1  # seconds
GATE = 10.0  # dB below the mean of what counts: quieter blocks are pauses
EVENT, RARE, APART = 3, 0.1, 15.0  # at most so many blocks, and this share of all, are left out where they are so many dB above all others
TOGETHER = 1 << 18  # samples that are transformed at once
HIGHEST = 1e30  # power that is told apart: sums of it are finite in float32


class ActiveLevel:
    """Powers of a signal without its pauses, from parts of any sizes.

    Blocks of 100 ms count that are not more than 10 dB below the mean power of those that count: the relative gate of ITU-R BS.1770,
    until nothing falls below it any more, without its weighting of frequencies. Up to 0.3 s that are 15 dB louder than all the rest, as a
    slammed door, do not count. Offsets are no power, but kept for themselves. Memory grows by 4 bytes a block and channel for each band, and 4.

    Args:
        bands: octaves (`codec.correction.edges`), or 1 for all together. What lies above half of `top_rate` (Hz) is not heard.
    """

    def __init__(self, sample_rate: int, channels: int, bands: int, top_rate: int):
        self._rate, self._size = sample_rate, max(1, round(BLOCK * sample_rate))
        self._limits = np.array([0.0, *edges(bands), top_rate / 2])
        self._waiting = np.zeros((channels, 0), np.float32)
        self._powers = [np.zeros((channels, 0, bands), np.float32)]  # (channels, blocks, bands) each
        self._offsets = [np.zeros((channels, 0), np.float32)]  # (channels, blocks) each

    def update(self, wav: np.ndarray) -> None:
        """The next samples (C, n)."""
        wav = np.concatenate([self._waiting, wav], axis=1)
        whole = wav.shape[1] // self._size * self._size
        step = max(1, TOGETHER // (len(wav) * self._size)) * self._size
        for start in range(0, whole, step):
            self._measure(wav[:, start : min(start + step, whole)].reshape(len(wav), -1, self._size))
        self._waiting = wav[:, whole:].copy()

    def finish(self) -> None:
        """The signal ends here, and its last block may be a shorter one."""
        if self._waiting.shape[1]:
            self._measure(self._waiting[:, None])
        self._waiting = self._waiting[:, :0]

    def channel(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of what came before `finish`: mean squares in the bands (blocks, bands), those of offsets (blocks,), and which blocks count (blocks,)."""
        powers = np.concatenate([part[number] for part in self._powers])
        return powers, np.concatenate([part[number] for part in self._offsets]), _counts(powers.sum(1, dtype=np.float64))

    def _measure(self, blocks: np.ndarray) -> None:
        """Samples (C, blocks, n): their power, by the shares that bands have under one window of Hann."""
        size, offsets = blocks.shape[2], blocks.mean(2, dtype=np.float64)
        blocks = blocks - offsets[..., None]
        spectrum = np.square(np.abs(np.fft.rfft(blocks * np.hanning(size + 2)[1:-1])))
        band = np.searchsorted(self._limits, np.fft.rfftfreq(size, 1 / self._rate), side="right")
        within = (band[:, None] == np.arange(1, len(self._limits))).astype(np.float64)
        total = np.maximum(spectrum.sum(2, keepdims=True), np.finfo(np.float64).tiny)
        powers = spectrum @ within * (np.square(blocks).mean(2)[..., None] / total)
        self._powers.append(np.minimum(powers, HIGHEST).astype(np.float32))
        self._offsets.append(np.minimum(np.square(offsets), HIGHEST).astype(np.float32))


def decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf


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
