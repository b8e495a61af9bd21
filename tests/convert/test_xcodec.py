"""Against XcodecModel of `transformers`: random weights from its own configuration class, saved by its own save_pretrained."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
import torch
from published import noise, save
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from codec import hub
from codec.config import CodecConfig, ConfigError
from codec.convert import convert
from codec.model import Codec

transformers = pytest.importorskip("transformers")

HOP = 20
KBITS = 4.8  # of a codebook of 64 entries at 800 frames a second
SPEECH = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": [8, 8],
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "conv_stride": [5, 4], "conv_kernel": [10, 4],  # seeing 25 samples at a hop of 20, as HuBERT 400 at 320
}
TEACHERS = {
    "hubert": {"model_type": "hubert"},
    "hubert-large": {"model_type": "hubert", "feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
    "wavlm": {"model_type": "wavlm", "num_buckets": 8, "max_bucket_distance": 20},
}


def published(teacher="hubert", **settings):
    """A small XcodecModel, its weights such that no layer drowns in its bias and all codes are used."""
    torch.manual_seed(0)
    sound = {"model_type": "dac", "encoder_hidden_size": 8, "downsampling_ratios": [5, 4], "decoder_hidden_size": 32,
             "upsampling_ratios": [5, 4], "hidden_size": 8}
    config = transformers.XcodecConfig(
        acoustic_model_config=sound, semantic_model_config=SPEECH | TEACHERS[teacher], codebook_size=64,
        target_bandwidths=[k * KBITS for k in (1, 2, 3, 4)], **settings,
    )
    model = transformers.XcodecModel(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("alpha"):
                value.uniform_(0.3, 2.0)
            elif "layer_norm" in name or "original0" in name:
                value.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                value.normal_(0, 0.05)
            elif value.dim() >= 2 and "original" not in name:
                value.normal_(0, 0.7 * value[0].numel() ** -0.5)
        latents = []
        hook = model.fc.register_forward_hook(lambda layer, inputs, output: latents.append(output.flatten(0, 1)))
        model.encode(noise(1, 1, 300 * HOP, seed=1))
        hook.remove()
        left = latents[0]
        for stage in model.quantizer.quantizers:  # codes are vectors that occur
            stage.codebook.embed.copy_(left[torch.randperm(len(left))[:64]])
            left = left - stage.codebook.decode(stage.codebook.encode(left))
    return model.requires_grad_(False)


@pytest.fixture(scope="module", params=list(TEACHERS))
def pair(request, tmp_path_factory):
    theirs = published(request.param)
    return theirs, convert(save(theirs, tmp_path_factory.mktemp("xcodec")))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours == theirs).float().mean() >= 0.999


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 4, 5, 19, 20, 21, 40, 999, 1000, 1003, 1005, 1010, 11_017])
def test_codes_and_samples_are_theirs(pair, samples):
    """Theirs takes samples as they are. With at least a quarter of a hop behind the last whole frame its teacher makes one
    more frame than the DAC encoder, which then hears half a hop of zeros before the signal: the branches lie half a frame
    apart, as in the paper's own code, and weights are trained that way. With less there is no last frame at all; here
    there always is, as every sample is decoded."""
    theirs, ours = pair
    wav = noise(2, 1, samples)
    tokens = ours.encode(wav)
    assert tokens.codes.shape == (2, 4, math.ceil(samples / HOP))
    whole = (samples - 5) // HOP + 1  # frames of theirs
    if whole:
        expected = theirs.encode(wav).audio_codes
        assert_same(tokens.codes[..., :whole], expected)
        assert samples < 100 or len(expected.unique()) > 32
    audio, heard = ours.decode(tokens), theirs.decode(tokens.codes).audio_values[..., :samples]
    assert audio.shape == wav.shape and 1e-3 < heard.abs().mean() < 10
    torch.testing.assert_close(audio, heard, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("samples", [3, 1004])
def test_a_few_last_samples_are_a_frame(pair, samples):
    """That of the last second filled up with zeros, as their feature extractor fills it."""
    theirs, ours = pair
    wav = noise(1, 1, samples)
    filled = F.pad(wav, (0, -samples % HOP))[..., -50 * HOP :]
    assert_same(ours.encode(wav).codes[..., -1:], theirs.encode(filled).audio_codes[..., -1:])


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_bandwidth(pair, k):
    theirs, ours = pair
    wav = noise(2, 1, 50 * HOP)
    tokens, expected = ours.encode(wav, num_codebooks=k), theirs.encode(wav, bandwidth=k * KBITS).audio_codes
    assert_same(tokens.codes, expected)
    assert torch.equal(ours.encode(wav, bitrate=k * KBITS * 1000).codes, tokens.codes)
    torch.testing.assert_close(ours.decode(tokens), theirs.decode(tokens.codes).audio_values, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_batch_of_lengths_is_its_items_alone(pair):
    """In theirs padding changes the codes of what is before it: the teacher attends to, and normalises over, it too."""
    theirs, ours = pair
    lengths = [200, 77, 145, 200]
    wav = noise(4, 1, 200)
    tokens = ours.encode(wav, lengths=lengths)
    audio = ours.decode(tokens)
    for row, length in enumerate(lengths):
        expected = theirs.encode(wav[row : row + 1, :, :length]).audio_codes
        assert_same(tokens.codes[row : row + 1, :, : expected.shape[2]], expected)
        heard = theirs.decode(expected).audio_values[0, 0, :length]
        torch.testing.assert_close(audio[row, 0, : len(heard)], heard, rtol=0, atol=1e-4)
        assert (audio[row, 0, length:] == 0).all()


@torch.no_grad()
def test_long_signals_are_coded_in_windows(pair):
    """Every window is theirs; of the overlap each keeps a half, and nothing depends on how the signal comes."""
    theirs, ours = pair
    wav = noise(1, 1, 230 * HOP + 7)
    model = Codec(replace(ours.config, encoder=replace(ours.config.encoder, window_frames=100, overlap_frames=20))).eval()
    model.load_state_dict(ours.state_dict(), strict=False)
    assert model.encoder.window == (100, 20)
    parts = [theirs.encode(wav[..., start * HOP : (start + 100) * HOP]).audio_codes for start in (0, 80, 160)]
    expected = torch.cat([parts[0][..., :90], parts[1][..., 10:90], parts[2][..., 10:]], 2)
    codes = model.encode(wav).codes
    assert_same(codes, expected)
    assert not torch.equal(codes, ours.encode(wav).codes)
    with pytest.raises(ValueError, match="cannot run live"):
        model.stream()


def test_the_teacher_is_frozen_whatever_its_parents_do(pair):
    model = Codec(pair[1].config)
    assert not any(value.requires_grad for value in model.encoder.teacher.parameters())
    model.train()
    assert not any(module.training for module in model.encoder.teacher.modules())
    model.requires_grad_(True)
    model.train()(noise(2, 1, 10 * HOP)).audio.square().mean().backward()
    assert all(value.grad is None for value in model.encoder.teacher.parameters())
    trained = [name for name, value in model.named_parameters() if "teacher" not in name and value.grad is None]
    assert not trained


@torch.no_grad()
def test_saved_and_loaded(tmp_path, pair):
    theirs, ours = pair
    wav = noise(1, 1, 50 * HOP)
    hub.save(ours, tmp_path, dtype=torch.float32)
    again = hub.load(tmp_path)
    assert again.config == ours.config and torch.equal(again.encode(wav).codes, ours.encode(wav).codes)


def test_weights_without_normalisation_and_of_older_torch(tmp_path, pair):
    """The position convolution's length lies over kernel positions and the sound branch's over channels."""
    theirs, ours = pair
    wav, codes = noise(1, 1, 6 * HOP), ours.encode(noise(1, 1, 6 * HOP)).codes
    save(theirs, tmp_path)
    tensors, name = load_file(tmp_path / "model.safetensors"), "semantic_model.encoder.pos_conv_embed.conv"
    length, direction = (tensors.pop(f"{name}.parametrizations.weight.original{index}") for index in (0, 1))
    plain = length * direction / direction.square().sum((0, 1), keepdim=True).sqrt()
    for changed in ({f"{name}.weight": plain}, {f"{name}.weight_g": length, f"{name}.weight_v": direction}):
        for conv in ("acoustic_encoder.conv1", "acoustic_decoder.block.1.conv_t1"):
            weight = tensors[f"{conv}.weight"]
            changed |= {f"{conv}.parametrizations.weight.original0": weight.flatten(1).norm(dim=1)[:, None, None],
                        f"{conv}.parametrizations.weight.original1": 3 * weight}
        left = {key: value for key, value in tensors.items() if key.removesuffix(".weight") not in (
            "acoustic_encoder.conv1", "acoustic_decoder.block.1.conv_t1")}
        save_file(left | changed, tmp_path / "model.safetensors")
        again = convert(tmp_path)
        torch.testing.assert_close(again.encoder(wav)[0], ours.encoder(wav)[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(again.decode_frames(codes), ours.decode_frames(codes), rtol=0, atol=1e-4)


@pytest.mark.parametrize("change, problem", [
    (lambda tensors: tensors.pop("fc2.bias"), "missing fc2.bias"),
    (lambda tensors: tensors.pop("semantic_model.encoder.layers.1.attention.k_proj.bias"), "missing semantic_model.*k_proj"),
    (lambda tensors: tensors.update({"semantic_model.lm_head.weight": torch.zeros(3)}), "unexpected semantic_model.lm_head"),
    (lambda tensors: tensors.update({"decoder_semantic.extra": torch.zeros(3)}), "unexpected decoder_semantic.extra"),
    (lambda tensors: tensors.update({"fc.weight": torch.zeros(3, 3)}), r"fc.weight is \(3, 3\) instead of \(24, 24\)"),
    (lambda tensors: tensors.update({"quantizer.quantizers.1.codebook.embed": torch.zeros(3, 3)}), r"1.codebook.embed is \(3, 3\)"),
    (lambda tensors: tensors.update({"semantic_model.encoder.pos_conv_embed.conv.parametrizations.weight.original0":
                                     torch.ones(16, 1, 1)}), r"original0 is \(16, 1, 1\)"),
])
def test_tensors_that_do_not_fit_are_named(tmp_path, change, problem):
    save(published(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=problem):
        convert(tmp_path)


@pytest.mark.parametrize("settings, problem", [
    ({"strides": [2, 1]}, "strides must be 1"), ({"channel_ratios": [1, 2]}, "channel_ratios must be 1"),
    ({"codebook_dim": 7}, "codebook_dim=7"), ({"semantic_model_config": {"model_type": "bert"}}, "'bert' cannot be converted"),
    ({"semantic_model_config": {"model_type": "hubert", "hidden_act": "relu"}}, "hidden_act='relu'"),
    ({"target_bandwidths": []}, "target_bandwidths must be"),
    ({"semantic_model_config": SPEECH | {"model_type": "hubert", "conv_stride": [5, 2]}}, "must multiply to that"),
])
def test_settings_that_are_not_built_are_refused(settings, problem):
    from codec.convert import xcodec

    sound = {"downsampling_ratios": [5, 4], "upsampling_ratios": [5, 4]}
    with pytest.raises(ConfigError, match=problem):
        xcodec.read({"acoustic_model_config": sound, "semantic_model_config": SPEECH} | settings, {})


def test_without_transformers_the_remedy_is_said(monkeypatch, pair):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install .*teachers"):
        Codec(pair[1].config)


def test_the_recipe_is_the_published_model(monkeypatch):
    """Weights of the published sizes fit the recipe's model: every shape, without a number."""
    from codec.convert import source, xcodec
    from codec.training import recipe

    model = recipe.load("x_codec").model
    with torch.device("meta"):
        state = transformers.XcodecModel(transformers.XcodecConfig()).state_dict()
        expected = Codec(model).state_dict()
    found = {}
    monkeypatch.setattr(source.Source, "codec", lambda self, ours: found.update(config=ours, state=self._state, left=self._left))
    xcodec.read(transformers.XcodecConfig().to_dict(), {n: torch.zeros(()).expand(v.shape) for n, v in state.items()})
    assert found["config"] == model and not found["left"]
    assert {name: value.shape for name, value in found["state"].items()} == {
        name: value.shape for name, value in expected.items() if not name.startswith("quantizer.trainer")}


def test_configuration_is_limited():
    with pytest.raises(ConfigError, match="teacher_layers"):
        CodecConfig.from_dict({"encoder": {"name": "xcodec", "teacher_layers": 1000}})


@torch.no_grad()
def test_decoding_needs_no_speech_model_and_not_its_package(pair, tmp_path, monkeypatch):
    _, whole = pair
    hub.save(whole, tmp_path, torch.float32)
    tokens = whole.encode(noise(1, 1, 1003, seed=2))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="pip install"):
        hub.load(tmp_path)
    half = hub.load(tmp_path, without="encoder")
    assert torch.equal(half.decode(tokens), whole.decode(tokens)) and half.spec == whole.spec
    with pytest.raises(ValueError, match="weights of the encoder were released"):
        half.encode(noise(1, 1, 1003, seed=2))

    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.startswith("encoder.teacher."))
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=name):
        hub.load(tmp_path, without="encoder")
