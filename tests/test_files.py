"""Recordings to .tok files and back, in blocks: the same bits as the whole arrays at any rate, channels and length."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from codec import AudioError, Codec, CodecConfig, TokError, Tokens
from codec.config import ConvNeXtDecoderConfig, ConvNeXtEncoderConfig, QuantizerConfig, SEANetDecoderConfig
from codec.container import TokReader, TokWriter
from codec.files import cut, decode_file, decoded, encode_file, mute
from codec.coding import BLOCK_FRAMES
from small_models import make_config, make_model


def tiny_codec(seed: int = 0) -> Codec:
    torch.manual_seed(seed)
    config = CodecConfig(
        name="tiny", dim=8, encoder=ConvNeXtEncoderConfig(channels=16, hidden=32, blocks=1),
        decoder=ConvNeXtDecoderConfig(channels=16, hidden=32, blocks=1, fine_channels=8, fine_hidden=16, fine_blocks=1),
        quantizer=QuantizerConfig(num_codebooks=4, codebook_size=16),
    )
    return Codec(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> Codec:
    return tiny_codec()


def recording(path, rate: int, channels: int, samples: int) -> np.ndarray:
    """A float WAV file of noise, and its samples (channels, samples)."""
    wav = (0.1 * np.random.default_rng(samples).standard_normal((channels, samples))).astype(np.float32)
    soundfile.write(path, wav.T, rate, subtype="FLOAT")
    return wav


def pcm16(wav: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(wav.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("samples", [1, 319, 320, 321, 0])  # 0 stands for several blocks
def test_equals_whole_arrays_bit_for_bit(model, tmp_path, rate, channels, samples):
    samples = samples or 21 * rate + 7
    wav = recording(tmp_path / "a.wav", rate, channels, samples)
    report = encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok", num_codebooks=3)
    tokens = model.encode(torch.from_numpy(wav), rate, num_codebooks=3)
    tokens.save(tmp_path / "whole.tok")
    assert (tmp_path / "a.tok").read_bytes() == (tmp_path / "whole.tok").read_bytes()
    assert (report.num_samples, report.channels, report.sample_rate) == (samples, channels, rate)
    assert report.num_frames == tokens.num_frames and report.bitrate == tokens.bitrate
    assert report.size == (tmp_path / "a.tok").stat().st_size

    decode_file(model, tmp_path / "a.tok", tmp_path / "b.wav")
    found, found_rate = soundfile.read(tmp_path / "b.wav", dtype="int16", always_2d=True)
    assert found_rate == rate and found.shape == (samples, channels)
    np.testing.assert_array_equal(found.T, pcm16(model.decode(tokens)[0].numpy()))


@pytest.mark.parametrize("rate, channels", [(96000, 8), (22050, 3), (11025, 1)])
def test_keeps_rate_channels_and_length(model, tmp_path, rate, channels):
    recording(tmp_path / "a.wav", rate, channels, 3001)
    encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok")
    report = decode_file(model, tmp_path / "a.tok", tmp_path / "b.wav")
    info = soundfile.info(tmp_path / "b.wav")
    assert (info.samplerate, info.channels, info.frames) == (rate, channels, 3001)
    assert report.complete and report.lost == () and report.seconds == 3001 / rate


def test_small_blocks_in_the_file_decode_to_the_same_samples(model, tmp_path):
    tokens = model.encode(torch.randn(2, 170_000) * 0.1)
    tokens.save(tmp_path / "a.tok")
    with TokWriter(tmp_path / "live.tok", tokens.spec, 4, 16000, 2) as writer:
        for start in range(0, tokens.num_frames, 37):
            writer.write(tokens.codes[..., start : start + 37])
            writer.flush()
        writer.finish(tokens.num_samples[0])
    decode_file(model, tmp_path / "a.tok", tmp_path / "a.wav")
    decode_file(model, tmp_path / "live.tok", tmp_path / "live.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "live.wav").read_bytes()


def test_open_files_and_progress(model, tmp_path):
    recording(tmp_path / "a.wav", 16000, 1, 16000 * 21)
    tok, told = io.BytesIO(), []
    report = encode_file(
        model, io.BytesIO((tmp_path / "a.wav").read_bytes()), tok, bitrate=400,
        progress=lambda done, total: told.append((done, total)),
    )
    assert report.num_codebooks == 2 and report.size is None
    assert told == [(10.0, 21.0), (20.0, 21.0), (21.0, 21.0)]
    out = io.BytesIO()
    assert decode_file(model, io.BytesIO(tok.getvalue()), out).num_samples == 16000 * 21
    assert soundfile.info(io.BytesIO(out.getvalue())).frames == 16000 * 21


def test_no_samples_at_all_decode_to_none(model, tmp_path):
    with TokWriter(tmp_path / "a.tok", model.spec, 4, 16000, 1) as writer:
        writer.finish(0)
    decode_file(model, tmp_path / "a.tok", tmp_path / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").frames == 0


@pytest.mark.parametrize("rate", [16000, 44100])
def test_salvage_mutes_what_is_lost(model, tmp_path, rate):
    recording(tmp_path / "a.wav", rate, 2, 25 * rate)
    encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok")
    data = bytearray((tmp_path / "a.tok").read_bytes())
    data[len(data) // 2] ^= 4  # in the second of three blocks
    (tmp_path / "bad.tok").write_bytes(data)
    with pytest.raises(TokError, match="block 2"):
        decode_file(model, tmp_path / "bad.tok", tmp_path / "bad.wav")
    assert not (tmp_path / "bad.wav").exists()

    report = decode_file(model, tmp_path / "bad.tok", tmp_path / "bad.wav", salvage=True)
    assert report.lost == ((10.0, 20.0),) and report.complete and report.num_samples == 25 * rate
    found = soundfile.read(tmp_path / "bad.wav", dtype="int16", always_2d=True)[0]
    whole = model.decode(Tokens.load(tmp_path / "bad.tok", salvage=True))[0].numpy()
    np.testing.assert_array_equal(found.T, pcm16(whole))
    assert not found[int(10.01 * rate) : int(19.99 * rate)].any()
    assert found[: 10 * rate].any() and found[20 * rate :].any()


def test_salvage_of_a_file_without_its_end(model, tmp_path):
    recording(tmp_path / "a.wav", 16000, 1, 25 * 16000)
    encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok")
    data = (tmp_path / "a.tok").read_bytes()
    (tmp_path / "cut.tok").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(TokError, match="cut short"):
        decode_file(model, tmp_path / "cut.tok", tmp_path / "cut.wav")
    report = decode_file(model, tmp_path / "cut.tok", tmp_path / "cut.wav", salvage=True)
    assert not report.complete and 10 <= report.seconds < 25
    assert soundfile.info(tmp_path / "cut.wav").frames == report.num_samples


def test_a_failure_leaves_the_old_output_and_nothing_else(model, tmp_path):
    wav = recording(tmp_path / "a.wav", 16000, 1, 16000 * 12)
    wav[0, -1] = np.nan
    soundfile.write(tmp_path / "a.wav", wav.T, 16000, subtype="FLOAT")
    (tmp_path / "a.tok").write_bytes(b"before")
    with pytest.raises(AudioError, match="NaN"):  # found after the first block has been written
        encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok")
    assert (tmp_path / "a.tok").read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["a.tok", "a.wav"]


def test_refuses_another_model_and_its_own_input(model, tmp_path):
    recording(tmp_path / "a.wav", 16000, 1, 400)
    encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok")
    with pytest.raises(ValueError, match="load the model that made them"):
        decode_file(tiny_codec(seed=1), tmp_path / "a.tok", tmp_path / "b.wav")
    with pytest.raises(ValueError, match="not in the box"):
        decode_file(None, tmp_path / "a.tok", tmp_path / "b.wav")
    os.link(tmp_path / "a.wav", tmp_path / "same.tok")
    with pytest.raises(ValueError, match="the input itself"):
        encode_file(model, tmp_path / "a.wav", tmp_path / "same.tok")
    with pytest.raises(ValueError, match="the input itself"):
        decode_file(model, tmp_path / "a.tok", tmp_path / "a.tok")
    assert not (tmp_path / "b.wav").exists()


def test_says_when_energy_above_the_band_is_lost(model, tmp_path):
    time = np.arange(44100) / 44100
    for name, frequency in (("low", 440), ("high", 15000)):
        soundfile.write(tmp_path / f"{name}.wav", 0.5 * np.sin(2 * np.pi * frequency * time), 44100)
    assert encode_file(model, tmp_path / "low.wav", tmp_path / "low.tok").note is None
    assert "8 kHz" in encode_file(model, tmp_path / "high.wav", tmp_path / "high.tok").note


def test_decoded_comes_in_blocks(model, tmp_path):
    model.encode(torch.randn(1, 16000 * 35) * 0.1).save(tmp_path / "a.tok")
    with TokReader(tmp_path / "a.tok") as reader:
        sizes = [block.shape[1] for block in decoded(model, reader)]
    assert sum(sizes) == 16000 * 35 and max(sizes) <= 16000 * 10


def test_codes_held_for_several_frames_may_end_behind_the_audio(tmp_path):
    """The decoder gives all of the last group before the end of the file says how long the audio was."""
    config = make_config(
        decoder=SEANetDecoderConfig(channels=4, strides=(8, 5, 4), residual_layers=1, lstm_layers=0),
        quantizer=QuantizerConfig("multiscale_rvq", 2, 32, {"strides": (4, 1)}),
    )
    model = make_model(config)
    wav = torch.randn(1, (BLOCK_FRAMES + 1) * 160 - 50) * 0.1
    tokens = model.encode(wav)
    assert tokens.num_frames == BLOCK_FRAMES + 4
    tokens.save(tmp_path / "a.tok")
    with TokReader(tmp_path / "a.tok") as reader:
        heard = np.concatenate(list(decoded(model, reader)), axis=1)
    np.testing.assert_array_equal(heard, model.decode(tokens)[0].numpy())


def test_cut():
    blocks = [np.arange(n)[None] for n in (3, 0, 11, 1)]
    parts = list(cut(blocks, 4))
    assert [part.shape[1] for part in parts] == [4, 4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), np.concatenate(blocks, axis=1))
    assert list(cut([], 4)) == [] and list(cut([np.zeros((1, 0))], 4)) == []


def test_mute():
    wav = np.ones((2, 10), np.float32)
    np.testing.assert_array_equal(mute(wav, 100, [(0, 26), (27, 28), (90, 99)], 4)[0], [0] * 4 + [1] * 4 + [0] * 2)
    assert wav.all()


MEASURE = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_files import tiny_codec
from codec.files import decode_file, encode_file
import numpy as np, soundfile
seconds = int(sys.argv[1])
with soundfile.SoundFile("a.wav", "w", 16000, 2) as file:
    for _ in range(seconds):
        file.write(np.random.default_rng(0).standard_normal((16000, 2)) * 0.1)
model = tiny_codec()
encode_file(model, "a.wav", "a.tok")
decode_file(model, "a.tok", "b.wav")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak of memory from /proc")
def test_memory_does_not_grow_with_length(tmp_path):
    script = MEASURE.format(tests=os.path.dirname(__file__))
    root = os.path.dirname(os.path.dirname(__file__))
    environment = {**os.environ, "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    peak = [
        int(subprocess.run(
            [sys.executable, "-c", script, str(seconds)], cwd=tmp_path, env=environment, check=True, capture_output=True
        ).stdout)
        for seconds in (40, 600)
    ]  # kilobytes; 560 s more would be 72 MB as float32
    assert peak[1] - peak[0] < 30_000, peak
