"""Fréchet audio distance, on an embedding of one's choice."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from codec.audio.mel import mel_filters
from codec.evaluation.metrics.base import LOWER, Coded, Metric, MetricError, Options
from codec.evaluation.metrics.signal import FLOOR, magnitudes
from codec.evaluation.sound import Sound

Embedding = Callable[[np.ndarray, int], np.ndarray]  # samples (T,) and rate to (n, d)
MEL = "mel"
RATE, WINDOW, BANDS, TOGETHER = 16_000, 512, 64, 12  # the last: frames, 8 ms apart


class Frechet:
    """Distance of two normal distributions, of embeddings of all original and of all decoded recordings of a cell:
    |m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)). It depends on the embedding and, below some thousands of vectors, on their number.

    `options.embedding`: "mel" (log mel spectra of 64 bands, means over 96 ms, at 16 kHz), or MODULE:FUNCTION, a function of samples
    (T,) and their rate that gives (n, d).
    """

    metrics = (Metric("fad", "Fréchet distance", "of the embedding", LOWER, "Kilgour et al. 2019", "MIT (this project)", level="set",
                      option="embedding"),)

    @staticmethod
    def check(options: Options) -> None:
        embedding(options.embedding or MEL)

    def __init__(self, options: Options):
        self._embed = embedding(options.embedding or MEL)

    def vectors(self, original: Sound, coded: Coded) -> np.ndarray:
        """(2, n, d) float32: of the original and of what was decoded."""
        first = original.remember("embedding", lambda: self._embed(original.wav, original.rate))
        second = self._embed(coded.sound.wav, coded.sound.rate)
        n = min(len(first), len(second))
        return np.stack([first[:n], second[:n]]).astype(np.float32)


def embedding(name: str) -> Embedding:
    """Raises MetricError where there is no such function."""
    if name == MEL:
        return mel
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise MetricError(f"--embedding {name}: {error}: give mel, or MODULE:FUNCTION") from None


def mel(wav: np.ndarray, rate: int) -> np.ndarray:
    """(n, 64)"""
    sound = magnitudes(Sound(wav, rate).at(RATE), WINDOW) @ mel_filters(RATE, WINDOW, BANDS).T
    logs = np.log10(np.maximum(sound, FLOOR))
    logs = logs[: max(1, len(logs) // TOGETHER * TOGETHER)]
    return np.stack([part.mean(0) for part in np.array_split(logs, max(1, len(logs) // TOGETHER))])


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Of two sets of vectors (n, d) and (m, d), two at least each."""
    apart = first.mean(0) - second.mean(0)
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (first, second)]
    roots = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0)).sum()
    return max(0.0, float(apart @ apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots))
