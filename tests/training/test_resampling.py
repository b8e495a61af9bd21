"""Resampling of training crops against soxr, which resamples everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.audio import resample
from codec.training.resampling import Resampling


@pytest.mark.parametrize("rates", [(24_000, 16_000), (16_000, 24_000), (44_100, 16_000)])
@pytest.mark.parametrize("samples", [1, 997, 4800])
def test_as_soxr(rates, samples):
    """Of what both pass: tones up to 80 % of the narrower band, away from the ends."""
    time = np.arange(samples) / rates[0]
    tones = np.linspace(50, 0.4 * min(rates), 9)[:, None]
    wav = np.sin(2 * np.pi * tones * time + tones).sum(0, keepdims=True).astype(np.float32) / 9
    ours = Resampling(*rates)(torch.from_numpy(wav)[None])[0]
    expected = torch.from_numpy(resample(wav, *rates))
    assert ours.shape == expected.shape
    edge = 150
    torch.testing.assert_close(ours[:, edge:-edge], expected[:, edge:-edge], rtol=0, atol=2e-4)


def test_what_does_not_fit_is_gone_and_equal_rates_pass():
    time = torch.arange(9600, dtype=torch.float64) / 24_000
    high = Resampling(24_000, 16_000)(torch.sin(2 * torch.pi * 9000 * time).float()[None, None])
    assert high[..., 150:-150].abs().max() < 1e-4
    wav = torch.randn(2, 1, 50)
    assert Resampling(16_000, 16_000)(wav) is wav
