from __future__ import annotations

import numpy as np
import pytest

from codec.training.effects import Effects
from codec.training.recipe import ConfigError, load

RATE = 16_000


@pytest.fixture
def crop():
    return (0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def applied(name, crop, seed=0, other=None):
    random = np.random.default_rng(seed).random
    return Effects({name: 1.0}, RATE)(crop, lambda: other, random)


def level(wav):
    return 10 * np.log10(np.mean(np.square(wav)))


@pytest.mark.parametrize("name", ["room", "noise", "eq", "clip"])
def test_an_effect_changes_the_sound_and_keeps_its_length_and_type(name, crop):
    changed = applied(name, crop)
    assert changed.shape == crop.shape and changed.dtype == np.float32 and np.isfinite(changed).all()
    assert not np.allclose(changed, crop)
    assert np.array_equal(changed, applied(name, crop)) and not np.array_equal(changed, applied(name, crop, seed=1))


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_the_other_voice_have_the_stated_levels(seed, crop):
    assert 5 <= level(crop) - level(applied("noise", crop, seed) - crop) <= 40.01
    other = np.random.default_rng(9).standard_normal(RATE).astype(np.float32)
    assert 5 <= level(crop) - level(applied("mix", crop, seed, other) - crop) <= 25.01


def test_a_silent_other_voice_changes_nothing(crop):
    assert np.array_equal(applied("mix", crop, other=np.zeros_like(crop)), crop)


@pytest.mark.parametrize("seed", range(5))
def test_clipping_flattens_peaks_by_3_to_15_db(seed, crop):
    drop = 20 * np.log10(np.abs(applied("clip", crop, seed)).max() / np.abs(crop).max())
    assert -15.01 <= drop <= -3


def test_an_equalizer_keeps_within_its_gains_and_delays_nothing():
    click = np.zeros(RATE, np.float32)
    click[8000] = 1.0
    changed = applied("eq", click)
    gains = 20 * np.log10(np.abs(np.fft.rfft(changed))[70:])
    assert np.abs(gains).max() < 8.5 and gains.std() > 0.5
    assert np.abs(changed).argmax() == 8000


def test_a_room_follows_the_sound_and_dies_away():
    click = np.zeros(RATE, np.float32)
    click[1000] = 1.0
    changed = applied("room", click)
    assert np.abs(changed[:1000]).max() < 1e-6 and changed[1000] == pytest.approx(1.0, abs=1e-5)
    assert 0 < level(changed[14000:]) + 200 and level(changed[1001:4000]) > level(changed[9000:12000]) + 10


def test_silence_stays_finite():
    zeros = np.zeros(RATE, np.float32)
    for name in Effects.NAMES:
        assert np.isfinite(applied(name, zeros, other=zeros)).all()


def test_probability_0_and_none_leave_the_crop_and_draw_nothing(crop):
    def never():
        raise AssertionError("drew")

    assert Effects({}, RATE)(crop, never, never) is crop
    assert Effects({"room": 0}, RATE)(crop, never, never) is crop


@pytest.mark.parametrize("wrong", [{"echo": 0.1}, {"room": 2}, {"room": -0.1}, {"room": "often"}, {"room": True}])
def test_a_recipe_with_wrong_effects_is_refused(wrong):
    import json

    with pytest.raises(ConfigError, match="data.effects"):
        load("speech_16k", [f"data.effects={json.dumps(wrong)}"])
