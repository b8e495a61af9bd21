"""Mimi converted from `transformers`: the same codes and the same sound, and what is better here."""

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
from codec.convert.mimi import read
from codec.convert.source import Source
from codec.training import recipe

transformers = pytest.importorskip("transformers")

HOP = 24
# One SEANet frame is 12 samples: an odd number of them makes the last convolution repeat the last one.
LENGTHS = [1, 2, 5, 12, 13, HOP - 1, HOP, HOP + 1, 3 * HOP - 5, 4 * HOP, 20 * HOP + 7, 300 * HOP + 3]


def published(**changes):
    """Frames of 24 samples, 1 semantic and 5 acoustic codebooks of 64; seeded weights, codebooks that fit what they code."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32, "num_filters": 4, "upsampling_ratios": [4, 3], "codebook_size": 64, "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16, "num_quantizers": 6, "upsample_groups": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 48, "sliding_window": 7,
        "layer_scale_initial_scale": 0.5,  # enough of the transformers to be heard
    }
    model = transformers.MimiModel(transformers.MimiConfig(**(settings | changes))).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("conv.bias"):
            parameter.mul_(0.1)  # the signal is to matter more than they do
        if name.endswith(("layernorm.weight", "layernorm.bias", "scale")):
            parameter.add_(0.2 * torch.randn_like(parameter))
        if "decoder_seanet" in name and name.endswith("weight"):
            parameter.mul_(0.5)  # sound of about full scale
    fit_codebooks(model)
    return model


def fit_codebooks(model):
    latents = model.encoder(noise(1, 1, 4000)).latents
    for half in (model.quantizer.semantic_residual_vector_quantizer, model.quantizer.acoustic_residual_vector_quantizer):
        narrow = (latents if half.input_proj is None else half.input_proj(latents))[0]
        for index, layer in enumerate(half.layers):
            book = layer.codebook
            book.embed_sum.normal_().mul_(narrow.std(1) * 0.85**index).add_(narrow.mean(1) if index == 0 else 0)
            book.cluster_usage.uniform_(0.5, 2.0)
            book.embed_sum.mul_(book.cluster_usage[:, None])
            book.cluster_usage[3] = 0.0  # a dead code: its usage is taken for 1e-5
            book.embed_sum[3] *= 1e-5


@pytest.fixture(scope="module")
def theirs():
    return published()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    return save(theirs, tmp_path_factory.mktemp("mimi"))


@pytest.fixture(scope="module")
def ours(folder):
    return codec.load(folder)


@torch.no_grad()
def assert_parity(theirs, ours, wav, counts=None):
    for k in counts or range(1, ours.num_codebooks + 1):
        expected = theirs.encode(wav, num_quantizers=k).audio_codes  # (B, K, T')
        tokens = ours.encode(wav, num_codebooks=k)
        assert_codes(tokens.codes, expected)
        tokens = dataclasses.replace(tokens, codes=expected)
        sound = theirs.decode(expected).audio_values[..., : wav.shape[2]]
        torch.testing.assert_close(ours.decode(tokens), sound, rtol=0, atol=1e-5 * max(1.0, sound.abs().max().item()))
    if expected.shape[2] > 20:
        assert len(expected[:, 0].unique()) > 3  # weights that do not code everything alike


@pytest.mark.parametrize("length", LENGTHS)
def test_same_codes_and_sound(theirs, ours, length):
    assert_parity(theirs, ours, noise(2, 1, length, seed=length))


@pytest.mark.parametrize("changes", [
    {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 1},
    {"use_conv_shortcut": True, "compress": 4, "num_residual_layers": 2, "sliding_window": 1000},
    {"pad_mode": "replicate", "last_kernel_size": 7, "kernel_size": 5, "num_semantic_quantizers": 2},
    {"pad_mode": "reflect", "upsampling_ratios": [5, 2], "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    {"codebook_dim": 32, "vector_quantization_hidden_dimension": 32, "upsample_groups": 8},
    {"codebook_dim": 64, "vector_quantization_hidden_dimension": 64, "upsampling_ratios": [8, 4], "sliding_window": 4},
    {"frame_rate": 500},
], ids=["shared-keys", "shortcut", "replicate", "reflect", "no-maps", "wide", "stride-4"])
def test_other_settings(tmp_path, changes):
    theirs = published(**changes)
    ours = codec.load(save(theirs, tmp_path))
    for length in (1, 3, 47, 48, 49, 997):
        assert_parity(theirs, ours, noise(1, 1, length, seed=length), counts=(2, 6))


@torch.no_grad()
def test_the_settings_of_the_released_model(tmp_path):
    """24 kHz in the released structure and frame rate, half as wide and with fewer layers."""
    torch.manual_seed(0)
    config = transformers.MimiConfig(num_filters=8, num_hidden_layers=1)
    theirs = transformers.MimiModel(config).eval().requires_grad_(False)
    fit_codebooks(theirs)
    ours = codec.load(save(theirs, tmp_path))
    assert (ours.frame_rate, ours.frame_size, ours.num_codebooks, ours.codebook_size) == (12.5, 1920, 32, 2048)
    assert ours.bitrate(8) == 1100
    assert_parity(theirs, ours, noise(1, 1, 9000), counts=(8, 32))


@pytest.mark.parametrize("length", [1, HOP - 1, 5 * HOP, 40 * HOP + 5])
@pytest.mark.parametrize("sizes", [[1], [HOP], [7, 50, 1, 200, 3], [10_000]], ids=["1", "hop", "odd", "whole"])
def test_streams_with_parity(ours, length, sizes):
    """Also the decoder, whose convolutions have no state in `transformers`: there only whole signals decode rightly."""
    wav = noise(2, 1, length, seed=length)
    tokens = ours.encode(wav)
    codes, pcm = stream(ours, wav, sizes, 6)
    assert torch.equal(codes, tokens.codes)
    torch.testing.assert_close(pcm[..., :length], ours.decode(tokens), rtol=0, atol=1e-5)


def test_every_frame_comes_with_its_end(ours):
    with ours.stream() as live:
        wav = noise(1, 1, 3 * HOP)
        assert live.encode(wav[..., : HOP - 1]).shape[2] == 0
        assert live.encode(wav[..., HOP - 1 : HOP]).shape[2] == 1
        assert live.encode(wav[..., HOP:]).shape[2] == 2
        assert live.decode(ours.encode(wav).codes[..., :2]).shape[2] == 2 * HOP


def test_long_audio_is_coded_in_blocks_with_the_result_of_the_whole(theirs, ours):
    """More frames than a block has, so that keys and values cross from one to the next."""
    wav = noise(1, 1, 1100 * HOP)
    expected = theirs.encode(wav).audio_codes
    assert (ours.encode(wav).codes == expected).float().mean() >= 0.999


def test_a_batch_is_each_item_alone(theirs, ours):
    """Theirs does not use its padding mask (transformers#43377): the last frames of short items have other codes. Here every
    item is coded as if it were alone."""
    lengths = [500, 30, 7 * HOP, 500, 1]
    wav = noise(5, 1, 500)
    tokens = ours.encode(wav, lengths=lengths)
    sound = ours.decode(tokens)
    for row, length in enumerate(lengths):
        alone = ours.encode(wav[row, :, :length])
        frames = alone.codes.shape[2]
        assert torch.equal(tokens.codes[row, :, :frames], alone.codes[0]) and tokens.lengths[row] == frames
        torch.testing.assert_close(sound[row, :, :length], ours.decode(alone)[0], rtol=0, atol=1e-5)
        assert torch.equal(alone.codes, theirs.encode(wav[row : row + 1, :, :length]).audio_codes)


def copy(folder, to, tensors=None, without=(), **changes):
    save_file(load_file(folder / "model.safetensors") if tensors is None else tensors, to / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key not in without}))
    return to


def test_old_configurations(folder, ours, tmp_path):
    """The released config.json: its frame rate is stated, and the base of the positions is a setting of its own."""
    old = copy(folder, tmp_path, without=("rope_parameters", "_frame_rate"), rope_theta=10000.0, frame_rate=1000.0, head_dim=None)
    assert codec.load(old).config == ours.config and codec.load(old).spec == ours.spec


def test_the_recipe_is_the_released_model(monkeypatch):
    monkeypatch.setattr(Source, "codec", lambda self, config: config)
    assert read(transformers.MimiConfig().to_dict(), {}) == recipe.load("mimi").model


def test_tensors_that_do_not_fit_are_named(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    acoustic = "quantizer.acoustic_residual_vector_quantizer"
    for name in ("encoder_transformer.layers.1.self_attn.k_proj.weight", "downsample.conv.weight",
                 f"{acoustic}.layers.2.codebook.embed_sum"):
        del tensors[name]
    tensors["decoder_transformer.layers.2.mlp.fc1.weight"] = torch.zeros(48, 32)
    tensors["decoder_transformer.layers.0.self_attn.q_proj.weight"] = torch.zeros(16, 32)
    tensors["decoder_transformer.layers.1.mlp.fc1.weight"] = torch.zeros(47, 32)
    tensors[f"{acoustic}.layers.1.codebook.cluster_usage"] = torch.ones(3)
    tensors[f"{acoustic}.input_proj.weight"] = torch.zeros(16, 32)
    with pytest.raises(ConfigError) as caught:
        convert(copy(folder, tmp_path, tensors))
    message = str(caught.value)
    for part in ("missing encoder_transformer.layers.1.self_attn.k_proj.weight, downsample.conv.weight, "
                 f"{acoustic}.layers.2.codebook.embed_sum; ", "unexpected decoder_transformer.layers.2.mlp.fc1.weight; ",
                 "decoder_transformer.layers.0.self_attn.q_proj.weight is (16, 32), unlike others beside it",
                 "decoder_transformer.layers.1.mlp.fc1.weight is (47, 32) instead of (48, 32)",
                 f"{acoustic}.layers.1.codebook.cluster_usage is (3,)", f"{acoustic}.input_proj.weight is (16, 32)"):
        assert part in message, message
    assert "\n" not in message


@pytest.mark.parametrize("changes, message", [
    ({"use_causal_conv": False}, "look ahead"),
    ({"audio_channels": 2}, "mono"),
    ({"trim_right_ratio": 0.5}, "streamed"),
    ({"head_dim": 8}, "head_dim=8"),
    ({"num_attention_heads": 5}, "not a multiple"),
    ({"attention_bias": True}, "no biases"),
    ({"hidden_act": "silu"}, "GELU"),
    ({"norm_eps": 1e-3}, "1e-5"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn'"),
    ({"rope_parameters": [1]}, "rope_parameters must be dict"),
    ({"codebook_dim": 8}, "as wide as"),
    ({"frame_rate": 2000.0}, "frame_rate"),
    ({"frame_rate": 1e-9}, "frame_rate"),
    ({"encoder_config": None}, "has no encoder"),
    ({"num_semantic_quantizers": 6}, "at least 1 must be semantic"),
    ({"num_hidden_layers": 10**6}, "transformer_layers is 1e+06"),
    ({"num_hidden_layers": 3}, "missing encoder_transformer.layers.2"),
    ({"sliding_window": 0}, "sliding_window is 0"),
    ({"upsample_groups": 7}, "groups"),
])
def test_what_cannot_be_had_is_refused_in_one_line(folder, tmp_path, changes, message):
    with pytest.raises(ConfigError) as caught:
        codec.load(copy(folder, tmp_path, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)
