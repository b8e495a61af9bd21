"""Mel filters, as librosa's."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def mel_filters(rate: int, window: int, bands: int) -> np.ndarray:
    """Triangles of unit area on Slaney's mel scale (linear to 1 kHz, logarithmic above) up to half the rate, (bands, window // 2 + 1).

    Source: Slaney, "Auditory Toolbox", 1998; the values are those of `librosa.filters.mel`. Do not write into the result.
    """
    step = math.log(6.4) / 27
    top = rate / 2
    most = 15 + math.log(top / 1000) / step if top > 1000 else top * 3 / 200
    mels = np.linspace(0, most, bands + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))  # (bands + 2,) Hz
    bins = np.arange(window // 2 + 1) * rate / window
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = 2 / (edges[2:] - edges[:-2])
    filters = np.maximum(0, np.minimum(rising, falling)) * area[:, None]
    filters.setflags(write=False)
    return filters
