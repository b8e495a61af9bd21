"""Fitting a prior to the codes of residual codebooks, which add up to what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from codec.allocation import check_quantizer
from codec.entropy.fitting import fit_prior
from codec.entropy.prior import Prior
from codec.model import Codec

LEARNING_RATE, WIDTH, HIDDEN, ORDER = 2e-3, 32, 128, 4


def fit_residual(
    model: Codec, recordings: Sequence[Tensor | np.ndarray], epochs: int = 3, seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Prior:
    """A prior for all codebooks of a model, which is told what the codes of a frame and of four before it stand for, as `fit_prior`.

    recordings: codes (K, T) of each. Raises ValueError for other codebooks than plain residual ones.
    """
    check_quantizer(model)
    return fit_prior(
        recordings, model.spec, model.num_codebooks, WIDTH, HIDDEN, epochs=epochs, learning_rate=LEARNING_RATE, seed=seed,
        progress=progress, vectors=model.quantizer.codebooks, order=ORDER,
    )
