"""Errors of the pitch and of what is voiced."""

from __future__ import annotations

import numpy as np

from codec.evaluation.metrics.base import LOWER, Coded, Metric, Options, Unjudged
from codec.evaluation.sound import Sound

RATE, FRAME, HOP = 16_000, 1024, 160  # samples
LEAST, MOST = 60.0, 500.0  # Hz
PYIN = {"install": "pip install librosa", "modules": ("librosa",), "licence": "ISC (librosa)", "better": LOWER}
VOICED = 10  # frames


class Pitch:
    """Root mean square of the difference of log F0 where both are voiced, in cents, and the share of frames of which one alone is
    voiced. F0 by pYIN (Mauch and Dixon 2014) every 10 ms, 60 to 500 Hz."""

    metrics = (
        Metric("f0-error", "F0 error", "cents", source="RMSE of log F0, by pYIN", digits=1, **PYIN),
        Metric("voicing-error", "Voicing error", "share of frames", source="decisions that differ, by pYIN", **PYIN),
    )

    def __init__(self, options: Options):
        pass

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        if original.unheard:
            raise Unjudged(original.unheard)
        first = original.remember("f0", lambda: f0(original.at(RATE)))
        if np.isfinite(first).sum() < VOICED:
            raise Unjudged("it has less than 0.1 s of voice")
        return errors(first, f0(coded.sound.at(RATE)))


def f0(wav: np.ndarray) -> np.ndarray:
    """Hz of each frame, NaN where it is not voiced."""
    import librosa

    return librosa.pyin(wav, fmin=LEAST, fmax=MOST, sr=RATE, frame_length=FRAME, hop_length=HOP)[0]


def errors(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Of two tracks of F0 (frames,). Without a frame where both are voiced the error of F0 is that of the whole range."""
    voiced = np.isfinite(first), np.isfinite(second)
    both = voiced[0] & voiced[1]
    cents = 1200 * np.log2(second[both] / first[both]) if both.any() else np.array([1200 * np.log2(MOST / LEAST)])
    return {"f0-error": float(np.sqrt((cents**2).mean())), "voicing-error": float((voiced[0] != voiced[1]).mean())}
