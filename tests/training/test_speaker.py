"""The speaker loss: the embeddings of 3D-Speaker's own CAM++, small for the same voice, safe gradients, at any rate from 16 kHz."""

from pathlib import Path

import pytest
import soundfile
import soxr
import torch

from codec.training.losses import SpectralLosses
from codec.training.speaker import Speaker

SPEECH = Path(__file__).parents[2] / "examples" / "speech.flac"
RATE = 16_000
# The first six of 192 numbers for the last two seconds of the example, by CAMPPlus of speakerlab 0.0.6 (3D-Speaker) with float32 weights
# and Kaldi's spectra without a floor
THEIRS = [0.2286, 0.4202, -0.1693, -0.1609, 0.6091, 0.2674]


@pytest.fixture(scope="module")
def speech():
    wav, rate = soundfile.read(SPEECH, dtype="float32", always_2d=True)
    return torch.tensor(soxr.resample(wav[:, 0], rate, RATE))


@pytest.fixture(scope="module")
def term():
    return Speaker(RATE)


def loss(decoded, target, rate=RATE):
    decoded, target = (wav if wav.dim() == 3 else wav.view(1, 1, -1) for wav in (decoded, target))
    return SpectralLosses(rate, [{"name": "speaker"}])(decoded, target).total


def test_embeddings_are_those_of_3d_speaker(speech, term):
    assert term.embeddings(speech[None, -32_000:])[0, :6].tolist() == pytest.approx(THEIRS, abs=0.02)


def test_spectra_are_kaldis(speech, term):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    theirs = kaldi.fbank(32_768 * speech[None], num_mel_bins=80, use_log_fbank=False).clamp_min(1.0).log()
    assert torch.allclose(term.spectra(speech[None])[0], theirs, atol=1e-3)


def test_the_same_voice_is_near_and_another_far(speech):
    first, second = speech[:40_000], speech[-40_000:]
    other = torch.tensor(soxr.resample(speech.numpy(), 22_400, RATE))[:40_000]  # 1.4 times as high and fast: another person
    assert loss(first, first).item() == pytest.approx(0, abs=1e-5)
    assert loss(second, first) < 0.5 < 0.6 < loss(other, first)


def test_loudness_is_no_voice(speech):
    noisy = speech + 0.01 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    assert loss(0.05 * noisy, 0.05 * speech).item() == pytest.approx(loss(noisy, speech).item(), abs=1e-3)


def test_a_descent_comes_nearer(speech):
    target = speech[:16_000]
    moved = (target + 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    before = loss(moved, target)
    (gradient,) = torch.autograd.grad(before, moved)
    assert loss(moved - 0.02 * gradient / gradient.norm(), target) < before


def test_gradients_are_finite_where_there_is_silence(speech):
    target = torch.stack([speech[:16_000], torch.zeros(16_000)]).unsqueeze(1)
    decoded = torch.zeros_like(target).requires_grad_()
    loss(decoded, target).backward()
    assert decoded.grad.isfinite().all() and (decoded.grad[1] == 0).all()
    assert loss(speech[:16_000], torch.zeros(16_000)) == 0


def test_too_short_to_know(speech):
    assert loss(speech[8_000:12_000], speech[:4_000]) == 0
    assert loss(speech[20_000:25_000], speech[10_000:15_000]) > 0


def test_each_target_is_looked_at(speech):
    losses = SpectralLosses(RATE, [{"name": "speaker"}])
    a, b = speech[:40_000].view(1, 1, -1), speech[-40_000:].view(1, 1, -1)
    apart = losses(b, a).total
    assert losses(a, a).total < 1e-5 < apart and losses(b, b).total < 1e-5 and losses(b, a).total == apart


def test_other_rates_hear_the_same(speech):
    noisy = speech + 0.01 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    faster = [torch.tensor(soxr.resample(wav.numpy(), RATE, 24_000)) for wav in (noisy, speech)]
    assert loss(*faster, rate=24_000).item() == pytest.approx(loss(noisy, speech).item(), abs=0.05)


def test_no_telephones():
    with pytest.raises(ValueError, match="needs 16000 Hz or more, not 8000; leave it out"):
        Speaker(8_000)


def test_it_is_no_part_of_what_trains(term):
    assert not list(term.parameters()) and not term.state_dict()
