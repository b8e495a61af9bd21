"""What a machine still tells from decoded audio, or from tokens: how often small networks are right that a sweep trains on them."""

from __future__ import annotations

import numpy as np

from codec.audio.mel import mel_filters
from codec.evaluation.metrics.base import HIGHER, Coded, Metric, Options
from codec.evaluation.metrics.signal import FLOOR, magnitudes
from codec.evaluation.sound import Sound

HEARD = "heard"  # what is kept of each decoded recording
AUDIO, TOKENS = "-audio", "-tokens"
RATE, WINDOW, HOP, BANDS = 16_000, 512, 320, 40  # 50 frames a second
STEP = 0.5  # dB
TASKS = {
    "slots": ("slots-audio", "slots-tokens"), "speaker": ("speaker-audio", "speaker-tokens"), "keyword": ("label-audio", "label-tokens"),
    "sounds": ("label-audio", "label-tokens"), "asr": ("dwer", "dcer"),
}  # of the command line
TITLES = {"slots": "Spoken commands", "speaker": "Who speaks", "label": "Label of the recording"}


class Heard:
    """Log mel spectra, which probes of audio are trained on: (bands, frames) uint8, half a decibel a step from -100 dB on."""

    metrics = (Metric(HEARD, "", "", HIGHER, "", "", level="kept"),)

    def __init__(self, options: Options):
        pass

    def vectors(self, original: Sound, coded: Coded) -> np.ndarray:
        bands = magnitudes(coded.sound.at(RATE), WINDOW, HOP) @ mel_filters(RATE, WINDOW, BANDS).T  # (frames, bands)
        decibels = 20 * np.log10(np.maximum(bands, FLOOR))
        return np.clip(np.rint((decibels + 100) / STEP), 0, 255).astype(np.uint8).T


class Told:
    """Shares of right answers of probes, which the sweep trains when all is coded (`sweep.tasks`)."""

    metrics = tuple(
        Metric(task + of, f"{title} from {of[1:]}", "share right", HIGHER, source, "MIT (this project)", level="task", weighted=True)
        for task, title in TITLES.items()
        for of, source in ((AUDIO, "a convolutional probe on log mel spectra"), (TOKENS, "the probe of `codec probe`"))
    )

    def __init__(self, options: Options):
        pass
