from __future__ import annotations

import pytest
import torch
from streaming import stream
from torch.nn import functional as F

from codec.nn.stft import Analysis, OverlapAdd, Synthesis, dft_basis, inverse_dft_basis

SIZES = [(640, 320), (320, 80), (100, 50), (18, 6)]  # window, hop


def test_bases_are_the_fourier_transform_and_its_inverse():
    torch.manual_seed(0)
    for size in (2, 18, 64, 100):
        frames = torch.randn(5, size, dtype=torch.float64)
        spectrum = torch.fft.rfft(frames)
        torch.testing.assert_close(frames @ dft_basis(size).T, torch.cat([spectrum.real, spectrum.imag], -1))
        torch.testing.assert_close(frames @ dft_basis(size).T @ inverse_dft_basis(size), frames)


@pytest.mark.parametrize("window, hop", SIZES)
def test_analysis_is_torch_stft(window, hop):
    torch.manual_seed(0)
    analysis, wav = Analysis(window, hop), torch.rand(2, 40 * hop) * 2 - 1
    ours, _ = analysis(wav)
    padded = F.pad(wav, (window - hop, 0))
    theirs = torch.stft(padded, window, hop, window=torch.hann_window(window), center=False, return_complex=True).mT
    scale = theirs.abs().max()
    torch.testing.assert_close(ours / scale, torch.cat([theirs.real, theirs.imag], -1) / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window, hop", [(640, 320), (320, 80), (120, 40), (18, 6)])
def test_synthesis_gives_the_signal_back_after_its_lag(window, hop):
    torch.manual_seed(0)
    wav = torch.rand(2, 40 * hop) * 2 - 1
    spectrum, _ = Analysis(window, hop)(wav)
    back, _ = Synthesis(window, hop)(spectrum)
    lag = window - hop
    torch.testing.assert_close(back[:, lag:], wav[:, : wav.shape[1] - lag], rtol=0, atol=1e-5)


@pytest.mark.parametrize("window, hop", SIZES)
def test_chunks_give_the_same_bits(window, hop):
    torch.manual_seed(0)
    analysis, wav = Analysis(window, hop), torch.randn(2, 200 * hop)
    spectrum, _ = analysis(wav)
    for seed in range(3):
        assert torch.equal(stream(analysis, wav, 1, unit=hop, seed=seed), spectrum)
    if window % hop == 0:
        synthesis = Synthesis(window, hop)
        samples, _ = synthesis(spectrum)
        assert torch.equal(stream(synthesis, spectrum, 1), samples)
        assert torch.equal(synthesis(spectrum[1:])[0], samples[1:])


def test_no_frame_sees_later_samples():
    torch.manual_seed(0)
    analysis, synthesis = Analysis(40, 10), Synthesis(40, 10)
    wav = torch.randn(1, 200)
    changed = wav.clone()
    changed[:, 100:] += 1
    spectrum, other = analysis(wav)[0], analysis(changed)[0]
    assert torch.equal(spectrum[:, :10], other[:, :10]) and not torch.equal(spectrum[:, 10], other[:, 10])
    assert torch.equal(synthesis(spectrum)[0][:, :100], synthesis(other)[0][:, :100])


def test_sizes_that_do_not_fit_are_refused():
    for window, hop in ((10, 20), (15, 5)):
        with pytest.raises(ValueError, match="even one >= hop"):
            Analysis(window, hop)
    with pytest.raises(ValueError, match="multiple of its hop"):
        OverlapAdd(50, 20)


def test_bases_do_not_depend_on_the_default_device():
    with torch.device("meta"):
        assert Analysis(20, 10).taper.is_meta and dft_basis(20).device.type == "cpu"
