"""The equalizer of octaves, what it is set to for a recording, and that it is taken off again."""

from __future__ import annotations

import numpy as np
import pytest

from codec.audio import Normal, Normalizer, correction, resample
from codec.audio.equalizer import MOST, PART, Equalizer, design, response
from codec.audio.level import ActiveLevel
from codec.correction import Correction, edges, fits

RATE = 16_000
GAINS = (3, -4, 12, 5, -12, 6, -5)
NORMAL = Normal(-30.0, (-42.7, -36.4, -35.3, -40.0, -43.6, -46.9, -54.9), RATE)


def noise(samples: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, samples)).astype(np.float32)


def coloured(gains: tuple[int, ...], samples: int = 4 * RATE, seed: int = 0) -> np.ndarray:
    return Equalizer([gains], RATE).process(noise(samples, 1, seed))


def octaves(wav: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Mean powers in dB (bands,), of (1, n)."""
    measured = ActiveLevel(rate, 1, 7, RATE)
    measured.update(wav)
    measured.finish()
    powers, _, counts = measured.channel(0)
    return 10 * np.log10(powers[counts].mean(0))


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_its_response_is_that_of_an_impulse(rate):
    impulse = np.zeros((1, 1 << 15), np.float32)
    impulse[0, 0] = 1.0
    spectrum = 20 * np.log10(np.abs(np.fft.rfft(Equalizer([GAINS], rate).process(impulse)[0])))
    limits = np.array([40.0, *edges(7), rate / 2])
    middles = np.rint(np.sqrt(limits[:-1] * limits[1:]) * len(impulse[0]) / rate).astype(int)
    np.testing.assert_allclose(spectrum[middles], response(GAINS, rate), atol=0.05)
    assert spectrum[0] == pytest.approx(GAINS[0], abs=0.2) and spectrum[-1] == pytest.approx(GAINS[-1], abs=0.2)


@pytest.mark.parametrize("wanted", [(0,) * 7, (6, 6, 6, 6, 6, 6, 6), (-6, -3, 0, 2, 4, 6, 8), (4, -4, 4, -4, 4, -4, 4)])
def test_it_comes_to_what_is_wanted(wanted):
    gains = design(wanted, RATE)
    assert all(isinstance(gain, int) for gain in gains)
    np.testing.assert_allclose(response(gains, RATE), wanted, atol=1.5)


def test_what_is_wanted_has_bounds():
    assert set(design((80, -80, 80, -80, 80, -80, 80), RATE)) == {MOST, -MOST}


def test_opposite_gains_undo_it():
    wav = noise(RATE, 2)
    rows = [GAINS, (0, 0, 9, 0, 0, 0, 24)]
    there = Equalizer(rows, RATE).process(wav)
    back = Equalizer([[-gain for gain in row] for row in rows], RATE).process(there)
    assert np.abs(there - wav).max() > 0.05 and there.dtype == np.float32
    np.testing.assert_allclose(back, wav, atol=2e-6)


def test_parts_are_as_the_whole_bit_for_bit():
    wav, whole, parts = noise(PART + RATE, 2), Equalizer([GAINS, GAINS[::-1]], RATE), Equalizer([GAINS, GAINS[::-1]], RATE)
    sizes = np.cumsum([0, 1, 2, 0, 5_000, 40_000])
    found = np.concatenate([parts.process(wav[:, a:b]) for a, b in zip(sizes, [*sizes[1:], wav.shape[1]])], axis=1)
    assert np.array_equal(found, whole.process(wav))
    assert np.array_equal(found[1:], Equalizer([GAINS[::-1]], RATE).process(wav[1:]))


@pytest.mark.parametrize("bands, rate, fitting", [(7, 16_000, True), (8, 16_000, False), (8, 24_000, True), (1, 16_000, False), (10, 192_000, True), (11, 768_000, False)])
def test_bands_end_below_half_the_rate(bands, rate, fitting):
    assert fits(bands, rate) == fitting
    if not fitting:
        with pytest.raises(ValueError, match="bands"):
            Equalizer([(0,) * bands], rate)


@pytest.mark.parametrize("gains", [(0,) * 7, (9, 6, 3, 0, -3, -6, -9), (-10, -5, 0, 5, 5, 0, 0)])
def test_recordings_come_half_way_to_the_spectrum_and_to_the_level(gains):
    wav = coloured(gains)
    done = correction([wav], RATE, 1, NORMAL)
    found = octaves(Normalizer(done, RATE).process(wav))
    assert 10 * np.log10(np.sum(10 ** (found / 10))) == pytest.approx(NORMAL.level, abs=0.3)
    before = octaves(wav)
    before += NORMAL.level - 10 * np.log10(np.sum(10 ** (before / 10)))
    left, was = found - NORMAL.spectrum, before - NORMAL.spectrum
    np.testing.assert_allclose(left - left.mean(), np.clip(was, -24, 24) / 2 - (np.clip(was, -24, 24) / 2).mean(), atol=2.5)


def test_colours_are_told_apart():
    tilts = (9, 6, 3, -3, -8, -12, -18), (0, 0, 0, 0, -4, -8, -12)
    bass, treble = (np.array(correction([coloured(gains)], RATE, 1, NORMAL).eq_db[0]) for gains in tilts)
    assert np.all((treble - bass)[[0, 1]] >= 2) and np.all((bass - treble)[[-2, -1]] >= 2)


def test_other_rates_and_parts_change_little():
    wav = coloured((9, 6, 3, 0, -3, -6, -9))
    done = correction([wav], RATE, 1, NORMAL)
    assert correction(np.array_split(wav, 1000, axis=1), RATE, 1, NORMAL) == done
    other = correction([resample(wav, RATE, 44_100)], 44_100, 1, NORMAL)
    assert np.abs(np.subtract(other.eq_db, done.eq_db)).max() <= 1 and other.gain_db == pytest.approx(done.gain_db, abs=0.5)


def test_pauses_have_no_colour():
    speech, pause = coloured((9, 6, 3, 0, -3, -6, -9)), coloured((-9, -6, -3, 0, 3, 6, 9), 12 * RATE)
    pause *= 10 ** (-17 / 20) * np.sqrt(np.square(speech).mean() / np.square(pause).mean())
    assert correction([np.concatenate([speech, pause], axis=1)], RATE, 1, NORMAL) == correction([speech], RATE, 1, NORMAL)


@pytest.mark.parametrize("wav", [np.zeros((1, RATE), np.float32), np.full((1, RATE), 0.5, np.float32), np.zeros((1, 0), np.float32)])
def test_silence_has_none(wav):
    done = correction([wav], RATE, 1, NORMAL)
    assert np.array_equal(Normalizer(done, RATE).process(wav), wav * np.float32(10 ** (done.gain_db[0] / 20))) and not any(done.eq_db[0])


@pytest.mark.parametrize("rumble", [0.5 * np.sin(2 * np.pi * 12 * np.arange(4 * RATE) / RATE), 0.3 * np.sin(2 * np.pi * 20 * np.arange(4 * RATE) / RATE), 0.3])
def test_what_cannot_be_heard_is_not_made_louder(rumble):
    spectrum, frequencies = np.fft.rfft(coloured((0, 0, 0, 0, -4, -8, -12))[0]), np.fft.rfftfreq(4 * RATE, 1 / RATE)
    telephone = np.fft.irfft(np.where((frequencies > 300) & (frequencies < 3400), spectrum, 0)).astype(np.float32)[None]
    found = Normalizer(correction([telephone], RATE, 1, NORMAL), RATE).process(telephone)
    both = Normalizer(correction([telephone + np.float32(rumble)], RATE, 1, NORMAL), RATE).process(telephone + np.float32(rumble))
    assert correction([telephone], RATE, 1, NORMAL).eq_db[0][0] == MOST
    assert np.square(both - found).mean() < np.square(rumble).mean() * 10 ** ((NORMAL.level + 3) / 10) / np.square(telephone).mean()


def test_what_the_model_does_not_hear_does_not_count():
    speech, time = coloured((9, 6, 3, 0, -3, -6, -9)), np.arange(4 * 96_000) / 96_000
    wide = resample(speech, RATE, 96_000) + np.sin(2 * np.pi * 30_000 * time)[None].astype(np.float32)
    found, expected = correction([wide], 96_000, 1, NORMAL), correction([resample(speech, RATE, 96_000)], 96_000, 1, NORMAL)
    assert found.eq_db == expected.eq_db and found.gain_db == pytest.approx(expected.gain_db, abs=0.1)


@pytest.mark.parametrize("loud", [1e15, 1e-15])
def test_extremes_are_numbers(loud):
    done = correction([noise() * np.float32(loud)], RATE, 1, NORMAL)
    assert np.all(np.isfinite(Normalizer(done, RATE).process(noise() * np.float32(loud))))


def test_no_band_goes_too_far():
    spectrum, frequencies = np.fft.rfft(noise(4 * RATE)[0]), np.fft.rfftfreq(4 * RATE, 1 / RATE)
    only = np.fft.irfft(np.where((frequencies > 800) & (frequencies < 1200), spectrum, 0)).astype(np.float32)[None]
    wanted = response(correction([only], RATE, 1, NORMAL).eq_db[0], RATE)
    assert wanted.max() < 13.5 and wanted.min() > -13.5


def test_a_tone_is_in_one_octave():
    found = octaves(0.1 * np.sin(2 * np.pi * 443.7 * np.arange(4 * RATE) / RATE)[None].astype(np.float32))
    assert found[2] == pytest.approx(-23.0, abs=0.05) and np.delete(found, 2).max() < found[2] - 40


def test_a_correction_is_taken_off():
    wav = noise(RATE, 2)
    done = Correction((-7.3, 12.0), (GAINS, GAINS[::-1]))
    there = Normalizer(done, RATE).process(wav)
    np.testing.assert_allclose(Normalizer(done, RATE, undo=True).process(there), wav, atol=2e-6)
    assert np.array_equal(Normalizer(Correction(), RATE).process(wav), wav)


def test_it_writes_where_it_is_told_to():
    wav, done = noise(RATE, 2), Correction((-7.3, 12.0), (GAINS, GAINS[::-1]))
    expected = Normalizer(done, RATE).process(wav)
    assert Normalizer(done, RATE).process(wav, out=wav) is wav and np.array_equal(wav, expected)
