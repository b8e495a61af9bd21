"""MAGNeT's masked spans against the paper's formula and against counting."""

from __future__ import annotations

import math

import pytest
import torch

from codec.lm import spans


def test_schedules():
    rates = spans.rates(4)
    assert rates[0] == 1 and rates == sorted(rates, reverse=True) and rates[2] == pytest.approx(math.sqrt(0.5))
    assert spans.training_rate(0) == 1 and spans.training_rate(1) == pytest.approx(0)


@pytest.mark.parametrize("frames, span", [(50, 3), (7, 3), (500, 5), (20, 1), (4, 9)])
def test_the_number_of_spans_comes_nearest_to_the_rate(frames, span):
    def masked(count):
        return 1 - math.comb(max(0, frames - span), count) / math.comb(frames, count)

    for rate in (0, 0.01, 0.3, 0.5, 0.77, 0.99):
        errors = [abs(masked(count) - rate) for count in range(frames + 1)]
        assert errors[spans.span_count(frames, rate, span)] == pytest.approx(min(errors))
    assert spans.span_count(frames, 1, span) == frames and spans.span_count(0, 0.5, span) == 0


def test_random_spans():
    generator = torch.Generator().manual_seed(0)
    lengths = [400, 0, 100, 1]
    mask = torch.stack([spans.random_spans(lengths, [0.5, 0.5, 0.2, 1.0], 3, generator) for _ in range(50)])
    assert mask.shape == (50, 4, 400) and not mask[:, 1].any() and not mask[:, 2, 100:].any() and mask[:, 3, 0].all()
    assert mask[:, 0].float().mean() == pytest.approx(0.5, abs=0.01)
    assert mask[:, 2, :100].float().mean() == pytest.approx(0.2, abs=0.02)
    for row in mask[0, 0, :-3].tolist(), mask[1, 0, :-3].tolist():  # none is shorter than three frames, but at the end
        runs = "".join("x" if one else " " for one in row).split()
        assert min(map(len, runs[:-1])) >= 3
    assert spans.random_spans([9, 5], 1.0).sum(1).tolist() == [9, 5] and not spans.random_spans([9], 0.0).any()
    assert spans.random_spans([], 0.5).shape == (0, 0)


def test_the_least_likely_spans_are_masked_again():
    scores = torch.full((2, 30), 0.9)
    scores[0, 10:16] = 0.1
    scores[1, 27:] = 0.2
    rate = 1 - math.comb(27, 2) / math.comb(30, 2)  # two spans
    mask = spans.unlikely_spans(scores, rate)
    assert mask[0].nonzero().flatten().tolist() == [10, 11, 12, 13] and mask[1, 27:].all() and mask[1].sum() == 3
    assert spans.unlikely_spans(scores, 1.0).all() and spans.unlikely_spans(torch.zeros(2, 0), 0.5).shape == (2, 0)


@pytest.mark.parametrize("call", [
    lambda: spans.rates(0), lambda: spans.training_rate(2), lambda: spans.span_count(5, 1.5), lambda: spans.span_count(5, 0.5, 0),
    lambda: spans.random_spans([5, 5], [0.5]), lambda: spans.unlikely_spans(torch.zeros(5), 0.5),
])
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError):
        call()
