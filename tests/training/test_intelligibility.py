"""The STOI loss: the scores of the `pystoi` package to about a hundredth, safe gradients, at any rate from 10 kHz."""

import pytest
import soxr
import torch

import codec
from codec.training.losses import SpectralLosses



def loss(decoded, target, rate=16_000, extended=False):
    term = SpectralLosses(rate, [{"name": "stoi", "options": {"extended": extended}}])
    decoded, target = (wav if wav.dim() == 3 else wav.view(1, 1, -1) for wav in (decoded, target))
    return term(decoded, target).total


def noisy(speech, share):
    return speech + share * speech.std() * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("extended", [False, True])
def test_it_is_stoi_to_about_a_hundredth(speech, extended):
    stoi = pytest.importorskip("pystoi").stoi
    model = codec.load("speech-16k")
    tokens = model.encode(speech, sample_rate=16_000)
    worse = [model.decode(tokens.truncate(k)).flatten() for k in (1, 2, 4, 8)]
    for degraded in [*worse, noisy(speech, 0.5), noisy(speech, 2.0), 0.1 * speech]:
        theirs = stoi(speech.numpy(), degraded.numpy(), 16_000, extended=extended)
        assert 1 - loss(degraded, speech, extended=extended).item() == pytest.approx(theirs, abs=0.015)


def test_pauses_are_left_out(speech):
    pause = torch.zeros(32_000)
    generator = torch.Generator().manual_seed(1)
    hiss = 0.003 * torch.randn(32_000, generator=generator)  # 20 dB below the speech, but beside none
    half = len(speech) // 2
    target = torch.cat([speech[:half], pause, speech[half:]])
    decoded = torch.cat([noisy(speech, 0.5)[:half], hiss, noisy(speech, 0.5)[half:]])
    assert loss(decoded, target) == pytest.approx(loss(noisy(speech, 0.5), speech).item(), abs=0.005)


def test_items_without_speech_are_not_judged(speech):
    target, decoded = (wav[:32_000].view(1, 1, -1) for wav in (speech, noisy(speech, 0.5)))
    silence = 1e-3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(2))
    alone = loss(decoded, target)
    assert alone > 0.01
    assert loss(torch.cat([decoded, 0.1 * decoded]), torch.cat([target, silence])) == pytest.approx(alone.item(), rel=1e-5)
    assert loss(decoded, silence) == 0
    assert loss(decoded[..., :4800], target[..., :4800]) == 0  # 300 ms


@pytest.mark.parametrize("extended", [False, True])
def test_gradients_are_finite_where_nothing_moves(speech, extended):
    target = speech[8000:24_000].repeat(2, 1, 1)
    for start in (target, torch.zeros_like(target), torch.full_like(target, 0.5)):
        decoded = start.clone().requires_grad_()
        loss(decoded, target, extended=extended).backward()
        assert decoded.grad.isfinite().all()


@pytest.mark.parametrize("extended", [False, True])
def test_a_descent_along_its_gradient_lowers_it(speech, extended):
    target = speech[8000:24_000]
    start = noisy(target, 0.5)
    decoded = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([decoded], lr=1e-3)
    for _ in range(50):
        optimizer.zero_grad()
        loss(decoded, target, extended=extended).backward()
        optimizer.step()
    assert loss(decoded, target, extended=extended) < 0.7 * loss(start, target, extended=extended)


@pytest.mark.parametrize("rate", [12_000, 24_000, 44_100, 48_000])
def test_at_other_rates_it_judges_the_same_band(speech, rate):
    target, decoded = (torch.tensor(soxr.resample(wav.numpy(), 16_000, rate)) for wav in (speech, noisy(speech, 1.0)))
    assert loss(decoded, target, rate) == pytest.approx(loss(noisy(speech, 1.0), speech).item(), abs=0.01)


def test_telephone_rates_are_refused():
    with pytest.raises(ValueError, match="needs 10000 Hz or more, not 8000"):
        SpectralLosses(8000, [{"name": "stoi"}])
