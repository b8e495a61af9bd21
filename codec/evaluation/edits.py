"""The edit distance of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def edits(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions that make `b` of `a`."""
    places = {symbol: number for number, symbol in enumerate(dict.fromkeys([*a, *b]))}
    first, second = (np.array([places[symbol] for symbol in each], dtype=np.int64) for each in (a, b))
    steps = np.arange(len(second) + 1)
    row = steps
    for number, symbol in enumerate(first, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (second != symbol))
        row = np.minimum.accumulate(np.concatenate([[number], best]) - steps) + steps  # insertions, left to right
    return int(row[-1])
