"""Bits of n-grams against counts written down in dictionaries, sequences whose entropy is known, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from codec.lm import predictability


def kneser_ney(examples: list[tuple[int, ...]], size: int, target: int, context: tuple[int, ...]) -> float:
    """Probability of a target, from examples (target, nearest context, next ...); straight from the definition."""
    chance = 1 / size
    longest = len(context)
    for order in range(longest + 1):
        if order == longest:
            counts = Counter(examples)
        else:  # in how many longer contexts
            counts = Counter(longer[: order + 1] for longer in {example[: order + 2] for example in examples})
        own = {example: count for example, count in counts.items() if example[1:] == context[:order]}
        if not own:
            break
        once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
        discount = (once + 0.5) / (once + 2 * twice + 1)
        seen = own.get((target, *context[:order]), 0)
        chance = (max(seen - discount, 0) + discount * len(own) * chance) / sum(own.values())
    return chance


@pytest.mark.parametrize("order, below", [(1, False), (2, False), (3, True), (4, True), (4, False)])
def test_bits_are_those_of_the_definition(order, below):
    rng = np.random.default_rng(order)
    sizes = (4, 5)
    lengths = ((30, 1, 17), (12, 2))
    known, told = ([np.stack([rng.integers(size, size=n) for size in sizes]) for n in each] for each in lengths)

    def examples(codes, book):
        found = []
        for t in range(codes.shape[1]):
            own = [int(codes[book, t - back]) if t >= back else sizes[book] for back in range(1, order)]
            lower = [int(codes[0, t])] if below and book else []
            found.append((int(codes[book, t]), *(lower + own)[: order - 1]))
        return found

    bits = predictability.ngram_bits(known, told, sizes, order, below)
    for book, size in enumerate(sizes):
        seen = [example for codes in known for example in examples(codes, book)]
        for row, codes in enumerate(told):
            wanted = -sum(math.log2(kneser_ney(seen, size, target, tuple(rest))) for target, *rest in examples(codes, book))
            assert bits[row, book] == pytest.approx(wanted, rel=1e-9)


def test_probabilities_of_all_codes_sum_to_one():
    rng = np.random.default_rng(0)
    target, contexts = rng.integers(6, size=200), rng.integers(5, size=(200, 2))
    gram = predictability.NGram(target, contexts, 6)
    for context in itertools.product(range(7), repeat=2):  # 5 and 6 have never been seen
        bits = gram.bits(np.arange(6), np.tile(context, (6, 1)))
        assert (2**-bits).sum() == pytest.approx(1)


def test_what_is_known_of_some_sequences():
    rng = np.random.default_rng(0)
    cycle = [np.arange(start, start + 400)[None] % 16 for start in range(6)]
    found = predictability.cross_validated(cycle, [16], 50.0, folds=3)
    assert found.first < 2 and found.first_entropy == pytest.approx(200, rel=1e-3) and found.total == found.first
    noise = [rng.integers(16, size=(2, 4000)) for _ in range(5)]
    found = predictability.cross_validated(noise, [16, 16], 50.0, order=1)
    assert found.total == pytest.approx(2 * 50 * 4, rel=0.01) and found.total >= found.total_entropy
    copied = [np.concatenate([codes[:1], codes[:1]]) for codes in noise]  # codebook 2 tells nothing that 1 has not told
    found = predictability.cross_validated(copied, [16, 16], 50.0)
    assert found.bits[1] < 0.1 and found.entropy[1] == pytest.approx(4, abs=0.01) and found.total < 1.2 * found.first


def test_recordings_are_not_run_together():
    known = [np.array([[0, 1]]), np.array([[0, 1]])] * 20
    after_start, unseen = (predictability.ngram_bits(known, [np.array([codes])], [2], 2)[0, 0] for codes in ([0], [1]))
    assert after_start < 0.1 and unseen > 3


@pytest.mark.parametrize("call, words", [
    (lambda: predictability.cross_validated([np.zeros((1, 3), int)] * 4, [2], 50.0), "4 recordings in 5 folds"),
    (lambda: predictability.ngram_bits([np.zeros((1, 3), int)], [], [2], 0), "order=0"),
    (lambda: predictability.ngram_bits([], [np.zeros((1, 3), int)], [2], 1), "at least one recording"),
    (lambda: predictability.ngram_bits([np.zeros((2, 3), int)], [], [2], 1), "K = 1"),
    (lambda: predictability.ngram_bits([np.full((1, 3), 2)], [], [2], 1), "codes go from 2 to 2"),
])
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
