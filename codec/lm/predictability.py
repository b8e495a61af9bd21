"""How well n-grams predict tokens: bits a code, and bits a second of audio, without a network to train.

    found = predictability.cross_validated(codes, model.codebook_sizes, model.frame_rate)     # codes: a list of (K, frames)
    found.first, found.total                    # bits a second, of codebook 1 alone and of all
    found.first / found.first_entropy           # what is left of the entropy when the three codes before are known

Fewer bits are easier for a language model, but a tokenizer that uses few of its codes, or always the same, has few bits as well:
beside the bits stands the entropy that the same codes have without any context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Codes = Sequence[np.ndarray]


@dataclass(frozen=True)
class Predictability:
    """Bits a second of audio in recordings that the n-grams have not seen.

    first: of codebook 1, from its own codes before; total: of all codebooks, from the second on each from the one below and its
    own before.
    first_entropy, total_entropy: order 0, of how often each code occurs in these recordings (biased down for few frames).
    bits, entropy: bits a code of each codebook.
    """

    first: float
    total: float
    first_entropy: float
    total_entropy: float
    bits: tuple[float, ...]
    entropy: tuple[float, ...]


def cross_validated(
    recordings: Codes, sizes: Sequence[int], frame_rate: float, order: int = 4, folds: int = 5
) -> Predictability:
    """Predict each fold of the recordings, every `folds`-th one, from the others.

    recordings: codes (K, frames) of each. sizes: entries of the codebooks. frame_rate: frames a second. order: 1 knows
    frequencies, 2 the code before, ...; 4 is usual.
    Raises ValueError for fewer recordings than folds, and for codes that are not of these codebooks.
    """
    if not 2 <= folds <= len(recordings):
        raise ValueError(f"{len(recordings)} recordings in {folds} folds: give 2 folds or more, and a recording for each")
    parts = [recordings[fold::folds] for fold in range(folds)]
    bits, frames = np.zeros(len(sizes)), sum(codes.shape[1] for codes in recordings)
    for fold, part in enumerate(parts):
        others = [codes for number, other in enumerate(parts) if number != fold for codes in other]
        bits += np.sum(ngram_bits(others, part, sizes, order), 0)
    bits /= frames
    order0 = entropy(recordings, sizes)
    return Predictability(
        frame_rate * bits[0], frame_rate * bits.sum(), frame_rate * order0[0], frame_rate * order0.sum(),
        tuple(bits), tuple(order0),
    )


def ngram_bits(known: Codes, heldout: Codes, sizes: Sequence[int], order: int, below: bool = True) -> np.ndarray:
    """(recordings, K) float64: bits of all codes of each codebook in each held-out recording, by n-grams of the known ones.

    order: n. below: whether codebooks from the second on are told the code of the same frame in the codebook below, which
    takes the place of one of their own before.
    Raises ValueError for codes that are not of these codebooks, and for none.
    """
    if order < 1:
        raise ValueError(f"order={order}: at least 1 is needed, which knows how often each code occurs")
    if not sum(codes.shape[1] for codes in known):
        raise ValueError("there are no codes to learn from: give at least one recording")
    bits = np.zeros((len(heldout), len(sizes)))
    lengths = [_checked(codes, sizes).shape[1] for codes in heldout]
    for codes in known:
        _checked(codes, sizes)
    for book, size in enumerate(sizes):
        gram = NGram(*_examples(known, book, sizes, order, below), size)
        each = gram.bits(*_examples(heldout, book, sizes, order, below))
        bits[:, book] = [part.sum() for part in np.split(each, np.cumsum(lengths)[:-1])]
    return bits


def entropy(recordings: Codes, sizes: Sequence[int]) -> np.ndarray:
    """(K,): bits a code, of how often each occurs."""
    found = []
    for book, size in enumerate(sizes):
        counts = np.bincount(np.concatenate([codes[book] for codes in recordings]), minlength=size)
        shares = counts[counts > 0] / counts.sum()
        found.append(-(shares * np.log2(shares)).sum())
    return np.array(found)


class NGram:
    """Interpolated Kneser-Ney with one discount an order (Kneser and Ney 1995; Chen and Goodman 1999, section 4.1), down to the
    uniform distribution, so that no code is impossible.

    target (N,): what came, 0 to size - 1; contexts (N, n - 1): what was known then, the most telling first.
    """

    def __init__(self, target: np.ndarray, contexts: np.ndarray, size: int):
        self.size = size
        self.base = int(contexts.max(initial=0)) + 1
        self._levels: list[_Level] = []
        place = np.zeros(len(target), np.int64)  # number of each example's context, among those of this order
        keys = [np.zeros(1, np.int64)]  # what these numbers stand for
        pairs = [place * size + target]
        for column in contexts.T:
            found, place = np.unique(place * self.base + column, return_inverse=True)
            keys.append(found)
            pairs.append(place * size + target)
        counts = None  # of longer contexts that each pair has been seen in, below the longest
        for level in range(len(keys) - 1, -1, -1):
            if counts is None:
                seen, counts = np.unique(pairs[level], return_counts=True)
            else:
                parent = keys[level + 1] // self.base  # context without its last element
                shorter = parent[seen // size] * size + seen % size
                seen, counts = np.unique(shorter, return_counts=True)
            self._levels.insert(0, _Level(keys[level], seen, counts, size))

    def bits(self, target: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """(N,) float64: -log2 of the probability of each target."""
        chance = np.full(len(target), 1 / self.size)
        place, known = np.zeros(len(target), np.int64), np.ones(len(target), bool)
        for level, data in enumerate(self._levels):
            if level:
                column = contexts[:, level - 1]
                wanted = place * self.base + column
                place = np.minimum(np.searchsorted(data.contexts, wanted), len(data.contexts) - 1)
                known &= (data.contexts[place] == wanted) & (column < self.base)
            chance = np.where(known, data.chance(place, target, chance), chance)
        return -np.log2(chance)


class _Level:
    """Counts of one order: `pairs` of context and code, `counts` of each."""

    def __init__(self, contexts: np.ndarray, pairs: np.ndarray, counts: np.ndarray, size: int):
        self.contexts, self.pairs, self.counts, self.size = contexts, pairs, counts, size
        own = pairs // size
        self.total = np.bincount(own, counts, len(contexts))
        self.kinds = np.bincount(own, minlength=len(contexts))
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        self.discount = (once + 0.5) / (once + 2 * twice + 1)  # within 0 and 1 even where nothing occurs once

    def chance(self, place: np.ndarray, target: np.ndarray, lower: np.ndarray) -> np.ndarray:
        wanted = place * self.size + target
        at = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        count = np.where(self.pairs[at] == wanted, self.counts[at] - self.discount, 0)
        return (count + self.discount * self.kinds[place] * lower) / self.total[place]


def _examples(recordings: Codes, book: int, sizes: Sequence[int], order: int, below: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N,) of a codebook, and (N, order - 1) what is known before each; `size` where the recording has not begun."""
    target = np.concatenate([codes[book] for codes in recordings]).astype(np.int64)
    columns = [[codes[book - 1] for codes in recordings]] if below and book else []
    for back in range(1, order):
        columns.append([np.r_[np.full(min(back, codes.shape[1]), sizes[book]), codes[book, :-back]] for codes in recordings])
    columns = [np.concatenate(column).astype(np.int64) for column in columns[: order - 1]]
    return target, np.stack(columns, 1) if columns else np.zeros((len(target), 0), np.int64)


def _checked(codes: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    if codes.ndim != 2 or len(codes) != len(sizes) or not codes.shape[1]:
        raise ValueError(f"codes have shape {codes.shape}: each recording has (K, frames), K = {len(sizes)}, and a frame or more")
    if codes.min() < 0 or (codes.max(1) >= np.asarray(sizes)).any():
        raise ValueError(f"codes go from {codes.min()} to {codes.max()}: are these the codebooks, of up to {max(sizes)} entries?")
    return codes
