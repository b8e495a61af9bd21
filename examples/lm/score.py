"""Bits that held-out codes take: by the language model, by n-grams of the same training codes, and by how often each occurs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.evaluation.sweep.summary import Resamples
from codec.lm import predictability
from codec.lm.patterns import Pattern

from data import steps
from network import TokenLM

Recordings = dict[str, Tensor]


@torch.no_grad()
def score(lm: TokenLM, learned: Recordings, heldout: Recordings, pattern: Pattern, frame_rate: float) -> dict[str, Any]:
    """Bits a code of each codebook, and bits a second of the first alone and of all, with 95 % intervals over recordings.

    unigram, bigram: n-grams of each codebook alone; 4-gram: those of `codec.lm.predictability`; entropy: of order 0, of the
    held-out codes themselves. recordings: bits of each codebook (K,) in each recording by the language model.
    """
    sizes = pattern.codebook_sizes
    known, told = ([codes.numpy() for codes in part.values()] for part in (learned, heldout))
    bits = {
        "unigram": predictability.ngram_bits(known, told, sizes, 1, below=False),
        "bigram": predictability.ngram_bits(known, told, sizes, 2, below=False),
        "4-gram": predictability.ngram_bits(known, told, sizes, 4),
        "language model": np.stack([of_network(lm, codes, pattern) for codes in heldout.values()]),
    }
    frames = np.array([codes.shape[1] for codes in told])
    entropy = predictability.entropy(told, sizes)
    found: dict[str, Any] = {
        "frames": int(frames.sum()), "frame_rate": frame_rate,
        "entropy": {
            "a code": rounded(entropy), "first": round(frame_rate * entropy[0], 2), "all": round(frame_rate * entropy.sum(), 2),
        },
    }
    resamples = Resamples(list(heldout))
    for name, each in bits.items():
        rates = {"first": frame_rate * each[:, 0] / frames, "all": frame_rate * each.sum(1) / frames}
        found[name] = {"a code": rounded(each.sum(0) / frames.sum())} | {
            what: resamples.estimate({file: (rate, count) for file, rate, count in zip(heldout, values, frames)})
            for what, values in rates.items()
        }
        for what in rates:
            found[name][what] = {key: round(value, 3) for key, value in found[name][what].items()}
            found[name][what]["of entropy"] = round(found[name][what]["mean"] / found["entropy"][what], 4)
    found["recordings"] = {
        name: {"frames": int(count), "bits": rounded(each)} for name, count, each in zip(heldout, frames, bits["language model"])
    }
    return found


def of_network(lm: TokenLM, codes: Tensor, pattern: Pattern) -> np.ndarray:
    """(K,): bits of all codes of each codebook of a recording."""
    return lm.losses(steps(codes, pattern)[None])[0].double().sum(1).numpy() / math.log(2)


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
