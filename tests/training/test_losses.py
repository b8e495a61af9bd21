"""Reconstruction losses: auraloss' numbers, safe at silence, the same for quiet and loud speech."""

import math
import warnings

import pytest
import torch

from codec.training.callbacks import mel_distance
from codec.training.losses import TERMS, SpectralLosses
from codec.training.pqmf import PQMF
from codec.training.spectra import FLOOR, LEVEL, OneSidedDFT, Spectrum

auraloss = pytest.importorskip("auraloss")
pytest.importorskip("librosa")
ALL = [{"name": name} for name in TERMS]


@pytest.fixture(scope="module")
def losses():
    return SpectralLosses(16_000, ALL)


def at_level(seed, level=LEVEL, items=2):
    wav = torch.randn(items, 1, 6000, generator=torch.Generator().manual_seed(seed))
    return wav * (level / wav.square().mean(-1, keepdim=True).sqrt())


def test_mr_stft_and_mel_are_auralosss_numbers_and_gradients(losses):
    target = at_level(0)
    ours = at_level(1).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    n_ffts, hops = [256, 512, 1024, 2048], [64, 128, 256, 512]
    terms = losses(ours, target).terms
    mr_stft = auraloss.freq.MultiResolutionSTFTLoss(n_ffts, hops, n_ffts)(theirs, target)
    mel = (
        sum(
            auraloss.freq.MelSTFTLoss(16_000, n, n // 4, n, w_sc=0.0, n_mels=m)(theirs, target)
            for n, m in zip(n_ffts, (16, 32, 64, 80))
        )
        / 4
    )
    torch.testing.assert_close(terms["mr_stft"], mr_stft, rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["mel"], mel, rtol=1e-4, atol=0)
    (terms["mr_stft"] + terms["mel"]).backward()
    (mr_stft + mel).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-3 * theirs.grad.abs().max().item())


def test_x_codecs_full_band_sizes_are_auralosss_numbers():
    sizes = {"n_ffts": [512, 1024, 2048], "hops": [120, 240, 300], "windows": [480, 960, 1200]}
    decoded, target = at_level(1), at_level(0)
    value = SpectralLosses(16_000, [{"name": "mr_stft", "options": sizes}])(decoded, target).total
    theirs = auraloss.freq.MultiResolutionSTFTLoss(*sizes.values())(decoded, target)
    torch.testing.assert_close(value, theirs, rtol=1e-4, atol=0)


def test_one_loss_may_be_listed_several_times():
    """As SpeechTokenizer's four mel scales, each with a hop and a weight of its own."""
    sizes = [(1024, 240, 80), (512, 120, 80), (256, 60, 40), (128, 30, 20)]
    entries = [
        {"name": "mel", "weight": weight, "options": {"n_ffts": [n], "hops": [hop], "n_mels": [bands]}}
        for weight, (n, hop, bands) in zip((45.0, 1.0, 2.0, 3.0), sizes)
    ]
    losses = SpectralLosses(16_000, [*entries[:2], {"name": "waveform", "weight": 0.0}, *entries[2:]])
    decoded, target = at_level(1), at_level(0)
    total, terms = losses(decoded, target)
    assert list(terms) == list(losses.weights) == ["mel", "mel_2", "waveform", "mel_3", "mel_4"]
    for name, (n, hop, bands) in zip(("mel", "mel_2", "mel_3", "mel_4"), sizes):
        theirs = auraloss.freq.MelSTFTLoss(16_000, n, hop, n, w_sc=0.0, n_mels=bands)(decoded, target)
        torch.testing.assert_close(terms[name], theirs, rtol=1e-4, atol=0)
    expected = 45 * terms["mel"] + terms["mel_2"] + 2 * terms["mel_3"] + 3 * terms["mel_4"]
    torch.testing.assert_close(total, expected)


