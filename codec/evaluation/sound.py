"""Audio as judges and systems see it: mono, at any rate that is asked for, with room for what was computed of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from codec.audio import AudioError, AudioReader, resample

T = TypeVar("T")
SILENCE = 1e-3  # -60 dBFS, RMS of 20 ms
FRAME = 0.02  # seconds
SOUNDING = 0.6  # seconds


class Sound:
    """Samples (T,) float32, full scale at 1, at `rate` Hz."""

    def __init__(self, wav: np.ndarray, rate: int):
        self.wav, self.rate = np.ascontiguousarray(wav, dtype=np.float32), rate
        self._kept: dict[Any, Any] = {}

    @property
    def seconds(self) -> float:
        return len(self.wav) / self.rate

    def at(self, rate: int) -> np.ndarray:
        """The samples at another rate, (ceil(T * rate / self.rate),), by soxr "HQ"."""
        if rate == self.rate:
            return self.wav
        return self.remember(("at", rate), lambda: resample(self.wav[None], self.rate, rate)[0])

    def remember(self, key: Any, compute: Callable[[], T]) -> T:
        """What `compute` gives, computed once under that key: the transcript of an original, its pitch, ..."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @property
    def silent(self) -> bool:
        """Whether no 20 ms reach -60 dBFS."""
        return bool(_levels(self.wav, self.rate).max() < SILENCE)

    @property
    def unheard(self) -> str:
        """Why measures of speech cannot judge it, empty if they can: STOI needs 0.4 s within 40 dB of the loudest part."""
        if self.silent:
            return "it is silent"
        if self.seconds < 1:
            return "it is shorter than 1 s"
        levels = _levels(self.wav, self.rate)
        if (levels > 0.01 * levels.max()).sum() * FRAME < SOUNDING - 1e-9:
            return f"it has less than {SOUNDING:g} s of sound"
        return ""


def _levels(wav: np.ndarray, rate: int) -> np.ndarray:
    """RMS of each 20 ms, or of all that there is."""
    size = min(len(wav), round(FRAME * rate))
    frames = wav[: len(wav) // size * size].reshape(-1, size).astype(np.float64)
    return np.sqrt((frames**2).mean(1))


def load(path: str | Path, rate: int | None = None, seconds: float = math.inf) -> Sound:
    """The first `seconds` of a recording, its channels averaged, at its own rate or at `rate`. Raises AudioError."""
    with AudioReader(path) as reader:
        limit = reader.num_samples if seconds == math.inf else max(1, round(seconds * reader.sample_rate))
        parts, there = [], 0
        for block in reader.blocks():
            parts.append(block.mean(axis=0))
            there += block.shape[1]
            if limit is not None and there >= limit and seconds != math.inf:
                break
        wav = np.concatenate(parts)[:limit]
        if rate is not None and rate != reader.sample_rate:
            return Sound(resample(wav[None], reader.sample_rate, rate)[0], rate)
        return Sound(wav, reader.sample_rate)


def fit(wav: np.ndarray, length: int) -> np.ndarray:
    """Cut samples (T,), or fill them up with silence, to (length,) float32."""
    return np.pad(wav[:length], (0, max(0, length - len(wav)))).astype(np.float32)


def lag(original: np.ndarray, decoded: np.ndarray, rate: int, most: float = 0.1) -> float | None:
    """By how many seconds the decoded samples (T,) come late, at most `most` either way, where their waveform shows it.

    The peak of the cross-correlation, divided by both norms; None where it is below 0.5, as for codecs that keep no phases
    (at most a few bits) or for silence.
    """
    size = 1 << (2 * max(len(original), len(decoded)) - 1).bit_length()
    a, b = original.astype(np.float64), decoded.astype(np.float64)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if scale == 0:
        return None
    reach = min(round(most * rate), len(original) - 1)
    whole = np.fft.irfft(np.conj(np.fft.rfft(a, size)) * np.fft.rfft(b, size), size)
    near = np.concatenate([whole[size - reach :], whole[: reach + 1]]) if reach else whole[:1]
    best = int(near.argmax())
    return (best - reach) / rate if near[best] >= 0.5 * scale else None


__all__ = ["AudioError", "Sound", "fit", "lag", "load"]
