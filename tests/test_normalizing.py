"""Recordings at the level and near the spectrum that a model codes best: what is heard of them, and gains that are taken off again."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from codec import AudioError, Codec, TokError, Tokens, hub
from codec.audio import AudioReader, Normal, correction
from codec.audio.level import ActiveLevel, decibels
from codec.checks import ConfigError
from codec.cli import main
from codec.container import TokReader, TokWriter
from codec.container.layout import Header
from codec.correction import Correction
from codec.files import decode_file, encode_file
from codec.live import decode_live
from small_models import make_config, make_model

RATE, LEVEL = 16_000, -25.0
SPECTRUM = (-40.0, -34.0, -30.0, -32.0, -36.0, -40.0, -44.0)


@pytest.fixture(scope="module", params=[None, SPECTRUM], ids=["level", "spectrum"])
def model(request) -> Codec:
    return make_model(make_config(level=LEVEL, spectrum=request.param))


def tone(seconds: float, dbfs: float, rate: int = RATE) -> np.ndarray:
    """A sine of that RMS, (n,)."""
    return (10 ** (dbfs / 20) * math.sqrt(2) * np.sin(2 * np.pi * 500 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(channels: int, samples: int, dbfs: float = -12.0, seed: int = 0) -> np.ndarray:
    return (10 ** (dbfs / 20) * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def level(wav: np.ndarray, parts: int = 1, rate: int = RATE) -> list[float]:
    measured = ActiveLevel(rate, len(wav), 1, rate)
    for part in np.array_split(wav, parts, axis=1):
        measured.update(part)
    measured.finish()
    found = (measured.channel(number) for number in range(len(wav)))
    return [decibels(powers[counts].mean()) if counts.any() else -math.inf for powers, _, counts in found]


def gains(wav: np.ndarray) -> tuple[float, ...]:
    return correction([wav], RATE, len(wav), Normal(LEVEL, (), RATE)).gain_db


def amplitudes(gain_db) -> np.ndarray:
    return np.array([[10 ** (gain / 20)] for gain in gain_db], np.float32)


@pytest.mark.parametrize("pause", [0.0, 1.0, 60.0])
@pytest.mark.parametrize("floor", [-math.inf, -60.0])
def test_pauses_do_not_count(pause, floor):
    wav = np.concatenate([tone(1.0, -20.0), tone(pause, floor), tone(1.0, -20.0)])[None]
    assert level(wav) == pytest.approx([-20.0], abs=0.01)


def test_a_level_is_that_of_all_channels_alone_in_any_parts():
    wav = np.stack([tone(1.23, -20.0), tone(1.23, -50.0), np.zeros(round(1.23 * RATE), np.float32)])
    whole = level(wav)
    assert whole == pytest.approx([-20.0, -50.0, -math.inf], abs=0.05)
    assert level(wav, 7) == level(wav, 1000) == whole
    assert level(tone(0.02, -20.0)[None]) == pytest.approx([-20.0], abs=0.1)


@pytest.mark.parametrize("at", [0, 5 * RATE])
@pytest.mark.parametrize("seconds, dbfs", [(0.0001, 40.0), (0.01, -8.0), (0.2, -10.0)])
def test_a_click_or_a_slammed_door_is_no_speech(at, seconds, dbfs):
    wav, event = tone(10.0, -45.0), noise(1, round(seconds * RATE), dbfs)[0]
    wav[at : at + len(event)] = event
    assert level(wav[None]) == pytest.approx([-45.0], abs=0.2)
    assert 0 <= gains(wav[None])[0] <= max(0.0, -9.0 - _loudest(wav))  # and it gets no louder than -10 dBFS
    wav[at : at + RATE] = tone(1.0, -10.0)  # that may be speech
    assert level(wav[None]) == pytest.approx([-10.0], abs=0.5)


def _loudest(wav: np.ndarray) -> float:
    return 10 * math.log10(np.square(wav.reshape(-1, RATE // 10)).mean(1).max())


def test_a_short_word_is_not_made_too_loud():
    wav = noise(1, 5 * RATE, -75.0)
    wav[0, RATE : RATE + 3_000] += tone(3_000 / RATE, -20.0)
    assert gains(wav)[0] == pytest.approx(10.0, abs=0.5)


def test_an_offset_is_not_loud():
    assert level(tone(3.0, -45.0)[None] + 0.1) == pytest.approx([-45.0], abs=0.1)
    assert level(np.full((1, RATE), 0.1, np.float32))[0] < -100


def test_gains_have_bounds_and_silence_has_none():
    wav = np.stack([tone(1, -20.0), tone(1, -110.0), tone(1, 60.0), np.zeros(RATE, np.float32)])
    assert gains(wav) == (-5.0, 60.0, -60.0, 0.0)


def test_codes_do_not_depend_on_the_level(model):
    wav = noise(1, RATE)
    loud, quiet = (model.encode(gain * wav, normalize=True) for gain in (1.0, 0.001))
    assert quiet.correction.gain_db[0] - loud.correction.gain_db[0] == pytest.approx(60.0) and quiet.correction.eq_db == loud.correction.eq_db
    assert (loud.codes == quiet.codes).float().mean() > 0.99
    assert not torch.equal(model.encode(wav).codes, model.encode(0.001 * wav).codes)


def test_decoding_takes_the_gain_off(model):
    tokens = model.encode(noise(2, RATE) * amplitudes([0.0, -30.0]), normalize=True)
    plain, gain_db = replace(tokens, correction=Correction(eq_db=tokens.correction.eq_db)), tokens.correction.gain_db
    assert gain_db[1] - gain_db[0] == pytest.approx(30.0, abs=0.2)
    assert torch.equal(model.decode(tokens)[0], model.decode(plain)[0] * torch.from_numpy(amplitudes(-gain for gain in gain_db)))


def test_silence_stays_as_it_is(model):
    tokens = model.encode(np.zeros(RATE, np.float32), normalize=True)
    assert tokens.correction.gain_db == (0.0,) and not any(map(any, tokens.correction.eq_db))
    assert torch.equal(tokens.codes, model.encode(np.zeros(RATE, np.float32)).codes)


def test_items_of_a_batch_are_as_they_are_alone(model):
    lengths, wav = [RATE, 9_000], torch.from_numpy(np.stack([noise(2, RATE), noise(2, RATE, -40.0, 1)]))
    together = model.encode(wav, lengths=lengths, normalize=True, num_codebooks=2)
    for index, n in enumerate(lengths):
        alone = model.encode(wav[index, :, :n], normalize=True, num_codebooks=2)
        item = together.item(index)
        assert item.correction == alone.correction and torch.equal(item.codes, alone.codes)


def test_without_being_asked_nothing_changes(model):
    wav = noise(1, 2 * RATE)
    tokens = model.encode(wav)
    assert tokens.correction == Correction()
    with model.stream() as stream:
        codes = torch.cat([stream.encode(torch.from_numpy(wav)[None]), stream.flush()], 2)
    assert torch.equal(tokens.codes, codes)


def test_a_model_without_a_level_takes_all_as_it_is(tmp_path):
    model, wav = make_model(make_config()), noise(1, RATE)
    soundfile.write(tmp_path / "a.wav", wav[0], RATE, subtype="FLOAT")
    encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok")
    for tokens in (model.encode(wav, normalize=True), Tokens.load(tmp_path / "a.tok")):
        assert tokens.correction == Correction() and torch.equal(tokens.codes, model.encode(wav).codes)


def test_configurations_keep_it():
    config = make_config(level=LEVEL, spectrum=SPECTRUM)
    assert config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert not {"level", "spectrum"} & make_config().to_dict().keys()


@pytest.mark.parametrize("values", [
    {"spectrum": SPECTRUM}, {"level": LEVEL, "spectrum": SPECTRUM, "output_sample_rate": 8000}, {"level": LEVEL, "spectrum": [-30.0]}, {"level": LEVEL, "spectrum": [-30.0] * 8}, {"level": LEVEL, "spectrum": [1.0] * 7},
])
def test_spectra_that_cannot_be_are_refused(values):
    with pytest.raises(ConfigError, match="spectrum"):
        make_config().from_dict(make_config().to_dict() | values)


@pytest.mark.parametrize("rate, channels", [(16_000, 1), (44_100, 2)])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_files_are_whole_arrays_bit_for_bit(model, tmp_path, rate, channels, name):
    path = tmp_path / name
    soundfile.write(path, noise(channels, 12 * rate, -16.0).T, rate)
    with AudioReader(path) as reader:
        wav = np.concatenate(list(reader.blocks()), axis=1)
        reader.rewind()
        assert np.array_equal(wav, np.concatenate(list(reader.blocks(1000)), axis=1))
    tokens = model.encode(torch.from_numpy(wav), rate, 3, normalize=True)
    assert all(tokens.correction.gain_db) and all(map(any, tokens.correction.eq_db)) and bool(tokens.correction.eq_db) == bool(model.config.spectrum)
    tokens.save(tmp_path / "whole.tok")
    for source in (path, io.BytesIO(path.read_bytes())):
        encode_file(model, source, tmp_path / "a.tok", 3)
        assert (tmp_path / "a.tok").read_bytes() == (tmp_path / "whole.tok").read_bytes()
    decode_file(model, tmp_path / "a.tok", tmp_path / "b.wav")
    found = soundfile.read(tmp_path / "b.wav", dtype="int16", always_2d=True)[0].T
    expected = np.clip(np.rint(model.decode(tokens)[0].numpy().astype(np.float64) * 32768), -32768, 32767)
    np.testing.assert_array_equal(found, expected)


def test_a_refined_file_too(model, tmp_path):
    wav = noise(1, RATE)
    soundfile.write(tmp_path / "a.wav", wav[0], RATE, subtype="FLOAT")
    encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok", refine=1)
    assert torch.equal(Tokens.load(tmp_path / "a.tok").codes, model.encode(wav, refine=1, normalize=True).codes)


def test_a_file_at_its_own_level_is_a_stream(model, tmp_path):
    wav = noise(1, RATE)
    soundfile.write(tmp_path / "a.wav", wav[0], RATE, subtype="FLOAT")
    encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok", normalize=False)
    tokens = Tokens.load(tmp_path / "a.tok")
    assert tokens.correction == Correction() and torch.equal(tokens.codes, model.encode(wav).codes)


def test_what_is_measured_is_what_files_hold(model, tmp_path):
    from codec.evaluation.sound import Sound
    from codec.evaluation.systems.ours import Ours

    wav = noise(1, RATE)
    hub.save(model, tmp_path / "model", torch.float32)
    system = Ours(str(tmp_path / "model"), "tiny")
    coded = system.code(Sound(wav[0], RATE), system.settings(None)[-1])
    tokens = model.encode(wav, normalize=True)
    assert np.array_equal(coded.codes, tokens.codes[0]) and np.array_equal(coded.sound.wav, model.decode(tokens)[0, 0])
    assert not torch.equal(tokens.codes, model.encode(wav).codes) and f"level{LEVEL:g}" in system.key
    model.config, before = replace(model.config, spectrum=None if model.config.spectrum else SPECTRUM), model.config
    hub.save(model, tmp_path / "other", torch.float32)
    model.config = before
    assert Ours(str(tmp_path / "other"), "tiny").key != system.key


def test_a_folder_is_made_again_at_another_level(model, tmp_path, capsys):
    hub.save(model, tmp_path / "model", torch.float32)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(1, RATE)[0], RATE, subtype="FLOAT")
    command = ["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    for options, words in (([], "1 file encoded"), ([], "1 done before"), (["--no-normalize"], "1 file encoded"),
                           (["--no-normalize"], "1 done before"), ([], "1 file encoded")):
        assert not main([*command, *options]) and words in capsys.readouterr().out
        assert main(["info", str(tmp_path / "out" / "a.tok")]) == 0
        said = capsys.readouterr().out
        assert ("gain db" in said) != bool(options) and ("eq db" in said) == bool(model.config.spectrum and not options)


def test_a_folder_is_made_again_near_the_spectrum(tmp_path, capsys):
    models = [make_model(make_config(level=LEVEL, spectrum=spectrum)) for spectrum in (None, SPECTRUM)]
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(1, RATE)[0], RATE, subtype="FLOAT")
    for number, words in ((0, "1 file encoded"), (1, "1 file encoded"), (1, "1 done before"), (0, "1 file encoded")):
        hub.save(models[number], tmp_path / str(number), torch.float32)
        assert not main(["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tmp_path / str(number))])
        assert words in capsys.readouterr().out


def test_states_of_streams_do_not_know_it(model):
    other = make_model(make_config())
    with other.stream() as before, model.stream() as stream:
        codes = before.encode(torch.from_numpy(noise(1, RATE))[None])
        stream.load_state_dict(before.state_dict())
        assert codes.shape[2] and torch.equal(stream.flush(), before.flush())


def test_what_goes_away_while_it_is_read_is_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1, RATE)[0], RATE)
    with AudioReader(tmp_path / "a.wav") as reader:
        list(reader.blocks())
        (tmp_path / "a.wav").unlink()
        with pytest.raises(AudioError, match="a.wav: is not audio that can be read"):
            reader.rewind()


def test_what_comes_live_is_heard_at_its_level(model, tmp_path):
    tokens = model.encode(noise(1, RATE), normalize=True)
    tokens.save(tmp_path / "a.tok")
    out = io.BytesIO()
    with TokReader(tmp_path / "a.tok") as reader:
        decode_live(model, reader, out, "f32le")
    np.testing.assert_array_equal(np.frombuffer(out.getvalue(), "<f4"), model.decode(tokens)[0, 0].numpy())


def test_cuts_keep_the_gain(model, tmp_path):
    wav = np.stack([noise(2, RATE), noise(2, RATE, -30.0)]) * amplitudes([0.0, -3.0])
    wav[1, 0] = np.cumsum(wav[1, 0]) / 20
    tokens = model.encode(wav, normalize=True)
    one, done = tokens.item(1), tokens.correction
    assert len(set(done.gain_db)) == 4 and one.correction == Correction(done.gain_db[2:], done.eq_db[2:]) and len(set(one.correction.eq_db)) != 1
    assert one[3:9].correction == one.truncate(2).correction == one.to("cpu").correction == one.correction
    one[3:9].save(tmp_path / "a.tok")
    assert Tokens.load(tmp_path / "a.tok").correction == one.correction


@pytest.mark.parametrize("name, values", [
    *(("gain_db", values) for values in [(1.0,), (1.0, math.nan), (0.0, 201.0), (0.0, 0.0, 0.0), (0.0, "1"), (0.0, True), 1.0]),
    *(("eq_db", values) for values in [((1, 2),), ((1, 2), (1, 25)), ((1, 2), (1, 2.0)), ((1,), (1,)), ((1, 2), (1,) * 8), ((1, 2), ()), ((1, True), (1, 2)), (1, 2), 1]),
])
def test_corrections_that_do_not_fit_are_refused(model, name, values):
    with pytest.raises(ValueError, match=name):
        Tokens(torch.zeros(2, 4, 10, dtype=torch.int64), model.spec, RATE, (1600,), 2, correction=Correction(**{name: values}))
    with pytest.raises(ValueError, match=name):
        TokWriter(io.BytesIO(), model.spec, 4, RATE, 2, correction=Correction(**{name: values}))


@pytest.mark.parametrize("written", ['"loud"', "[1.0]", "[true,0.5]", '["1",0.5]', "[null,0]", "[1e999,0]", f"[0,{10**400}]"])
def test_headers_from_strangers_are_checked(model, written):
    good = Header(model.spec, 4, RATE, 2, correction=Correction((1.5, 0.0))).to_json()
    assert Header.from_json(good).correction == Correction((1.5, 0.0))
    with pytest.raises(ValueError, match="gain_db"):
        Header.from_json(good.replace(b"[1.5,0.0]", written.encode()))


@pytest.mark.parametrize("written", ['"flat"', "[[1,2]]", "[1,2]", "[[1,2],[true,2]]", "[[1,2],[1.0,2]]", "[[1,2],null]", f"[[1,2],[1,{10**400}]]", "[[1,2],[1]]"])
def test_equalizers_in_headers_from_strangers_are_checked(model, written):
    done = Correction((1.5, 0.0), ((1, -2), (0, 3)))
    good = Header(model.spec, 4, RATE, 2, correction=done).to_json()
    assert Header.from_json(good).correction == done
    with pytest.raises(ValueError, match="eq_db"):
        Header.from_json(good.replace(b"[[1,-2],[0,3]]", written.encode()))


def test_headers_of_another_rate_are_refused(model):
    file = io.BytesIO()
    spec = replace(model.spec, sample_rate=48_000)
    Tokens(torch.zeros(1, 4, 10, dtype=torch.int64), spec, RATE, (500,), correction=Correction((0.0,), ((1,) * 9,))).save(file)
    with pytest.raises(ValueError, match="has 48000 Hz"):
        model.decode(Tokens.load(io.BytesIO(file.getvalue())))
    with pytest.raises(ValueError, match="has 48000 Hz"):
        decode_file(model, io.BytesIO(file.getvalue()), io.BytesIO())


def test_errors_are_short(model):
    for values in (("x" * 9000,), tuple(["1"] * 3000)):
        for name in ("gain_db", "eq_db"):
            with pytest.raises(ValueError, match=name) as error:
                Correction(**{name: values})
            assert len(str(error.value)) < 250


def test_numbers_of_numpy_are_numbers():
    done = Correction([np.float32(1.5)], [np.array([1, -2])])
    assert done == Correction((1.5,), ((1, -2),)) and hash(done)


def test_a_salvaged_file_keeps_its_gain(model):
    file, tokens = io.BytesIO(), model.encode(noise(1, RATE), normalize=True)
    tokens.save(file)
    data = bytearray(file.getvalue())
    data[20] ^= 1  # in the header, which is there again at the end
    with pytest.raises(TokError):
        Tokens.load(io.BytesIO(data))
    assert Tokens.load(io.BytesIO(data), salvage=True).correction == tokens.correction
