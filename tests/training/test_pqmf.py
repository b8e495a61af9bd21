"""The filter bank separates bands and gives the waveform back."""

import math

import pytest
import torch

from codec.training.pqmf import PQMF


def noise(samples=6000, items=2):
    return 0.1 * torch.randn(items, samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bands", [2, 4, 6, 8])
@pytest.mark.parametrize("samples", [6000, 6001, 6005])
def test_synthesis_of_analysis_is_the_waveform_60_db_down(bands, samples):
    pqmf, wav = PQMF(bands), noise(samples)
    parts = pqmf.analysis(wav)
    assert parts.shape == (2, bands, math.ceil(samples / bands))
    again = pqmf.synthesis(parts, samples)
    assert again.shape == wav.shape
    inside = slice(20 * bands, -20 * bands)  # filters reach beyond the ends
    error = (again - wav)[:, inside].square().mean() / wav[:, inside].square().mean()
    assert 10 * math.log10(error) < -60


@pytest.mark.parametrize("band", range(6))
def test_a_tone_is_in_its_band_alone(band):
    tone = torch.sin(math.pi * (band + 0.5) / 6 * torch.arange(6000)).unsqueeze(0)
    power = PQMF(6).analysis(tone)[0, :, 50:-50].square().mean(-1)
    assert power[band] == pytest.approx(0.5, rel=0.01)
    others = torch.cat([power[:band], power[band + 1 :]])
    assert 10 * math.log10(others.max()) < -75  # neighbours at their edges; Kaiser's side lobes


def test_bands_share_the_power_of_white_noise():
    wav = noise(60_000)
    power = PQMF(6).analysis(wav).square().mean((0, 2))
    torch.testing.assert_close(power, (wav.square().mean() / 6).expand(6), rtol=0.05, atol=0)


@pytest.mark.parametrize("bands, taps", [(1, None), (0, None), (6, 40), (6, 97)])
def test_banks_that_do_not_work_are_refused(bands, taps):
    with pytest.raises(ValueError, match="even number of taps from"):
        PQMF(bands, taps)