def test_subband_stft_is_auralosss_number_on_the_bands_of_the_filter_bank():
    decoded, target = at_level(1).requires_grad_(), at_level(0)
    value = SpectralLosses(16_000, [{"name": "subband_stft"}])(decoded, target).total
    bands = [PQMF(6).analysis(wav[:, 0]).flatten(0, 1).unsqueeze(1) for wav in (decoded, target)]  # (B * 6, 1, T / 6)
    theirs = auraloss.freq.MultiResolutionSTFTLoss([128, 256, 256], [20, 40, 50], [80, 120, 200])(*bands)
    torch.testing.assert_close(value, theirs, rtol=1e-4, atol=0)


def test_subband_stft_hears_what_is_missing_in_a_soft_upper_band():
    """A band 30 dB below the others, lost: a sixth of the spectra are wrong, though hardly any power is."""
    pqmf, noise = PQMF(6), at_level(0).squeeze(1)
    bands = pqmf.analysis(noise)
    bands[:, 5] *= 0.03
    target = pqmf.synthesis(bands).unsqueeze(1)
    bands[:, 5] = 0
    decoded = pqmf.synthesis(bands).unsqueeze(1)
    entries = [{"name": "subband_stft", "options": {"w_sc": 0.0}}, {"name": "waveform"}]
    terms = SpectralLosses(16_000, entries)(decoded, target).terms
    assert terms["waveform"] < 0.02 and terms["subband_stft"] > 0.3


def test_an_empty_band_of_the_target_divides_by_nothing():
    tone = 0.2 * torch.sin(2 * torch.pi * 500 / 16_000 * torch.arange(12_000)).view(1, 1, -1)
    decoded = (tone + 0.01 * torch.randn(tone.shape)).requires_grad_()
    total = SpectralLosses(16_000, [{"name": "subband_stft", "options": {"w_log_mag": 0.0}}])(decoded, tone).total
    total.backward()
    assert total < 1 and torch.isfinite(decoded.grad).all()


DAC_MEL = {"n_ffts": [32, 64, 128, 256, 512, 1024, 2048], "n_mels": [5, 10, 20, 40, 80, 160, 320]}


