"""The constant-Q transform: tones land in their bins at the right level, frames at the right time."""

import math

import pytest
import torch

from discriminators.cqt import HALF_BAND_TAPS, ConstantQ, half_band_filter

RATE = 16_000


def tone(hertz, seconds=2.0, rate=RATE):
    return torch.sin(2 * math.pi * hertz / rate * torch.arange(round(seconds * rate))).view(1, 1, -1)


def magnitudes(transform, wav):
    """(B, N, bins of all octaves)"""
    return torch.cat(transform(wav), dim=-1).square().sum(1).sqrt()


@pytest.mark.parametrize("rate, octaves, bins", [(16_000, 8, 12), (24_000, 9, 24), (16_000, 6, 24), (44_100, 9, 12)])
def test_a_tone_lands_in_its_bin_with_half_its_amplitude_times_the_kernels_gain(rate, octaves, bins):
    transform = ConstantQ(rate, 512, octaves, bins)
    quality = 1 / (2 ** (1 / bins) - 1)
    for index in range(bins, octaves * bins, 7):
        hertz = 32.703 * 2 ** (index / bins)
        if hertz < 0.4 * rate:
            spectrum = magnitudes(transform, tone(hertz, rate=rate))[0]
            middle = spectrum[len(spectrum) // 2]
            assert middle.argmax() == index
            assert middle[index] == pytest.approx(0.5 * math.sqrt(quality * rate / hertz / 1.5), rel=0.01)


def test_every_octave_is_the_direct_sum_at_the_full_rate():
    """Halving the rate and short kernels change nothing: each bin is compared with its defining sum."""
    transform = ConstantQ(RATE, 256, 5, 12, f_min=110.0)
    wav = torch.randn(1, 1, 9000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum = torch.cat(transform(wav), dim=-1)[0]  # (2, N, 60)
    quality, frame = 1 / (2 ** (1 / 12) - 1), 18
    for index in range(0, 60, 5):
        hertz = 110.0 * 2 ** (index / 12)
        length = quality * RATE / hertz
        time = torch.arange(9000, dtype=torch.float64) - 256 * frame
        window = torch.where(time.abs() < length / 2, 0.5 + 0.5 * torch.cos(2 * math.pi * time / length), 0.0)
        window = window / window.sum() * math.sqrt(length / 1.5)
        phase = 2 * math.pi * hertz / RATE * time
        expected = torch.stack([(wav[0, 0] * window * phase.cos()).sum(), -(wav[0, 0] * window * phase.sin()).sum()])
        torch.testing.assert_close(spectrum[:, frame, index], expected.float(), rtol=0, atol=2e-3)


def test_noise_keeps_its_level_in_every_bin():
    wav = torch.randn(8, 1, 48_000, generator=torch.Generator().manual_seed(0))
    power = magnitudes(ConstantQ(RATE, 256, 4, 12, f_min=300.0), wav)[:, 20:-20].square().mean((0, 1))
    assert power.min() > 0.85 and power.max() < 1.15


def test_a_click_is_found_at_its_frame_and_held_shorter_by_higher_octaves():
    wav = torch.zeros(1, 1, 16_000)
    wav[..., 20 * 256] = 1.0
    octaves = [z.square().sum((1, 3))[0] for z in ConstantQ(RATE, 256, 5, 12, f_min=200.0)(wav)]
    assert all(octave.argmax() == 20 for octave in octaves)
    spread = [(octave > 0.01 * octave.max()).sum().item() for octave in octaves]
    assert spread == sorted(spread, reverse=True) and spread[0] > spread[-1]


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 5000])
def test_frames_of_all_octaves_agree(samples):
    spectra = ConstantQ(RATE, 256, 8, 12)(torch.randn(2, 1, samples))
    assert [tuple(z.shape) for z in spectra] == [(2, 2, math.ceil(samples / 256), 12)] * 8


def test_nothing_lives_above_half_the_sample_rate():
    transform = ConstantQ(RATE, 256, 8, 12, f_min=45.0)  # up to 11.5 kHz
    wav = torch.randn(1, 1, 16_000)
    power = magnitudes(transform, wav)[0].square().mean(0)
    frequencies = 45.0 * 2 ** (torch.arange(96) / 12)
    assert power[frequencies > 10_500].max() < 1e-4 and power[frequencies < 6000].min() > 0.1


def test_the_half_band_filter_is_flat_then_closed():
    taps = half_band_filter()
    response = torch.fft.rfft(taps, 4096).abs()
    frequency = torch.linspace(0, 0.5, 2049)
    assert len(taps) == HALF_BAND_TAPS and (response[frequency <= 0.2] - 1).abs().max() < 1e-3
    assert response[frequency >= 0.3].max() < 1e-3


def test_gradient_reaches_every_sample():
    wav = torch.randn(1, 1, 3000, requires_grad=True)
    sum(z.square().sum() for z in ConstantQ(RATE, 256, 8, 12)(wav)).backward()
    assert torch.isfinite(wav.grad).all() and (wav.grad != 0).all()
