from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from small_models import make_config, make_model

import codec
from codec.model import Codec
from codec.tokens import Tokens

RATES = (8000, 11025, 16000, 22050, 44100, 48000, 96000)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same_codes(a: torch.Tensor, b: torch.Tensor) -> None:
    """Bit by bit. SEANet's may differ in 1 frame of 100,000, which of the few hundred here is none."""
    assert torch.equal(a, b), f"{(a != b).any(1).sum()} of {a.shape[0] * a.shape[2]} frames differ"


# Lengths and shapes


@pytest.mark.parametrize("rate", RATES)
def test_every_length_comes_back(tiny_model, rate):
    for samples in (1, 2, 7, 159, 160, 161, 441, 1000, 3209):
        tokens = tiny_model.encode(noise(samples), sample_rate=rate)
        at_model_rate = math.ceil(samples * 16000 / rate)
        assert tokens.codes.shape == (1, 4, math.ceil(at_model_rate / 160)) and tokens.codes.dtype == torch.int64
        audio = tiny_model.decode(tokens)
        assert audio.shape == (1, 1, samples) and audio.dtype == torch.float32 and audio.isfinite().all()


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_every_channel_is_coded(any_model, channels):
    wav = noise(channels, 900)
    tokens = any_model.encode(wav, sample_rate=44100)
    assert tokens.channels == channels and tokens.codes.shape[0] == channels and tokens.num_samples == (900,)
    audio = any_model.decode(tokens)
    assert audio.shape == (1, channels, 900)
    for channel in range(channels):
        alone = any_model.encode(wav[channel], sample_rate=44100)
        assert_same_codes(tokens.codes[channel : channel + 1], alone.codes)
        torch.testing.assert_close(audio[:, channel : channel + 1], any_model.decode(alone), rtol=0, atol=1e-6)


def test_arrays_lists_and_doubles_are_audio_too(tiny_model):
    wav = noise(500)
    codes = tiny_model.encode(wav).codes
    for same in (wav.numpy(), wav.double(), wav.double().numpy(), wav.tolist(), wav[None], wav[None, None]):
        assert torch.equal(tiny_model.encode(same).codes, codes)


def test_properties_follow_from_the_configuration(tiny_model):
    assert (tiny_model.sample_rate, tiny_model.frame_size, tiny_model.frame_rate) == (16000, 160, 100.0)
    assert (tiny_model.num_codebooks, tiny_model.codebook_size, tiny_model.channels) == (4, 32, 1)
    assert tiny_model.codebook_sizes == (32,) * 4 and tiny_model.bitrate() == 2000 and tiny_model.bitrate(1) == 500
    assert tiny_model.encode(noise(160)).bitrate == 2000


def test_training_can_go_on_with_what_comes_out(tiny_model):
    tokens = tiny_model.encode(noise(500))
    embedding = torch.nn.Embedding(32, 4)
    gain = torch.ones((), requires_grad=True)
    (embedding(tokens.codes).sum() + (gain * tiny_model.decode(tokens)).square().sum()).backward()
    assert embedding.weight.grad is not None and gain.grad is not None


# Latency and causality


@torch.no_grad()
def test_latency_is_what_the_signal_path_says(any_model):
    """Output sample p may depend on input samples up to p + latency - 1, and some does on just that one."""
    latency = round(any_model.latency * any_model.sample_rate)
    wav = noise(1, 1, 12 * 160)
    before = any_model(wav, quantize=False).audio
    worst = 0
    for sample in [*range(5 * 160, 7 * 160, 13), 6 * 160 - 2, 6 * 160 - 1, 7 * 160 - 1]:
        changed = wav.clone()
        changed[..., sample] += 1e4
        moved = (any_model(changed, quantize=False).audio != before).flatten().nonzero()
        if len(moved):  # a single sample at the foot of the analysis window may drown in rounding
            worst = max(worst, sample - int(moved[0]) + 1)
    # A Hann window starts with a zero: the very first sample that the last frame could move, it does not.
    assert worst == latency - (any_model.config.decoder.name == "convnext_stft")


def test_the_default_codec_answers_within_40_ms():
    assert Codec(dataclasses.replace(make_config(), frame_size=320, decoder=type(make_config().decoder)())).latency <= 0.040


def test_coded_audio_does_not_depend_on_the_future(any_model):
    wav = noise(3000)
    changed = wav.clone()
    changed[1600:] = noise(1400, seed=1)
    tokens, other = any_model.encode(wav), any_model.encode(changed)
    assert_same_codes(tokens.codes[..., :10], other.codes[..., :10])
    assert not torch.equal(tokens.codes[..., 10:], other.codes[..., 10:])
    heard = 1600 - round(any_model.latency * 16000) + 1
    torch.testing.assert_close(any_model.decode(tokens)[..., :heard], any_model.decode(other)[..., :heard], rtol=0, atol=1e-6)


# Batches, padding, blocks


