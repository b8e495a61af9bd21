"""The speaker loss: the embeddings of 3D-Speaker's own CAM++, small for the same voice, safe gradients, at any rate from 16 kHz; and what its
blocks hear on the way."""

import pytest
import soxr
import torch

from codec.training.losses import SpectralLosses
from codec.training.speaker import Speaker

RATE = 16_000
# Hundredths of the embedding of the example's last five seconds by CAMPPlus of speakerlab 0.0.6 (3D-Speaker) with the weights in
# float32, from Kaldi's spectra without a floor. Masks of 500 frames instead of 100 would come to a cosine of 0.9975.
THEIRS = torch.tensor([
    36, 31, -8, -19, 82, 58, -1, 81, 19, 17, -16, 18, -80, -52, -16, -70, 87, 28, -38, -14, 10, -83, -2, 14, -65, -88, -33, 61,
    22, -37, -58, -36, 24, 40, -9, 103, 1, -18, 62, 162, -49, 27, -22, -31, 68, 85, 34, 20, 62, -10, 22, 30, 78, 74, -20, -5,
    -52, -48, 23, 137, 42, 22, 60, 122, 32, -51, 36, -23, -17, -9, 92, -32, 25, 18, -87, 14, 47, -35, 24, 52, -99, -30, 109,
    -29, 55, -29, -32, 57, 13, -98, 6, 96, 127, -94, 28, -40, 84, -69, 44, 5, 108, 45, 99, -42, -31, 30, -75, -41, -30, 25, 43,
    29, -7, 67, -21, 9, 35, 24, 21, 55, 25, -2, 31, 20, -79, -14, 0, 27, 18, -23, -23, -57, -9, -45, -43, 103, -11, -57, 9, -40,
    7, -4, -8, -26, 2, 71, 64, -12, 61, -38, -76, 0, 6, 54, -11, 16, 27, -11, -37, 119, -34, -23, -29, 67, 17, -6, -10, 14, -15,
    85, 62, -60, 42, -5, -9, -44, -33, -45, 133, 10, -10, 20, 19, 26, 43, -21, -7, -2, 36, 2, -33, 6,
]) / 100


@pytest.fixture(scope="module")
def term():
    return Speaker(RATE)


def loss(decoded, target, rate=RATE, features=0.0):
    decoded, target = (wav if wav.dim() == 3 else wav.view(1, 1, -1) for wav in (decoded, target))
    return SpectralLosses(rate, [{"name": "speaker", "options": {"features": features}}])(decoded, target).total


def test_embeddings_are_those_of_3d_speaker(speech, term):
    assert torch.cosine_similarity(term.heard(speech[None, -80_000:]).embedding[0], THEIRS, dim=0) > 0.9995


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


def test_nothing_random_is_drawn(speech):
    before = torch.get_rng_state()
    loss(speech[8_000:24_000], speech[:16_000])
    assert torch.equal(torch.get_rng_state(), before)


def test_it_computes_in_what_it_is_given(term, speech):
    wav = speech[None, :16_000]
    precise = Speaker(RATE).double().heard(wav.double()).embedding
    assert precise.dtype == torch.float64 and torch.allclose(precise.float(), term.heard(wav).embedding, atol=1e-3)


def test_it_is_no_part_of_what_trains(term):
    assert not list(term.parameters()) and not term.state_dict()


def test_features_are_what_each_block_makes(speech, term):
    seen, layers = [], term._network[0].xvector
    hooks = [block.register_forward_hook(lambda _, __, made: seen.append(made)) for block in (layers.block1, layers.block2, layers.block3)]
    heard = term.heard(torch.stack([speech[:32_000], speech[-32_000:]]))
    for hook in hooks:
        hook.remove()
    assert [tuple(block.shape) for block in heard.blocks] == [(2, channels, 99) for channels in (512, 1024, 1024)]
    assert all(torch.equal(block, made) for block, made in zip(heard.blocks, seen, strict=True))


def test_features_join_the_embedding(speech, term):
    decoded, target = speech[8_000:40_000], speech[:32_000]
    wavs = torch.stack([decoded, target])
    wavs = wavs * 10 ** (-26 / 20) / target.square().mean().sqrt()  # the common level
    apart = [((a - b).abs().mean() / b.abs().mean()).item() for a, b in (term.heard(wavs).blocks[i] for i in range(3))]
    assert min(apart) > 0.3
    expected = loss(decoded, target).item() + 0.7 * sum(apart) / 3
    assert loss(decoded, target, features=0.7).item() == pytest.approx(expected, abs=1e-4)
    assert loss(target, target, features=0.7).item() == pytest.approx(0, abs=1e-5)


def test_features_of_an_item_are_its_own(speech):
    a, b, x, y = speech[: 4 * 16_000].view(4, 1, 1, -1)
    together = loss(torch.cat([x, y]), torch.cat([a, b]), features=1.0)
    assert together.item() == pytest.approx((loss(x, a, features=1.0) + loss(y, b, features=1.0)).item() / 2, abs=1e-4)


def test_features_have_gradients_where_there_is_silence(speech):
    target = torch.stack([speech[:16_000], torch.zeros(16_000)]).unsqueeze(1)
    decoded = torch.zeros_like(target).requires_grad_()
    loss(decoded, target, features=2.0).backward()
    assert decoded.grad.isfinite().all() and (decoded.grad[1] == 0).all()


@pytest.mark.parametrize("features", [-1, "2", float("nan"), float("inf"), None])
def test_features_are_weighed_by_a_number(features):
    with pytest.raises(ValueError, match="speaker: features=.*0 or more"):
        Speaker(RATE, features=features)
