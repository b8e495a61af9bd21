"""Of the codes of one recording: how often they repeat, and how well they survive small changes of the signal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codec.evaluation.metrics.base import HIGHER, LOWER, Coded, Metric, Options, Unjudged
from codec.evaluation.edits import edits
from codec.evaluation.sound import Sound

NOISE, GAIN = -40.0, -3.0  # dB: white noise against the signal, and change of the level
SHIFTS = (0.25, 0.5)  # of a frame
NO_TOKENS = "the system has no tokens"
PRIOR = "prior"  # of the model, which entropy coding depends on
OWN = {"licence": "MIT (this project)", "level": "codes"}


class Repetition:
    metrics = (Metric("repetition", "Token repetition", "share of frames", LOWER, "frames with the same codes as the one before", **OWN),)

    def __init__(self, options: Options):
        pass

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        codes = _codes(coded)
        if codes.shape[1] < 2:
            raise Unjudged("it has a single frame")
        return {"repetition": float((codes[:, 1:] == codes[:, :-1]).all(0).mean())}


class Robustness:
    """1 - edit distance of frames / frames, between the codes of a recording and those of a changed one: with white noise 40 dB
    below it, shifted by a quarter and by half a frame (the mean), 3 dB quieter. A frame counts as another one when any of its
    codes is; with many codebooks that is soon so."""

    metrics = (
        Metric("robust-noise", "Robustness to noise", "share of frames kept", HIGHER, "1 - token edit distance, noise at -40 dB", **OWN),
        Metric("robust-shift", "Robustness to shifts", "share of frames kept", HIGHER, "1 - token edit distance, 1/4 and 1/2 frame", **OWN),
        Metric("robust-gain", "Robustness to gain", "share of frames kept", HIGHER, "1 - token edit distance, -3 dB", **OWN),
    )

    def __init__(self, options: Options):
        pass

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        codes = _codes(coded)
        if original.silent:
            raise Unjudged("it is silent")
        wav = original.wav
        frame = coded.frame_seconds * original.rate
        shifts = [wav[round(part * frame) :] for part in SHIFTS if round(part * frame) < len(wav)]
        noise = np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32)
        level = np.sqrt((wav.astype(np.float64) ** 2).mean()) * 10 ** (NOISE / 20)
        changed = {
            "robust-noise": [wav + np.float32(level) * noise], "robust-shift": shifts,
            "robust-gain": [wav * np.float32(10 ** (GAIN / 20))],
        }
        return {
            name: float(np.mean([kept(codes, coded.recode(each)) for each in signals])) for name, signals in changed.items() if signals
        }


class EntropyCoding:
    """What `codec encode --entropy` makes of the codes of one recording: its blocks with their checksums, without header and end of the
    file. Each block is coded by the model's prior or bit-packed, whichever is shorter; without a prior nothing is saved."""

    metrics = (
        Metric("coded", "After entropy coding", "kbit/s", LOWER, "blocks of the .tok file", weighted=True, option=PRIOR, **OWN),
        Metric("saved", "Saved by entropy coding", "% of the bits", HIGHER, "blocks of the .tok file, against bit-packed ones",
               weighted=True, digits=1, option=PRIOR, **OWN),
    )

    def __init__(self, options: Options):
        pass

    def __call__(self, original: Sound, coded: Coded) -> dict[str, tuple[float, float]]:
        if coded.blocks is None:
            raise Unjudged(NO_TOKENS)
        bits, packed = coded.blocks()
        return {"coded": (bits / 1000 / original.seconds, original.seconds), "saved": (100 * (1 - bits / packed), float(packed))}


class Usage:
    """Of the codes of all recordings together; computed by the report from the codes that a sweep keeps."""

    metrics = (
        Metric("utilisation", "Code utilisation", "share of entries used", HIGHER, "mean over the codebooks", OWN["licence"], level="set"),
        Metric("entropy", "Entropy of codes", "kbit/s", HIGHER, "sum over the codebooks, each by itself", OWN["licence"], level="set"),
        Metric("ngram", "Predictability", "kbit/s", LOWER, "cross-entropy of Kneser-Ney 4-grams of the other recordings", OWN["licence"], level="set"),
    )

    def __init__(self, options: Options):
        pass


def kept(first: np.ndarray, second: np.ndarray) -> float:
    """1 - edit distance / frames of codes (K, n) and (K, m), at least 0."""
    return max(0.0, 1 - edits(_frames(first), _frames(second)) / first.shape[1])


def _frames(codes: np.ndarray) -> Sequence[tuple[int, ...]]:
    return [tuple(frame) for frame in codes.T.tolist()]


def _codes(coded: Coded) -> np.ndarray:
    if coded.codes is None:
        raise Unjudged(NO_TOKENS)
    return coded.codes
