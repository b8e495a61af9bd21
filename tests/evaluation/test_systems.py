"""Systems: settings near a bitrate, bits that are counted, delays that are out, absent ones that name their remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec import hub
from codec.evaluation import systems
from codec.evaluation.sound import Sound, lag, load
from codec.evaluation.systems import Setting, SystemsError
from codec.evaluation.systems.base import nearest, pcm16
from codec.evaluation.systems.ogg import audio_bytes

EXAMPLE = Path(__file__).parents[2] / "examples" / "speech.flac"


@pytest.fixture(scope="module")
def speech() -> Sound:
    return load(EXAMPLE, seconds=4)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, tiny_model) -> str:
    folder = tmp_path_factory.mktemp("systems") / "tiny"
    hub.save(tiny_model, folder)
    return str(folder)


def system(name: str):
    (found,) = systems.build([name])
    return pytest.skip(found.missing()) if found.missing() else found


def test_the_nearest_settings():
    offered = [Setting("a", 700), Setting("b", 1200), Setting("c", 3200)]
    assert [each.name for each in nearest(offered, [500, 1000, 3000, 4000, 6000])] == ["a", "b", "c"]
    assert nearest(offered, [6000]) == [] and nearest(offered, None) == offered
    assert [each.name for each in nearest(offered, [4800])] == ["c"]  # 1.5 times is near


def test_samples_of_16_bits_go_in_as_they_are():
    every = np.arange(-32768, 32768).astype("<i2")
    assert np.array_equal(pcm16(every.astype(np.float32) / 32768), every)
    assert pcm16(np.array([1.0, -1.5], np.float32)).tolist() == [32767, -32768]


def test_opus_takes_any_rate_it_can():
    opus = systems.build(["opus"])[0]
    assert [each.bitrate for each in opus.settings([1000, 4000, 5000, 7500])] == [6000, 7500]
    assert opus.settings([1000]) == []


def test_bits_of_a_model_are_those_of_its_codes(tiny, speech):
    (one,) = systems.build([tiny])
    assert one.name.endswith("/tiny") and [each.name for each in one.settings([500, 2000])] == ["k=1", "k=4"]
    coded = one.code(speech, one.settings([1000])[0])
    frames = -(-len(speech.wav) // 160)
    assert coded.bits == frames * 2 * 5 and coded.codes.shape == (2, frames) and coded.sound.wav.shape == speech.wav.shape
    assert coded.encoding > 0 and coded.decoding > 0 and coded.sizes == (32, 32)
    assert one.key == systems.build([tiny])[0].key


def test_each_setting_decodes_what_the_first_codebooks_hold(tiny, speech):
    (one,) = systems.build([tiny])
    wav = one.code(speech, Setting("k=2", 1000)).sound.wav
    model = hub.load(tiny)
    assert np.array_equal(wav, model.decode(model.encode(speech.wav, speech.rate, num_codebooks=2))[0, 0].numpy())


@pytest.mark.parametrize("name, wanted, close", [("opus", 12_000, 0.5), ("speex", 7750, 0.1), ("amr-wb", 12_650, 0.02), ("codec2", 3200, 0.01)])
@pytest.mark.parametrize("samples", [16_000, 16_001])
def test_baselines_code_speech(name, wanted, close, samples, speech):
    one = system(name)
    sound = Sound(speech.wav[:samples], speech.rate)
    (setting,) = one.settings([wanted])
    coded = one.code(sound, setting)
    assert coded.sound.wav.shape == sound.wav.shape and np.abs(coded.sound.wav).max() > 0.01
    assert coded.bits / sound.seconds == pytest.approx(setting.bitrate, rel=close)
    assert coded.encoding > 0 and coded.decoding > 0 and one.key


@pytest.mark.parametrize("name, wanted", [("opus", 24_000), ("speex", 24_000), ("amr-wb", 23_850)])
def test_delays_are_out(name, wanted, speech):
    one = system(name)
    coded = one.code(speech, one.settings([wanted])[0])
    assert abs(lag(speech.wav, coded.sound.wav, speech.rate)) < 0.0005


def test_the_delay_of_codec2_is_out(speech):
    """Its voice keeps no phases: the loudness over time has to agree best where it is."""
    one = system("codec2")
    for setting in one.settings([1200, 3200]):
        loud, heard = (np.convolve(np.abs(x), np.hanning(800), "same") for x in (speech.wav, one.code(speech, setting).sound.wav))
        scores = [np.corrcoef(loud[1600:-1600], np.roll(heard, shift)[1600:-1600])[0, 1] for shift in range(-320, 321, 40)]
        assert abs(40 * int(np.argmax(scores)) - 320) <= 160, setting


def test_stereo_rates_are_given_back(speech):
    one = system("opus")
    sound = Sound(np.repeat(speech.wav[:16_000], 3), 48_000)
    coded = one.code(sound, one.settings([16_000])[0])
    assert coded.sound.rate == 48_000 and coded.sound.wav.shape == (48_000,)


def test_packets_are_counted_without_their_container(tmp_path):
    def page(*packets: bytes, lacing: bytes | None = None) -> bytes:
        sizes = lacing if lacing is not None else bytes(len(packet) for packet in packets)
        return b"OggS" + bytes(22) + bytes([len(sizes)]) + sizes + b"".join(packets)

    path = tmp_path / "a.opus"
    long = bytes(300)  # 255 + 45, over two pages
    path.write_bytes(page(b"head") + page(b"tags!") + page(b"abc", long[:255], lacing=bytes([3, 255])) + page(long[255:]))
    assert audio_bytes(path) == 303
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="no Ogg"):
        audio_bytes(path)


def test_what_is_missing_names_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = {name: systems.build([name], str(tmp_path))[0].missing() for name in ("opus", "codec2", "speex", "lyra")}
    assert found["opus"] == "apt install opus-tools" and found["codec2"] == "apt install codec2" and found["speex"] == "apt install speex"
    assert "soundstream_encoder.tflite" in found["lyra"] and "--lyra" in systems.build(["lyra"])[0].missing()


def test_training_folders_have_several_systems(tmp_path, tiny_model):
    run = tmp_path / "mine"
    for name in ("model", "best", "checkpoints/000200", "checkpoints/000100"):
        hub.save(tiny_model, run / name)
    assert [each.name for each in systems.build([str(run)])] == ["mine/000100", "mine/000200", "mine/last", "mine/best"]
    (best,) = systems.build([f"{run}@best"])
    assert best.name == "mine/best" and best.source == str(run / "best")
    with pytest.raises(SystemsError, match="no checkpoint 'newest': it has 000100"):
        systems.build([f"{run}@newest"])


def test_a_model_where_one_is_has_a_name(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    assert systems.build(["."])[0].name.endswith("/tiny")


def test_names_are_not_used_twice(tiny):
    with pytest.raises(SystemsError, match="named twice"):
        systems.build(["opus", "opus"])
    with pytest.raises(SystemsError, match="no system is named"):
        systems.build([])
