"""Metrics: values computed by hand or by other programs, what they say of themselves, what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from codec.audio.mel import mel_filters
from codec.evaluation import metrics
from codec.evaluation.edits import edits
from codec.evaluation.metrics import Coded, MetricError, Options, Unjudged, frechet, people, pitch, tokens
from codec.evaluation.metrics.signal import distance, magnitudes, si_sdr
from codec.evaluation.sound import Sound, lag

RATE = 16_000


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """(T,) float32: noise in syllables, which the judges take for speech."""
    n = round(seconds * RATE)
    wav = np.random.default_rng(seed).standard_normal(n) * (0.2 + np.sin(2 * np.pi * 2 * np.arange(n) / RATE) ** 2)
    return (0.1 * wav).astype(np.float32)


def judge(names: str, original: np.ndarray, decoded: np.ndarray, options: Options = Options(), rate: int = RATE) -> dict[str, float]:
    wanted = [metric.name for metric in metrics.resolve(names.split(","))]
    found: dict = {}
    for one in metrics.judges(wanted, options):
        found |= one(Sound(original, rate), Coded(Sound(decoded, rate), 0, 0, 0))
    return found


def test_every_metric_says_what_it_is():
    for name, metric in metrics.METRICS.items():
        assert metric.name == name and metric.title and metric.unit and metric.source and metric.licence
        assert metric.better in ("higher", "lower") and metric.level in ("pair", "alone", "codes", "set", "task")
        assert bool(metric.install) == bool(metric.modules) and (not metric.install or metric.install.startswith("pip install "))
        assert name in metrics.table()


def test_names_and_short_names():
    assert [each.name for each in metrics.resolve(["pesq", "stoi", "pesq-wb"])] == ["pesq-wb", "stoi"]
    assert {each.name for each in metrics.resolve(["all"])} == {name for name, each in metrics.METRICS.items() if each.level != "task"}
    with pytest.raises(MetricError, match="no metric 'loudness': there are pesq-wb"):
        metrics.resolve(["loudness"])
    with pytest.raises(MetricError, match="no metric is named"):
        metrics.resolve([])


def test_a_metric_that_is_missing_names_the_command(monkeypatch):
    found = metrics.METRICS["pesq-wb"]
    monkeypatch.setattr(metrics.base.importlib.util, "find_spec", lambda name: None)
    assert found.missing() == 'pip install "neural-codec-toolkit[eval]"' and metrics.METRICS["si-sdr"].missing() == ""


def test_si_sdr_by_hand():
    s = np.array([1, -1, 1, -1], np.float32)
    e = np.array([1, 1, -1, -1], np.float32)  # at a right angle to s, both of mean 0
    assert si_sdr(s, 3 * (s + 0.1 * e) + 0.5) == pytest.approx(20, abs=1e-5)  # 10 log10(4 / 0.04), whatever scale and offset
    assert si_sdr(s, s + e) == pytest.approx(0, abs=1e-6)
    assert si_sdr(s, 0.5 * s) == 100 and si_sdr(s, np.zeros(4, np.float32)) == si_sdr(s, e) == -100


def test_si_sdr_of_a_constant_is_none():
    for wav in (np.full(1, 0.1, np.float32), np.full(RATE, 0.1, np.float32)):
        with pytest.raises(Unjudged, match="it is a constant"):
            judge("si-sdr", wav, wav)


def test_magnitudes_are_those_of_torch():
    wav = speech(0.3)
    wanted = torch.stft(torch.from_numpy(wav), 512, 128, window=torch.hann_window(512), return_complex=True).abs().T.numpy()
    np.testing.assert_allclose(magnitudes(wav, 512), wanted, atol=2e-4)


@pytest.mark.parametrize("rate, window, bands", [(16_000, 512, 80), (44_100, 2048, 150)])
def test_mel_bands_are_those_of_librosa(rate, window, bands):
    librosa = pytest.importorskip("librosa")
    np.testing.assert_allclose(
        mel_filters(rate, window, bands), librosa.filters.mel(sr=rate, n_fft=window, n_mels=bands), atol=1e-8, rtol=1e-5,
    )


def test_spectral_distances_by_hand():
    ones = np.ones((3, 4))
    assert distance(ones, 0.1 * ones) == pytest.approx(2 + 0.9)  # |log10 1 - log10 0.01| + |1 - 0.1|
    assert distance(ones, 0 * ones) == pytest.approx(10 + 1)  # floored at 1e-5
    wav = speech(0.5)
    same = judge("mel,stft", wav, wav)
    assert same == {"mel": 0, "stft": 0}
    half = judge("mel,stft", wav, 0.5 * wav)
    linear = [np.abs(0.5 * magnitudes(wav, window)).mean() for window in (2048, 512)]
    assert half["stft"] == pytest.approx(2 * 2 * math.log10(2) + sum(linear), rel=1e-4)


def test_pesq_and_stoi_are_those_of_their_packages():
    pesq, pystoi = pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    wav = speech(3.0)
    decoded = (wav + 0.02 * np.random.default_rng(1).standard_normal(len(wav))).astype(np.float32)
    found = judge("pesq-wb,stoi,estoi", wav, decoded)
    assert found["pesq-wb"] == pytest.approx(pesq.pesq(RATE, wav, decoded, "wb"))
    assert found["stoi"] == pytest.approx(pystoi.stoi(wav, decoded, RATE))
    assert found["estoi"] == pytest.approx(pystoi.stoi(wav, decoded, RATE, extended=True))
    assert 1 < judge("pesq-nb", wav, decoded)["pesq-nb"] < 4.6


def test_pesq_and_stoi_know_best_and_worst():
    pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    wav = speech(3.0)
    best, worst = (judge("pesq-wb,stoi,estoi", wav, other) for other in (wav, np.zeros_like(wav)))
    assert best["pesq-wb"] > 4.5 and best["stoi"] > 0.999 and best["estoi"] > 0.999
    assert worst["pesq-wb"] == 1 and worst["stoi"] < 0.1 and np.isfinite(worst["estoi"])


@pytest.mark.parametrize("wav, reason", [
    (np.zeros(2 * RATE, np.float32), "silent"), (speech(0.05), "shorter than 1 s"), (speech(0.99), "shorter than 1 s"),
    (np.concatenate([speech(0.3), np.zeros(2 * RATE, np.float32)]), "less than 0.6 s of sound"),
])
def test_what_cannot_be_judged_says_why(wav, reason):
    pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    for name in ("pesq-wb", "stoi"):
        with pytest.raises(Unjudged, match=reason):
            judge(name, wav, wav)
    if reason != "silent":
        assert judge("si-sdr,mel,stft", wav, wav)["mel"] == 0
    else:
        with pytest.raises(Unjudged, match="silent"):
            judge("si-sdr", wav, wav)


def test_sound_resamples_once_and_says_its_length():
    sound = Sound(speech(0.5), RATE)
    assert sound.seconds == 0.5 and sound.at(RATE) is sound.wav and sound.at(8000) is sound.at(8000) and len(sound.at(8000)) == 4000


def test_lag_is_found_where_the_waveform_shows_it():
    wav = speech(1.0)
    late = np.concatenate([np.zeros(37, np.float32), wav])[: len(wav)]
    assert lag(wav, late, RATE) == pytest.approx(37 / RATE) and lag(late, wav, RATE) == pytest.approx(-37 / RATE)
    assert lag(wav, wav, RATE) == 0 and lag(wav, speech(1.0, seed=5), RATE) is None and lag(wav, 0 * wav, RATE) is None


# Words, pitch, tokens: what is computed of what others give


def test_word_and_letter_errors_by_hand():
    found = people.rates(["the", "cat", "sat"], ["the", "bat", "sat", "down"])
    assert found == {"dwer": (2 / 3, 3.0), "dcer": (6 / 11, 11.0)}  # one other word, one more; c -> b, and " down"
    assert people.rates(["a"], []) == {"dwer": (1.0, 1.0), "dcer": (1.0, 1.0)}
    assert edits("a b c d".split(), "a x c d e".split()) == 2 and edits([], ["a"]) == edits(["a"], []) == 1


def test_pitch_errors_by_hand():
    nan = np.nan
    found = pitch.errors(np.array([100, 200, nan, nan, 100]), np.array([200, 200, 100, nan, nan]))
    assert found["f0-error"] == pytest.approx(np.sqrt((1200**2 + 0) / 2)) and found["voicing-error"] == pytest.approx(2 / 5)
    assert pitch.errors(np.array([100.0]), np.array([nan]))["f0-error"] == pytest.approx(1200 * math.log2(500 / 60))


@pytest.mark.slow
def test_the_pitch_of_a_voice_is_found():
    pytest.importorskip("librosa")
    time = np.arange(RATE) / RATE
    voice = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20)).astype(np.float32) * 0.1
    track = pitch.f0(voice)
    assert np.nanmedian(track) == pytest.approx(120, rel=0.01) and np.isfinite(track).mean() > 0.9


def coded(codes: list[list[int]], recode=None) -> Coded:
    return Coded(Sound(speech(0.4), RATE), 0, 0, 0, np.array(codes), (4,) * len(codes), 0.1, recode)


def test_repetition_by_hand():
    (one,) = metrics.judges(["repetition"], Options())
    assert one(Sound(speech(0.4), RATE), coded([[1, 1, 1, 2], [0, 0, 3, 3]])) == {"repetition": pytest.approx(1 / 3)}
    with pytest.raises(Unjudged, match="no tokens"):
        one(Sound(speech(0.4), RATE), Coded(Sound(speech(0.4), RATE), 0, 0, 0))


def test_robustness_by_hand():
    heard: list[np.ndarray] = []

    def recode(wav):  # one of four frames is another one, then another and a frame less, ...
        heard.append(wav)
        return np.array([[1, 2, 3, 3], [5, 5, 5, 5]])[:, : 4 if len(wav) == 6400 else 3]

    wav = Sound(speech(0.4), RATE)
    (one,) = metrics.judges(["robust-noise", "robust-shift", "robust-gain"], Options())
    found = one(wav, coded([[1, 2, 3, 4], [5, 5, 5, 5]], recode))
    assert found == {"robust-noise": 0.75, "robust-shift": 0.75, "robust-gain": 0.75}
    noise, *shifted, quiet = heard
    assert 20 * np.log10(np.std(noise - wav.wav) / np.sqrt((wav.wav**2).mean())) == pytest.approx(-40, abs=0.2)
    assert [len(each) for each in shifted] == [6400 - 400, 6400 - 800] and np.allclose(quiet, wav.wav * 10 ** (-3 / 20))
    assert tokens.kept(np.array([[1, 2]]), np.array([[3, 4, 5, 6, 7]])) == 0


def test_judges_that_need_files_say_which(tmp_path):
    for name, options, words in (
        ("speaker", Options(), "--ecapa DIR is not given"), ("speaker", Options(ecapa=str(tmp_path)), "holds no model.safetensors"),
        ("dwer", Options(), "--asr is not given"), ("dcer", Options(asr=str(tmp_path)), "holds no model.bin"),
    ):
        with pytest.raises(MetricError, match=words):
            metrics.check(name, options)
    metrics.check("stoi", Options())


@pytest.mark.slow
@pytest.mark.parametrize("name, module, low, high", [
    ("distill-mos", "distillmos", 0.5, 5.5), ("dnsmos", "speechmos", 0.5, 5), ("plcmos", "speechmos", 0.5, 5), ("visqol", "visqol", 0.9, 5.01),
])
def test_opinions(name, module, low, high):
    pytest.importorskip(module)
    if metrics.METRICS[name].missing():
        pytest.skip(metrics.METRICS[name].missing())
    wav = speech(3.0)
    noise = (wav + 0.2 * np.random.default_rng(1).standard_normal(len(wav))).astype(np.float32)
    best, worse = judge(name, wav, wav)[name], judge(name, wav, noise)[name]
    assert low < worse <= best < high and judge(name, wav, wav)[name] == pytest.approx(best)


def test_frechet_distance_by_hand():
    rng = np.random.default_rng(0)
    first = rng.standard_normal((200_000, 2))
    second = first * np.array([2.0, 1.0]) + np.array([3.0, 0.0])
    assert frechet.distance(first, second) == pytest.approx(9 + 1, rel=0.02)  # (3 - 0)^2 + (2 - 1)^2
    assert frechet.distance(first, first) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_is_that_of_matrix_square_roots():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(1)
    first, second = (rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6)) for _ in range(2))
    c1, c2 = (np.cov(each, rowvar=False) for each in (first, second))
    wanted = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet.distance(first, second) == pytest.approx(wanted, rel=1e-6)


def test_embeddings_are_found_by_name():
    assert frechet.embedding("mel")(speech(1.0), RATE).shape == (10, 64)
    assert frechet.embedding("numpy:outer") is np.outer
    with pytest.raises(MetricError, match="--embedding vggish: .*give mel, or MODULE:FUNCTION"):
        metrics.check("fad", Options(embedding="vggish"))
