"""Conversion of sample rates, and what is lost by it."""

from __future__ import annotations

import math

import numpy as np
import soxr

from codec.audio.common import AudioError, check_layout


class Resampler:
    """Streaming conversion of the sample rate by soxr, "HQ" quality; chunking changes nothing, bit for bit.

    n samples become ceil(n * to_rate / from_rate) once flushed. Equal rates pass through untouched.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int):
        check_layout(from_rate, channels, "resampling")
        check_layout(to_rate, channels, "resampling")
        self.from_rate, self.to_rate, self.channels = from_rate, to_rate, channels
        self._taken = self._given = 0
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")

    def process(self, wav: np.ndarray) -> np.ndarray:
        """Samples (C, n) to those that are ready, (C, m) float32."""
        wav = np.asarray(wav, dtype=np.float32)
        if wav.ndim != 2 or wav.shape[0] != self.channels:
            raise AudioError(f"resampling takes samples of shape ({self.channels}, n), got {wav.shape}")
        self._taken += wav.shape[1]
        return wav if self._stream is None else self._run(wav, last=False)

    def flush(self) -> np.ndarray:
        """The last samples (C, m). Nothing may follow."""
        if self._stream is None or self._taken == 0:
            return np.zeros((self.channels, 0), np.float32)
        silence = 2 * math.ceil(self.from_rate / self.to_rate)  # soxr rounds the length; this makes it enough
        return self._run(np.zeros((self.channels, silence), np.float32), last=True)

    def _run(self, wav: np.ndarray, last: bool) -> np.ndarray:
        out = self._stream.resample_chunk(np.ascontiguousarray(wav.T), last=last).T
        due = -(-self._taken * self.to_rate // self.from_rate)
        out = np.ascontiguousarray(out[:, : due - self._given])
        self._given += out.shape[1]
        return out


def resample(wav: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """A whole array (C, n) at `from_rate` Hz to (C, ceil(n * to / from)) at `to_rate`; bitwise what Resampler gives."""
    resampler = Resampler(from_rate, to_rate, wav.shape[0])
    return np.concatenate([resampler.process(wav), resampler.flush()], axis=1)


class LostBand:
    """Measures, while encoding, how much of the energy lies above the band that a model codes."""

    def __init__(self, from_rate: int, model_rate: int, model_name: str):
        self._from_rate, self._model_rate, self._model_name = from_rate, model_rate, model_name
        self._before = self._after = 0.0

    def update(self, wav: np.ndarray, resampled: np.ndarray) -> None:
        """A block as it was read (C, n) and what the resampler gave for it (C, m); they need not be aligned."""
        self._before += _energy(wav) / self._from_rate
        self._after += _energy(resampled) / self._model_rate

    @property
    def lost(self) -> float:
        """The share of the energy that is lost, 0 to 1."""
        if self._from_rate <= self._model_rate or self._before == 0:
            return 0.0
        return min(max(1 - self._after / self._before, 0.0), 1.0)

    def note(self, threshold: float = 0.01) -> str | None:
        """A line for the user when at least `threshold` of the energy is lost."""
        if self.lost < threshold:
            return None
        return (
            f"note: {100 * self.lost:.0f} % of the energy lies above {self._model_rate / 2000:g} kHz, "
            f"which {self._model_name} does not code"
        )


def _energy(wav: np.ndarray) -> float:
    flat = np.ravel(wav).astype(np.float64)
    return float(flat @ flat)
