"""A codec whose decoder has another rate than its encoder: the same promises as of any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import make_config, make_model

import codec
from codec.config import CodecConfig, ConfigError, ConvNeXtDecoderConfig, DACDecoderConfig, DACEncoderConfig
from codec.container import TokReader
from codec.files import decode_file, decoded, encode_file
from codec.model import Codec

RATE, SIZE = 24_000, 240  # of the decoder; 16_000 and 160 of the encoder


def two_rates(**changes) -> CodecConfig:
    decoder = ConvNeXtDecoderConfig(
        window=240, channels=27, hidden=50, blocks=2, upsample=4, fine_channels=18, fine_hidden=31, fine_blocks=1,
        kernel_size=5, delay=240,
    )
    return make_config(**({"output_sample_rate": RATE, "decoder": decoder} | changes))


@pytest.fixture(scope="module")
def model():
    return make_model(two_rates())


@pytest.fixture(scope="module")
def finite():
    """Not causal: a finite context to both sides."""
    return make_model(two_rates(
        encoder=DACEncoderConfig(channels=4, strides=(4, 5, 8)), decoder=DACDecoderConfig(channels=32, strides=(8, 6, 5)),
    ))


@pytest.fixture(params=["model", "finite"])
def either(request):
    return request.getfixturevalue(request.param)


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_what_it_says_of_itself(model):
    assert (model.sample_rate, model.frame_size, model.frame_rate) == (16_000, 160, 100.0)
    assert (model.output_sample_rate, model.output_frame_size) == (RATE, SIZE)
    assert model.latency == pytest.approx(160 / 16_000 + 240 / RATE)
    assert (model.spec.sample_rate, model.spec.frame_size) == (16_000, 160)  # tokens and files know nothing of the other rate


def test_a_configuration_without_it_is_as_it_was():
    assert "output_sample_rate" not in make_config().to_dict()
    assert CodecConfig.from_dict(two_rates().to_dict()) == two_rates()
    plain = make_model(make_config())
    assert (plain.output_sample_rate, plain.output_frame_size) == (plain.sample_rate, plain.frame_size)


@pytest.mark.parametrize("rate, problem", [(22_050, "no whole number of samples"), (50, "no whole number"), (0, "must lie in 1 to")])
def test_rates_that_do_not_fit_are_refused(rate, problem):
    with pytest.raises(ConfigError, match=problem):
        Codec(CodecConfig.from_dict(two_rates().to_dict() | {"output_sample_rate": rate}))


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 44_100])
@pytest.mark.parametrize("samples", [1, 161, 2401, 7777])
def test_every_length_comes_back(either, rate, samples):
    tokens = either.encode(noise(2, samples), sample_rate=rate)
    assert either.decode(tokens).shape == (1, 2, samples)
    assert either.decode_frames(tokens.codes).shape == (2, 1, tokens.num_frames * SIZE)


def test_at_the_decoders_rate_nothing_is_resampled(either):
    tokens = either.encode(noise(5000), sample_rate=RATE)
    torch.testing.assert_close(either.decode(tokens)[0], either.decode_frames(tokens.codes)[0, :, :5000], rtol=0, atol=0)


def test_a_batch_is_its_items_alone(either):
    lengths, wav = [4000, 960, 3001], noise(3, 1, 4000)
    tokens = either.encode(wav, lengths=lengths)
    audio = either.decode(tokens)
    for row, length in enumerate(lengths):
        alone = either.encode(wav[row, :, :length])
        assert torch.equal(tokens.item(row).codes, alone.codes)
        torch.testing.assert_close(audio[row, :, :length], either.decode(alone)[0], rtol=0, atol=1e-6)
        assert (audio[row, :, length:] == 0).all()


@pytest.mark.parametrize("sizes", [[1, 159, 160, 3], [777], [5000]])
def test_a_stream_is_the_whole(either, sizes):
    wav = noise(1, 1, 5000)
    tokens = either.encode(wav)
    codes, pcm, start, turn = [], [], 0, 0
    with either.stream() as live:
        while start < 5000:
            size = sizes[turn % len(sizes)]
            codes.append(live.encode(wav[..., start : start + size]))
            pcm.append(live.decode(codes[-1]))
            start, turn = start + size, turn + 1
        codes.append(live.flush())
        pcm += [live.decode(codes[-1]), live.flush_decoder()]
    assert torch.equal(torch.cat(codes, 2), tokens.codes)
    whole = either.decode_frames(tokens.codes)
    torch.testing.assert_close(torch.cat(pcm, 2)[..., : whole.shape[2]], whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate, seconds", [(16_000, 12.34567), (44_100, 0.7), (24_000, 0.0101)])
def test_files_are_what_arrays_are(either, tmp_path, rate, seconds):
    import soundfile

    samples = round(rate * seconds)
    wav = (noise(samples, 2).clamp(-1, 1) * 32767).round() / 32768
    soundfile.write(tmp_path / "a.wav", wav.numpy(), rate, subtype="PCM_16")
    encode_file(either, tmp_path / "a.wav", tmp_path / "a.tok")
    report = decode_file(either, tmp_path / "a.tok", tmp_path / "b.wav")
    assert (report.num_samples, report.sample_rate) == (samples, rate)
    heard, found = soundfile.read(tmp_path / "b.wav", dtype="float32")
    expected = either.decode(either.encode(wav.T, sample_rate=rate))[0].clamp(-1, 32767 / 32768)
    assert found == rate and heard.shape == (samples, 2)
    np.testing.assert_allclose(heard.T, expected.numpy(), rtol=0, atol=1 / 32768)


def test_lost_frames_are_silent_at_the_decoders_rate(model, tmp_path):
    tokens = model.encode(noise(16_000), sample_rate=16_000)
    lost = codec.Tokens(tokens.codes, tokens.spec, RATE, (RATE,), lost=((10, 20),))
    audio = model.decode(lost)[0, 0]
    assert (audio[10 * SIZE : 20 * SIZE] == 0).all() and (audio[9 * SIZE : 10 * SIZE] != 0).any()
    assert (audio[20 * SIZE : 21 * SIZE] != 0).any()
    tokens.save(tmp_path / "a.tok")
    with TokReader(tmp_path / "a.tok") as reader:
        assert sum(block.shape[1] for block in decoded(model, reader)) == RATE


def test_training_gives_audio_at_the_decoders_rate(model):
    output = Codec(two_rates()).train()(noise(2, 1, 10 * 160), quantize=False)
    assert output.audio.shape == (2, 1, 10 * SIZE)
    with torch.no_grad():
        output = model(noise(1, 1, 20 * 160))
    torch.testing.assert_close(output.audio, model.decode_frames(output.codes), rtol=0, atol=1e-5)
