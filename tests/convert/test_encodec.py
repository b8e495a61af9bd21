"""EnCodec converted from `transformers`: the same codes and the same sound, and what is better here."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from published import assert_codes, noise, save, stream
from safetensors.torch import load_file, save_file

import codec
from codec.config import ConfigError
from codec.convert import convert
from codec.convert.encodec import read
from codec.convert.source import Source
from codec.training import recipe

transformers = pytest.importorskip("transformers")

HOP = 24
LENGTHS = [1, 2, 5, HOP - 1, HOP, HOP + 1, 3 * HOP - 5, 7 * HOP, 7 * HOP + 1, 20 * HOP + 7, 1000 * HOP + 3]


def published(**changes):
    """Frames of 24 samples, 4, 8 and 16 codebooks of 64; seeded weights, codebooks that fit what they code."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 16, "num_filters": 4, "num_residual_layers": 2, "upsampling_ratios": [4, 3, 2],
        "codebook_size": 64, "target_bandwidths": [24.0, 48.0, 96.0],
    }
    model = transformers.EncodecModel(transformers.EncodecConfig(**(settings | changes))).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("original0"):  # lengths unlike those of the directions, or folding them would not be tested
            parameter.mul_(1.5 + 0.5 * torch.rand_like(parameter))
        if name.endswith("conv.bias"):
            parameter.mul_(0.1)  # the signal is to matter more than they do
    latents = model.encoder(noise(1, 1, 4000))[0]  # (dim, T')
    for index, layer in enumerate(model.quantizer.layers):
        layer.codebook.embed.normal_().mul_(latents.std(1) * 0.85**index).add_(latents.mean(1) if index == 0 else 0)
    return model


@pytest.fixture(scope="module")
def theirs():
    return published()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    return save(theirs, tmp_path_factory.mktemp("encodec"))


@pytest.fixture(scope="module")
def ours(folder):
    return codec.load(folder)


@torch.no_grad()
def assert_parity(theirs, ours, wav):
    for bandwidth in theirs.config.target_bandwidths:
        encoded = theirs.encode(wav, bandwidth=bandwidth)
        expected = encoded.audio_codes[0]  # (B, K, T')
        tokens = ours.encode(wav, num_codebooks=expected.shape[1])
        assert_codes(tokens.codes, expected)
        tokens = dataclasses.replace(tokens, codes=expected)
        sound = theirs.decode(encoded.audio_codes, encoded.audio_scales).audio_values[..., : wav.shape[2]]
        torch.testing.assert_close(ours.decode(tokens), sound, rtol=0, atol=1e-5)
    if expected.shape[2] > 20:
        assert len(expected[:, 0].unique()) > 3  # weights that do not code everything alike


@pytest.mark.parametrize("length", LENGTHS)
def test_same_codes_and_sound(theirs, ours, length):
    assert_parity(theirs, ours, noise(2, 1, length, seed=length))


@pytest.mark.parametrize("changes", [
    {"use_conv_shortcut": False, "compress": 4, "num_lstm_layers": 1},
    {"pad_mode": "constant", "last_kernel_size": 3, "dilation_growth_rate": 3},
    {"pad_mode": "replicate", "kernel_size": 5, "upsampling_ratios": [5, 2], "residual_kernel_size": 5},
    {"upsampling_ratios": [8, 4], "num_residual_layers": 1, "target_bandwidths": [1.5, 24.0]},
], ids=["shortcut", "constant", "replicate", "tester"])
def test_other_settings(tmp_path, changes):
    theirs = published(**changes)
    ours = codec.load(save(theirs, tmp_path))
    for length in (1, 3, 31, 32, 33, 997):
        assert_parity(theirs, ours, noise(1, 1, length, seed=length))


@torch.no_grad()
def test_the_settings_of_the_released_model(tmp_path):
    """24 kHz at its true size, in structure and in codes."""
    torch.manual_seed(0)
    theirs = transformers.EncodecModel(transformers.EncodecConfig()).eval()
    for index, layer in enumerate(theirs.quantizer.layers):
        layer.codebook.embed.normal_().mul_(0.3 * 0.9**index)
    ours = codec.load(save(theirs, tmp_path))
    assert (ours.frame_rate, ours.frame_size, ours.num_codebooks, ours.codebook_size) == (75, 320, 32, 1024)
    assert [ours.codebooks_for(bitrate=rate) for rate in (1500, 3000, 6000, 12000, 24000)] == [2, 4, 8, 16, 32]
    wav = noise(1, 1, 3333)
    tokens, encoded = ours.encode(wav), theirs.encode(wav, bandwidth=24.0)
    assert torch.equal(tokens.codes, encoded.audio_codes[0])
    sound = theirs.decode(encoded.audio_codes, encoded.audio_scales).audio_values[..., :3333]
    torch.testing.assert_close(ours.decode(tokens), sound, rtol=0, atol=1e-5)


def test_bandwidths_are_numbers_of_codebooks(theirs, ours):
    for bandwidth, k in zip(theirs.config.target_bandwidths, (4, 8, 16)):
        assert ours.codebooks_for(bitrate=1000 * bandwidth) == k
        assert theirs.quantizer.get_num_quantizers_for_bandwidth(bandwidth) == k


