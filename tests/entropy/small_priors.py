"""Priors of random whole numbers, and codes as they would have them."""

from __future__ import annotations

import numpy as np

from codec.entropy import Prior
from codec.entropy.ans import SCALE
from codec.entropy.prior import Context


def random_prior(sizes, width=4, hidden=8, seed=0, scale=60, context=Context(2)) -> Prior:
    rng = np.random.default_rng(seed)
    tensors = {}
    for k, size in enumerate(sizes):
        tensors[f"embedding.{k}"] = rng.integers(-127, 128, (size, width)).astype(np.int8)
        tensors[f"hidden.{k}.weight"] = rng.integers(-scale, scale + 1, (hidden, width * context.num_inputs(k))).astype(np.int8)
        tensors[f"hidden.{k}.bias"] = rng.integers(-3000, 3000, hidden).astype(np.int32)
        tensors[f"output.{k}.weight"] = rng.integers(-scale, scale + 1, (size, hidden)).astype(np.int8)
        tensors[f"output.{k}.bias"] = rng.integers(-2000, 2000, size).astype(np.int32)
    return Prior(tensors)


def likely_codes(prior, sizes, frames, channels=1, seed=0) -> np.ndarray:
    """Codes (channels, K, frames) drawn from the prior itself, so that it saves bits on them; any beyond its codebooks."""
    rng = np.random.default_rng(seed)
    order = prior.context.order
    rows = np.stack([rng.integers(0, size, (order + frames, channels)) for size in (*sizes, *prior.sizes[len(sizes) :])])
    rows[: len(prior.sizes), :order] = np.array(prior.sizes)[:, None, None]
    rows[len(sizes) :] = np.array(prior.sizes[len(sizes) :])[:, None, None]  # which are none
    for t in range(order, order + frames):
        for k in range(min(len(sizes), len(prior.sizes))):
            table = prior.frequencies(k, [rows[:, t - o] for o in range(1, order + 1)], rows[:, t])
            places = rng.integers(0, 1 << SCALE, (channels, 1))
            rows[k, t] = (np.cumsum(table, axis=1) <= places).sum(axis=1)
    return rows[: len(sizes), order:].transpose(2, 0, 1).copy()
