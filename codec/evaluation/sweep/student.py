"""Student's t, for what few recordings tell."""

from __future__ import annotations

import math
from functools import lru_cache

LEVEL = 0.05


def beyond(t: float, freedom: int) -> float:
    """How likely Student's t is at least so large either way (Abramowitz and Stegun 26.7.3 and 26.7.4), to 1e-12."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, square = freedom % 2, math.cos(angle) ** 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(freedom // 2):
        total += term
        term *= square * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    inside = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + inside) if odd else inside))


@lru_cache(maxsize=4096)
def quantile(freedom: int) -> float:
    """The t that is exceeded either way in 5 of 100."""
    low, high = 1.9, 13.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle, freedom) > LEVEL else (low, middle)
    return high


def widening(n: int) -> float:
    """The bootstrap's standard error is that of n, where n - 1 values are free."""
    return math.sqrt(n / (n - 1))