def test_a_batch_is_its_items_alone(any_model):
    wav = noise(5, 2, 2000)
    together = any_model.encode(wav)
    audio = any_model.decode(together)
    for index in range(5):
        alone = any_model.encode(wav[index])
        assert_same_codes(together.codes[2 * index : 2 * index + 2], alone.codes)
        torch.testing.assert_close(audio[index : index + 1], any_model.decode(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_padding_changes_nothing(any_model, rate):
    lengths = [2000, 1, 160, 161, 1234]
    wav = noise(5, 1, 2000)
    for row, length in zip(wav, lengths):
        row[:, length:] = math.nan  # whatever it holds
    tokens = any_model.encode(wav, sample_rate=rate, lengths=lengths)
    audio = any_model.decode(tokens)
    assert tokens.num_samples == tuple(lengths) and audio.shape == (5, 1, 2000)
    for index, length in enumerate(lengths):
        alone = any_model.encode(wav[index, :, :length], sample_rate=rate)
        frames = alone.codes.shape[2]
        assert tokens.lengths[index] == frames
        assert_same_codes(tokens.codes[index : index + 1, :, :frames], alone.codes)
        torch.testing.assert_close(audio[index : index + 1, :, :length], any_model.decode(alone), rtol=0, atol=1e-6)
        assert (audio[index, :, length:] == 0).all()


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_the_size_of_blocks_changes_nothing(any_model, monkeypatch, block):
    wav = noise(60 * 160 + 5)
    tokens = any_model.encode(wav)
    audio = any_model.decode(tokens)
    monkeypatch.setattr("codec.coding.BLOCK_FRAMES", block)
    assert_same_codes(any_model.encode(wav).codes, tokens.codes)
    torch.testing.assert_close(any_model.decode(tokens), audio, rtol=0, atol=1e-6)


def test_the_frame_wise_model_decodes_to_the_same_bits(tiny_model, monkeypatch):
    wav = noise(3, 1, 150 * 160)
    tokens = tiny_model.encode(wav)
    audio = tiny_model.decode(tokens)
    assert torch.equal(tiny_model.decode(tokens.item(1)), audio[1:2])
    monkeypatch.setattr("codec.coding.BLOCK_FRAMES", 13)
    assert torch.equal(tiny_model.decode(tokens), audio)


# Bits


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_first_codebooks_decode_alone(tiny_model, k):
    tokens = tiny_model.encode(noise(1000))
    few = tiny_model.encode(noise(1000), num_codebooks=k)
    assert torch.equal(few.codes, tokens.codes[:, :k]) and torch.equal(few.codes, tokens.truncate(k).codes)
    assert tiny_model.decode(tokens.truncate(k)).shape == (1, 1, 1000)
    assert few.bitrate == tiny_model.bitrate(k) == 500 * k


def test_a_bitrate_between_two_rounds_down_and_says_so(tiny_model):
    with pytest.warns(UserWarning, match=r"1400 bit/s rounds down to 1000 bit/s \(2 codebooks\)"):
        assert tiny_model.encode(noise(500), bitrate=1400).num_codebooks == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny_model.encode(noise(500), bitrate=1500).num_codebooks == 3
        assert tiny_model.codebooks_for(np.int64(2)) == 2


# Refusals


@pytest.mark.parametrize("wav, options, message", [
    (torch.tensor([0.0, math.nan]), {}, "NaN or infinite"),
    (torch.tensor([0.0, math.inf]), {}, "NaN or infinite"),
    (np.array([1e300]), {}, "NaN or infinite"),
    (np.zeros(100, np.int16), {}, "wav / 32768"),
    (torch.zeros(0), {}, "at least one sample"),
    (torch.zeros(2, 0), {}, "at least one sample"),
    (torch.zeros(0, 1, 5), {}, "at least one sample"),
    (torch.zeros(1, 1, 1, 5), {}, "it must be (T,), (channels, T) or (batch, channels, T)"),
    (torch.tensor(0.0), {}, "it must be (T,)"),
    (torch.zeros(5), {"sample_rate": 0}, "sample_rate=0 must be"),
    (torch.zeros(5), {"sample_rate": -8000}, "sample_rate=-8000 must be"),
    (torch.zeros(5), {"sample_rate": math.nan}, "sample_rate=nan must be"),
    (torch.zeros(5), {"sample_rate": 11025.5}, "sample_rate=11025.5 must be"),
    (torch.zeros(5), {"num_codebooks": 5}, "there are 1 to 4"),
    (torch.zeros(5), {"num_codebooks": 0}, "there are 1 to 4"),
    (torch.zeros(5), {"num_codebooks": 2.5}, "there are 1 to 4"),
    (torch.zeros(5), {"bitrate": 100}, "the least is 500 bit/s"),
    (torch.zeros(5), {"bitrate": 9000}, "the most is 2000 bit/s"),
    (torch.zeros(5), {"bitrate": math.nan}, "the least is 500 bit/s"),
    (torch.zeros(5), {"bitrate": 1000, "num_codebooks": 2}, "not both"),
    (torch.zeros(2, 1, 5), {"lengths": [5]}, "2 numbers from 1 to 5"),
    (torch.zeros(2, 1, 5), {"lengths": [5, 0]}, "2 numbers from 1 to 5"),
    (torch.zeros(2, 1, 5), {"lengths": [5, 6]}, "2 numbers from 1 to 5"),
])
def test_bad_input_is_refused_with_the_remedy(tiny_model, wav, options, message):
    with pytest.raises(ValueError) as caught:
        tiny_model.encode(wav, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_loud_audio_does_not_spoil_what_follows(any_model):
    wav = noise(4000)
    wav[:160] = 1e30
    audio = any_model.decode(any_model.encode(wav))
    assert audio.isfinite().all()


def test_foreign_tokens_are_refused(tiny_model):
    tokens = tiny_model.encode(noise(500))
    other = make_model(make_config(name="other"))
    assert torch.equal(other.decode(tokens), tiny_model.decode(tokens))  # another name, the same codebooks
    other.quantizer.codebooks[0, 0, 0] += 1
    with pytest.raises(ValueError, match="made by model 'tiny' .* but this is 'other' .*: load the model that made them"):
        other.decode(tokens)


def test_a_better_decoder_is_welcome(tiny_model):
    other = make_model(make_config())
    with torch.no_grad():
        other.decoder.head.bias += 0.1
    tokens = tiny_model.encode(noise(500))
    assert other.spec.fingerprint == tokens.spec.fingerprint
    assert other.spec.decoder_fingerprint != tokens.spec.decoder_fingerprint
    assert other.decode(tokens).shape == (1, 1, 500)


def test_fingerprints_follow_every_change_of_the_weights():
    model = make_model(make_config())
    seen = [model.spec]
    model.encoder.out.bias += 1
    seen.append(model.spec)
    model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()})
    seen.append(model.spec)
    model.half().float()
    seen.append(model.spec)
    assert len({spec.fingerprint for spec in seen}) == 4
    assert model.spec is model.spec  # hashed once


def test_half_precision_weights_are_refused():
    model = make_model(make_config()).bfloat16()
    with pytest.raises(ValueError, match=r"call model.float\(\)"):
        model.encode(noise(500))
    with pytest.raises(ValueError, match=r"call model.float\(\)"):
        model.stream()


# Salvaged and empty tokens


def test_lost_frames_are_muted_and_nothing_else(tiny_model):
    tokens = tiny_model.encode(noise(3000))
    whole = tiny_model.decode(tokens)
    muted = tiny_model.decode(dataclasses.replace(tokens, lost=((3, 5), (9, 10))))
    for start, stop in ((3, 5), (9, 10)):
        assert (muted[..., start * 160 : stop * 160] == 0).all()
        whole[..., start * 160 : stop * 160] = 0
    assert torch.equal(muted, whole)


def test_no_frames_decode_to_no_samples(any_model):
    assert any_model.decode(any_model.encode(noise(500))[2:2]).shape == (1, 1, 0)


def test_slices_decode_to_their_length(any_model):
    tokens = any_model.encode(noise(1000), sample_rate=22050)
    for cut in (tokens[0:3], tokens[2:], tokens[4:5]):
        assert any_model.decode(cut).shape[2] == cut.num_samples[0] > 0


# Training


def test_forward_trains_and_is_aligned_like_decode():
    model = make_model(make_config()).requires_grad_(True).train()
    wav = noise(3, 1, 1600)
    model.quantizer.prepare_training(frames_per_step=30)
    model.quantizer.initialize(model.encoder(noise(4, 1, 16000, seed=2))[0].detach())
    output = model(wav, active=torch.tensor([4, 1, 2]))
    assert output.audio.shape == wav.shape and output.codes.shape == (3, 4, 10)
    (output.audio.square().mean() + output.losses["commitment"]).backward()
    assert model.encoder.embed.weight.grad.abs().sum() > 0 and model.decoder.embed.weight.grad.abs().sum() > 0
    model.eval().requires_grad_(False)
    tokens = model.encode(wav)
    output = model(wav)
    assert torch.equal(output.codes, tokens.codes)
    torch.testing.assert_close(output.audio, model.decode(tokens), rtol=0, atol=1e-4)


def test_without_quantization_there_are_no_codes(tiny_model):
    output = tiny_model(noise(1, 1, 1600), quantize=False)
    assert output.codes is None and output.losses == {} and output.quantized is output.latents


def test_tokens_are_what_the_architecture_says(tiny_model):
    tokens = tiny_model.encode(noise(2, 1, 500))
    assert isinstance(tokens, Tokens) and tokens.batch_size == 2 and tokens.lengths.tolist() == [4, 4]
    assert tokens.spec == tiny_model.spec and tokens.sample_rate == 16000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_comes_back_from_half_precision_has_its_windows_again(dtype):
    model = codec.load("speech-16k")
    windows = {name: value.clone() for name, value in model.named_buffers() if name not in model.state_dict()}
    model.to(dtype).float()
    assert windows and all(torch.equal(model.get_buffer(name), value) for name, value in windows.items())
