"""Distances of waveforms and spectra, at the rate of the original."""

from __future__ import annotations

import math

import numpy as np

from codec.audio.mel import mel_filters
from codec.evaluation.metrics.base import HIGHER, LOWER, Coded, Metric, Options, Unjudged
from codec.evaluation.sound import Sound

FLOOR = 1e-5
FLAT = 1e-6  # of the largest sample: what rounding leaves of a constant
WINDOWS = (2048, 512)
BANDS = (150, 80)
OWN = "MIT (this project)"


class SiSdr:
    """Scale-invariant ratio of signal to distortion: 10 log10(|a s|^2 / |a s - d|^2) with a = <d, s> / |s|^2, means removed."""

    metrics = (Metric("si-sdr", "SI-SDR", "dB", HIGHER, "Le Roux et al. 2019", OWN, digits=2),)

    def __init__(self, options: Options):
        pass

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        if original.silent:
            raise Unjudged("it is silent")
        if original.wav.std(dtype=np.float64) < FLAT * np.abs(original.wav).max():
            raise Unjudged("it is a constant, of which nothing is left without its mean")
        return {"si-sdr": si_sdr(original.wav, coded.sound.wav)}


def si_sdr(original: np.ndarray, decoded: np.ndarray) -> float:
    """In dB, of samples (T,); at most 100, at least -100."""
    s, d = (each.astype(np.float64) - each.mean(dtype=np.float64) for each in (original, decoded))
    target = (d @ s) / (s @ s) * s
    kept, lost = float(target @ target), float((target - d) @ (target - d))
    if kept <= 1e-10 * lost or kept == 0:
        return -100.0
    return 10 * math.log10(kept / lost) if lost > 1e-10 * kept else 100.0


class Spectra:
    """Distances of magnitudes, as in DAC's evaluation (Kumar et al. 2023): for each window the mean of |log10 x^2 - log10 y^2|,
    magnitudes floored at 1e-5, plus the mean of |x - y|; summed over Hann windows of 2048 and 512 samples, a quarter apart.

    Mel bands are Slaney's: 150 for the long window, 80 for the short one, up to half the rate.
    """

    metrics = (
        Metric("mel", "Mel distance", "log10 and linear", LOWER, "Kumar et al. 2023 (DAC's evaluation)", OWN),
        Metric("stft", "STFT distance", "log10 and linear", LOWER, "Kumar et al. 2023 (DAC's evaluation)", OWN),
    )

    def __init__(self, options: Options):
        pass

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        if original.silent:
            raise Unjudged("it is silent")
        mel = stft = 0.0
        for window, bands in zip(WINDOWS, BANDS):
            first = original.remember(("magnitudes", window), lambda: magnitudes(original.wav, window))
            second = magnitudes(coded.sound.wav, window)
            filters = mel_filters(original.rate, window, bands)  # (bands, bins)
            stft += distance(first, second)
            mel += distance(first @ filters.T, second @ filters.T)
        return {"mel": mel, "stft": stft}


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Of magnitudes (frames, bins)."""
    logs = [2 * np.log10(np.maximum(each, FLOOR)) for each in (first, second)]
    return float(np.abs(logs[0] - logs[1]).mean() + np.abs(first - second).mean())


def magnitudes(wav: np.ndarray, window: int, hop: int = 0) -> np.ndarray:
    """Samples (T,) to (frames, window // 2 + 1): frames centred on every `hop` (window / 4) samples, the signal mirrored at its ends."""
    half, hop = window // 2, hop or window // 4
    padded = np.pad(wav, half, mode="reflect" if len(wav) > half else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return np.abs(np.fft.rfft(frames * hann.astype(np.float32)))