@pytest.mark.parametrize("length", [1, HOP - 1, 6 * HOP, 7 * HOP, 7 * HOP + 1, 40 * HOP + 5])
@pytest.mark.parametrize("sizes", [[1], [HOP], [7, 50, 1, 200, 3], [10_000]], ids=["1", "hop", "odd", "whole"])
def test_streams_with_parity(ours, length, sizes):
    wav = noise(2, 1, length, seed=length)
    tokens = ours.encode(wav, num_codebooks=8)
    codes, pcm = stream(ours, wav, sizes, 8)
    assert torch.equal(codes, tokens.codes)
    torch.testing.assert_close(pcm[..., :length], ours.decode(tokens), rtol=0, atol=1e-5)


def test_the_first_frames_come_as_soon_as_the_start_can_be_mirrored(ours):
    """The last convolution mirrors 6 frames before the signal, so it waits for 7; then every frame comes with its end."""
    assert ours.encoder.start_frames == 7 and ours.decoder.start_frames == 7
    with ours.stream() as live:
        wav = noise(1, 1, 9 * HOP)
        assert live.encode(wav[..., : 7 * HOP - 1]).shape[2] == 0
        assert live.encode(wav[..., 7 * HOP - 1 : 7 * HOP]).shape[2] == 7
        assert live.encode(wav[..., 7 * HOP :]).shape[2] == 2
    assert ours.latency == pytest.approx(7 * HOP / ours.sample_rate)


def test_a_batch_is_each_item_alone(ours):
    """Theirs codes the padding as if it were sound (the mask only silences it); here padding changes nothing."""
    lengths = [500, 30, 7 * HOP, 500, 1]
    wav = noise(5, 1, 500)
    tokens = ours.encode(wav, lengths=lengths)
    sound = ours.decode(tokens)
    for row, length in enumerate(lengths):
        alone = ours.encode(wav[row, :, :length])
        frames = alone.codes.shape[2]
        assert torch.equal(tokens.codes[row, :, :frames], alone.codes[0]) and tokens.lengths[row] == frames
        torch.testing.assert_close(sound[row, :, :length], ours.decode(alone)[0], rtol=0, atol=1e-6)
        assert not sound[row, :, length:].any()


def test_old_checkpoints_with_their_names_of_weight_normalisation(folder, ours, tmp_path):
    tensors = {
        name.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v"):
        value for name, value in load_file(folder / "model.safetensors").items()
    }
    assert "encoder.layers.0.conv.weight_g" in tensors
    copy(folder, tmp_path, tensors)
    assert codec.load(tmp_path).spec == ours.spec


def copy(folder, to, tensors=None, **changes):
    tensors = load_file(folder / "model.safetensors") if tensors is None else tensors
    save_file(tensors, to / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_the_recipe_is_the_released_model(monkeypatch):
    monkeypatch.setattr(Source, "codec", lambda self, config: config)
    assert read(transformers.EncodecConfig().to_dict(), {}) == recipe.load("encodec_24k").model


def test_tensors_that_do_not_fit_are_named(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layers.0.conv.bias"]
    del tensors["decoder.layers.0.conv.parametrizations.weight.original0"]
    del tensors["quantizer.layers.3.codebook.embed"]
    tensors["more"] = torch.zeros(1)
    tensors["decoder.layers.1.lstm.bias_ih_l0"] = torch.zeros(3)
    tensors["encoder.layers.1.block.1.conv.bias"] = torch.full((2,), torch.nan)
    with pytest.raises(ConfigError) as caught:
        convert(copy(folder, tmp_path, tensors))
    message = str(caught.value)
    for part in ("missing encoder.layers.0.conv.bias, decoder.layers.0.conv.parametrizations.weight.original0, "
                 "quantizer.layers.3.codebook.embed; unexpected more; ", "encoder.layers.1.block.1.conv.bias holds NaN",
                 "decoder.layers.1.lstm.bias_ih_l0 is (3,) instead of "):
        assert part in message
    assert "\n" not in message and "original1" not in message


@pytest.mark.parametrize("changes, message", [
    ({"norm_type": "time_group_norm"}, "take encodec_24khz"),
    ({"normalize": True}, "take encodec_24khz"),
    ({"chunk_length_s": 1.0}, "take encodec_24khz"),
    ({"use_causal_conv": False}, "look ahead"),
    ({"audio_channels": 2}, "mono"),
    ({"trim_right_ratio": 0.5}, "streamed"),
    ({"pad_mode": "circular"}, "pad_mode='circular'"),
    ({"codebook_dim": 8}, "as wide as the latents"),
    ({"upsampling_ratios": "8"}, "upsampling_ratios must be list"),
    ({"upsampling_ratios": [8, 0]}, "positive whole numbers"),
    ({"upsampling_ratios": [1000, 1000, 1000]}, "frame_size is 1e+09"),
    ({"num_filters": True}, "num_filters must be int"),
    ({"num_filters": 10**9}, "channels is 1e+09"),
    ({"target_bandwidths": []}, "target_bandwidths"),
    ({"target_bandwidths": [1.0, "x"]}, "target_bandwidths"),
    ({"model_type": "bert"}, "model_type 'bert' cannot be converted; there is"),
    ({"model_type": ["encodec"]}, "cannot be converted"),
    ({"num_residual_layers": 1}, "; wrong: encoder.layers.12.conv.parametrizations.weight.original1 is"),
    ({"num_lstm_layers": 3}, "missing encoder.layers.13.lstm.weight_ih_l2"),
])
def test_what_cannot_be_had_is_refused_in_one_line(folder, tmp_path, changes, message):
    with pytest.raises(ConfigError) as caught:
        codec.load(copy(folder, tmp_path, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)
