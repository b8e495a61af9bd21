"""The PESQ loss: the score of the `pesq` package to about a tenth, safe gradients, at any rate from 16 kHz."""

import math

import pytest
import soxr
import torch

import codec
from codec.training.losses import SpectralLosses



def loss(decoded, target, rate=16_000):
    return SpectralLosses(rate, [{"name": "pesq"}])(decoded.view(1, 1, -1), target.view(1, 1, -1)).total


def score(value):
    """PESQ-wb of a raw score: the map of P.862.2."""
    return 0.999 + 4 / (1 + math.exp(3.8224 - 1.3669 * (4.5 - value.item())))


def test_it_is_pesq_to_about_a_tenth(speech):
    pesq = pytest.importorskip("pesq").pesq
    model = codec.load("speech-16k")
    tokens = model.encode(speech, sample_rate=16_000)
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0)) * speech.std()
    worse = [model.decode(tokens.truncate(k)).flatten() for k in (1, 2, 4, 8)]
    for degraded in [*worse, speech + 0.03 * noise, speech + 0.1 * noise, 0.5 * speech]:
        theirs = pesq(16_000, speech.numpy(), degraded.numpy(), "wb")
        assert score(loss(degraded, speech)) == pytest.approx(theirs, abs=0.12)


def test_level_does_not_count_and_a_buzz_counts_more_than_a_gap(speech):
    assert loss(0.25 * speech, speech) == pytest.approx(0, abs=1e-3)
    spectrum = torch.fft.rfft(speech)
    band = slice(len(spectrum) // 4, len(spectrum) // 3)  # 2 to 2.7 kHz
    less, more = spectrum.clone(), spectrum.clone()
    less[band] *= 0.25
    more[band] *= 4.0
    quieter, louder = (torch.fft.irfft(s, n=len(speech)) for s in (less, more))
    assert loss(louder, speech) > 2 * loss(quieter, speech)  # 2.5; without counting what was added once more 1.6


def test_unlike_pesq_it_minds_a_lost_upper_band(speech):
    pesq = pytest.importorskip("pesq").pesq
    spectrum = torch.fft.rfft(speech)
    spectrum[len(spectrum) // 2 :] = 0  # 4 kHz
    dull = torch.fft.irfft(spectrum, n=len(speech))
    assert score(loss(dull, speech)) < 1.5 < 2.5 < pesq(16_000, speech.numpy(), dull.numpy(), "wb")


@pytest.mark.parametrize("rate", [22_050, 24_000, 44_100, 48_000])
def test_at_other_rates_it_judges_the_band_that_it_knows(speech, rate):
    generator = torch.Generator().manual_seed(0)
    degraded = speech + 0.05 * speech.std() * torch.randn(speech.shape, generator=generator)
    target, decoded = (torch.tensor(soxr.resample(wav.numpy(), 16_000, rate)) for wav in (speech, degraded))
    assert loss(decoded, target, rate) == pytest.approx(loss(degraded, speech).item(), rel=0.05)


def test_a_descent_along_its_gradient_lowers_it(speech):
    target = speech[8000:24_000]
    start = target + 0.1 * target.std() * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    decoded = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([decoded], lr=1e-4)
    for _ in range(50):
        optimizer.zero_grad()
        loss(decoded, target).backward()
        optimizer.step()
    assert loss(decoded, target) < 0.8 * loss(start, target)


def test_telephone_rates_are_refused():
    with pytest.raises(ValueError, match="needs 16000 Hz or more, not 8000"):
        SpectralLosses(8000, [{"name": "pesq"}])