@pytest.mark.parametrize("rate, empty", [(16_000, 0), (24_000, 0), (44_100, 0), (48_000, 2)])
def test_mel_takes_dacs_sizes(rate, empty):
    """Mel bands of short windows that hold no bin are left out; the others are those of librosa, as in DAC."""
    import librosa

    loss = SpectralLosses(rate, [{"name": "mel", "options": DAC_MEL | {"drop_empty": empty > 0}}])
    decoded, target = at_level(1).requires_grad_(), at_level(0)
    total = loss(decoded, target).total
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(decoded.grad).all() and loss(target, target).total == 0
    expected, dropped = 0, 0
    for n_fft, bands in zip(DAC_MEL["n_ffts"], DAC_MEL["n_mels"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bank = torch.tensor(librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands))
        kept = bank[bank.sum(1) > 0]
        dropped += bands - len(kept)
        logs = []
        for wav in (decoded.detach(), target):
            z = torch.stft(wav[:, 0], n_fft, n_fft // 4, window=torch.hann_window(n_fft), return_complex=True)
            logs.append((kept @ z.abs().square().clamp_min(1e-8).sqrt()).log())
        expected = expected + (logs[0] - logs[1]).abs().mean() / 7
    assert dropped == empty
    torch.testing.assert_close(total.detach(), expected, rtol=1e-3, atol=0)


def test_the_mel_distance_of_validation_is_auralosss():
    decoded, target = at_level(1)[0], at_level(0)[0]
    theirs = auraloss.freq.MelSTFTLoss(16_000, 1024, 256, 1024, w_sc=0.0, n_mels=80)(decoded[None], target[None]) / math.log(10)
    torch.testing.assert_close(mel_distance(decoded[0], target[0], 16_000), theirs, rtol=1e-4, atol=0)


@pytest.mark.parametrize("samples", [6000, 6001, 6143])
@pytest.mark.parametrize("hop", [128, 120, 300])
def test_spectra_are_torch_stft(samples, hop):
    wav, window = torch.randn(2, samples), torch.hann_window(512)
    spectrum, z = Spectrum(wav, 512, window, hop), torch.stft(wav, 512, hop, window=window, return_complex=True).mT
    torch.testing.assert_close(torch.complex(spectrum.real, spectrum.imag), z, rtol=1e-5, atol=1e-4)


def test_the_gradient_of_the_transform_is_exact():
    frames = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(OneSidedDFT.apply, (frames,))


@pytest.mark.parametrize("name", list(TERMS))
def test_zero_for_a_perfect_copy_and_more_for_more_noise(name):
    loss, target = SpectralLosses(16_000, [{"name": name}]), at_level(0)
    values = [loss(target + k * at_level(1), target).total.item() for k in (0.0, 0.1, 1.0)]
    assert values[0] == pytest.approx(0, abs=1e-6) and values[0] < values[1] < values[2]


@pytest.mark.parametrize("name", list(TERMS))
def test_quiet_speech_counts_as_much_as_loud(name):
    loss, target, noise = SpectralLosses(16_000, [{"name": name}]), at_level(0), at_level(1)
    loud, quiet = (loss(g * (target + 0.3 * noise), g * target).total.item() for g in (1.0, 0.1))
    assert quiet == pytest.approx(loud, rel=1e-3)


@pytest.mark.parametrize("decoded", ["silence", "faint", "loud"])
@pytest.mark.parametrize("name", list(TERMS))
def test_silent_targets_give_bounded_losses_and_gradients(name, decoded):
    level = {"silence": 0.0, "faint": 1e-4, "loud": 0.1}[decoded]
    wav = (at_level(1) * (level / LEVEL)).requires_grad_()
    total, _ = SpectralLosses(16_000, [{"name": name}])(wav, torch.zeros_like(wav))
    total.backward()
    assert torch.isfinite(total) and total < 50
    assert torch.isfinite(wav.grad).all()
    if decoded != "silence":
        reference = at_level(1).requires_grad_()
        SpectralLosses(16_000, [{"name": name}])(reference, at_level(0)).total.backward()
        # of a louder or fainter signal the slope of a logarithm is steeper as it is fainter: bounded by the gain and by
        # that
        assert wav.grad.norm() < 20 * (LEVEL / FLOOR) * reference.grad.norm() * max(1.0, FLOOR / level)


def test_a_silent_item_does_not_change_the_spectral_convergence_of_the_others():
    loss = SpectralLosses(16_000, [{"name": "mr_stft", "options": {"w_log_mag": 0.0}}])
    target, decoded = at_level(0), at_level(1)
    with_silence = loss(torch.cat([decoded, decoded]), torch.cat([target, torch.zeros_like(target)])).total
    torch.testing.assert_close(with_silence, loss(decoded, target).total)


def test_compressed_stft_hears_the_phase_that_magnitudes_miss():
    time = torch.arange(6000) / 16_000
    sine, cosine = (0.1 * f(2 * torch.pi * 440 * time).view(1, 1, -1) for f in (torch.sin, torch.cos))
    values = {
        share: SpectralLosses(16_000, [{"name": "compressed_stft", "options": {"complex_share": share}}])(
            sine, cosine
        ).total.item()
        for share in (0.0, 1.0)
    }
    assert values[1.0] > 3 * values[0.0]


def test_compressed_stft_is_the_formula_of_the_paper():
    loss = SpectralLosses(
        16_000, [{"name": "compressed_stft", "options": {"n_ffts": [512], "exponent": 2, "complex_share": 1.0}}]
    )
    decoded, target = at_level(1), at_level(0)
    window = torch.hann_window(512)
    x, y = (
        torch.stft(w[:, 0], 512, 128, window=window, return_complex=True) / (window.norm() * LEVEL)
        for w in (decoded, target)
    )
    x, y = (z * z.abs().clamp_min(1e-9) ** -0.7 for z in (x, y))
    torch.testing.assert_close(
        loss(decoded, target).total, 2 * torch.view_as_real(x - y).square().mean(), rtol=2e-3, atol=0
    )


def test_total_is_the_weighted_sum_and_terms_are_unweighted(losses):
    entries = [{"name": name, "weight": i + 0.5} for i, name in enumerate(TERMS)]
    decoded, target = at_level(1), at_level(0)
    total, terms = SpectralLosses(16_000, entries)(decoded, target)
    plain = losses(decoded, target).terms
    assert list(terms) == list(TERMS)
    torch.testing.assert_close(terms, plain)
    torch.testing.assert_close(total, sum((i + 0.5) * plain[name] for i, name in enumerate(TERMS)))


def test_float32_under_autocast(losses):
    decoded, target = at_level(1), at_level(0)
    with torch.autocast("cpu", torch.bfloat16):
        low = losses(decoded.bfloat16().float(), target)
    assert low.total.dtype == torch.float32
    torch.testing.assert_close(low.total, losses(decoded.bfloat16().float(), target).total)


def test_gradients_reach_the_decoded_audio_only(losses):
    decoded, target = at_level(1).requires_grad_(), at_level(0).requires_grad_()
    losses(decoded, target).total.backward()
    assert target.grad is None and decoded.grad.abs().max() > 0


def test_channels_are_items(losses):
    decoded, target = at_level(1), at_level(0)
    torch.testing.assert_close(
        losses(decoded.view(1, 2, -1), target.view(1, 2, -1)).total, losses(decoded, target).total
    )


@pytest.mark.parametrize(
    "entries, says",
    [
        ([{"name": "sdr"}], "choose one of compressed_stft, mel"),
        ([{"name": "mel", "options": {"hops": [64]}}], "one hop and window per n_fft"),
        ([{"name": "waveform", "options": {"power": 2}}], "no option 'power'"),
        ([{"name": "waveform", "wieght": 2}], "no option 'wieght'"),
        ([{"name": "mel", "options": {"n_ffts": [256], "n_mels": [200]}}], "lower n_mels, or set drop_empty"),
        ([{"name": "mel", "options": {"n_ffts": [], "n_mels": []}}], "at least one n_fft"),
        ([{"name": "mr_stft", "options": {"hops": [64]}}], "one hop and window per n_fft"),
        ([{"name": "mr_stft", "options": {"n_ffts": [512], "hops": [500], "windows": [400]}}], "0 < hop <= window"),
        ([{"name": "subband_stft", "options": {"bands": 1}}], "even number of taps"),
        ([{"name": "mel", "options": {"n_ffts": [256]}}], "one n_mels per n_fft"),
        ([{"name": "mr_stft", "options": {"n_ffts": [1023]}}], "multiple of 4"),
        ([{"name": "compressed_stft", "options": {"exponent": 3}}], "exponent 1 or 2"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_mistakes_in_a_recipe_are_answered_with_the_remedy(entries, says):
    with pytest.raises(ValueError, match=says):
        SpectralLosses(16_000, entries)


def test_shapes_and_short_crops_are_refused(losses):
    with pytest.raises(ValueError, match="both be"):
        losses(torch.zeros(1, 1, 5000), torch.zeros(1, 1, 4999))
    with pytest.raises(ValueError, match="train on longer crops"):
        losses(torch.zeros(1, 1, 1000), torch.zeros(1, 1, 1000))
    short = SpectralLosses(16_000, [{"name": "subband_stft"}])
    short(at_level(0)[..., :780], at_level(1)[..., :780])
    with pytest.raises(ValueError, match="768 samples are too few for a spectrum of 1536; train on longer crops"):
        short(at_level(0)[..., :768], at_level(1)[..., :768])
