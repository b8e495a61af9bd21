"""Single files of weights as the packages `encodec`, `descript-audio-codec` and `moshi` have them, against these packages."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from published import noise
from safetensors.torch import save_file
from torch.nn import functional as F

import codec
from codec.config import ConfigError
from codec.convert import convert


def named(name: str, *members: str) -> types.ModuleType:
    module = types.ModuleType(name)
    for member in members:
        setattr(module, member, type(member, (), {}))
    return module


# EnCodec


@pytest.fixture(scope="module")
def encodec():
    model = pytest.importorskip("encodec").EncodecModel.encodec_model_24khz(pretrained=False)
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("weight_g"):
            value.mul_(1.2)
        elif name.endswith("inited"):
            value.fill_(1)
    latents = model.eval().requires_grad_(False).encoder(noise(1, 1, 8000))[0]  # (dim, n)
    for index, layer in enumerate(model.quantizer.vq.layers):  # codebooks that fit what they code
        layer._codebook.embed.normal_().mul_(latents.std(1) * 0.9**index).add_(latents.mean(1) if index == 0 else 0)
    return model


@torch.no_grad()
def test_encodec(encodec, tmp_path):
    torch.save(encodec.state_dict(), tmp_path / "encodec_24khz-d7cc33bc.th")
    ours = convert(tmp_path / "encodec_24khz-d7cc33bc.th")
    assert codec.load(tmp_path).spec == ours.spec and ours.config.name == "encodec-24k"
    wav = noise(2, 1, 6001)
    for k, bandwidth in ((2, 1.5), (8, 6.0), (32, 24.0)):
        encodec.set_target_bandwidth(bandwidth)
        frames = encodec.encode(wav)
        tokens = ours.encode(wav, num_codebooks=k)
        assert torch.equal(tokens.codes, frames[0][0]) and len(tokens.codes.unique()) > 10
        torch.testing.assert_close(ours.decode(tokens), encodec.decode(frames)[..., :6001], rtol=0, atol=1e-4)


def test_encodec_of_48_khz_is_refused(encodec, tmp_path):
    tensors = {name: value for name, value in encodec.state_dict().items() if "weight_" not in name}
    torch.save(tensors | {"encoder.model.0.conv.norm.weight": torch.ones(32)}, tmp_path / "encodec_48khz.th")
    with pytest.raises(ConfigError, match="take encodec_24khz"):
        codec.load(tmp_path / "encodec_48khz.th")


# DAC


def descript(**settings):
    package = pytest.importorskip("dac.model.dac")
    torch.manual_seed(0)
    model = package.DAC(**{"encoder_dim": 8, "decoder_dim": 64, "n_codebooks": 4, "codebook_size": 64, "codebook_dim": 4} | settings)
    model.eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("alpha"):
            value.uniform_(0.3, 2.0)
        elif name.endswith("bias"):
            value.normal_(0, 0.05)
        elif name.endswith("weight_g"):
            value.uniform_(0.4, 0.8)
        elif name.endswith("weight_v"):
            value.normal_()
    return model


@torch.no_grad()
@pytest.mark.parametrize("settings", [
    {}, {"encoder_rates": [2, 4, 5], "decoder_rates": [5, 4, 2], "sample_rate": 24_000, "latent_dim": 24, "codebook_dim": [4] * 4},
], ids=["44 kHz", "odd strides"])
def test_dac(settings, tmp_path):
    theirs = descript(**settings)
    theirs.save(tmp_path / "weights.pth", {"tag": "latest"}, package=False)
    ours = codec.load(tmp_path / "weights.pth")
    assert ours.sample_rate == theirs.sample_rate and codec.load(tmp_path).spec == ours.spec
    hop = ours.frame_size
    for samples in (1, hop, 5 * hop + 3, 40 * hop):
        wav = noise(2, 1, samples)
        tokens = ours.encode(wav)
        latents, codes = theirs.encode(F.pad(wav, (0, -samples % hop)))[:2]
        assert torch.equal(tokens.codes, codes)
        heard = theirs.decode(latents)[..., :samples]
        torch.testing.assert_close(ours.decode(tokens)[..., : heard.shape[2]], heard, rtol=0, atol=1e-4)
    assert len(codes.unique()) > 20 and 0.001 < heard.abs().mean() < 0.9


def test_dac_whose_codebooks_differ_is_refused(tmp_path):
    descript(codebook_dim=[4, 4, 4, 8]).save(tmp_path / "weights.pth", package=False)
    with pytest.raises(ConfigError, match="codebook_dim must be int"):
        convert(tmp_path)


# Mimi


@pytest.fixture(scope="module")
def moshi():
    """Its loaders import what only its language model needs: not here."""
    sys.modules.setdefault("sentencepiece", named("sentencepiece", "SentencePieceProcessor"))
    loaders = pytest.importorskip("moshi.models.loaders")
    torch.manual_seed(0)
    model = loaders.get_mimi(None, num_codebooks=32).requires_grad_(False)
    for name, value in model.state_dict().items():
        if name.endswith("embedding_sum"):
            value.normal_().mul_(0.05)
        elif name.endswith("cluster_usage"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("_initialized"):
            value.fill_(1)
        elif "layer_scale" in name:
            value.fill_(0.5)  # enough of the transformers to be heard
    return model


@torch.no_grad()
def test_mimi(moshi, tmp_path):
    save_file(moshi.state_dict(), tmp_path / "tokenizer-e351c8d8-checkpoint125.safetensors")
    ours = codec.load(tmp_path)
    assert (ours.sample_rate, ours.frame_size, ours.num_codebooks) == (24_000, 1920, 32)
    for samples in (11 * 1920, 1, 959, 1919, 1921, 5000):
        wav = noise(1, 1, samples)
        tokens, codes = ours.encode(wav), moshi.encode(wav)
        assert torch.equal(tokens.codes, codes)
        torch.testing.assert_close(ours.decode(tokens), moshi.decode(codes)[..., :samples], rtol=0, atol=1e-4)
    assert len(codes.unique()) > 80
    # zeros fill up the last frame; in `transformers` every layer fills up its input
    latents = ours.encoder(F.pad(wav, (0, -samples % 1920)))[0]
    torch.testing.assert_close(latents, moshi._encode_to_unquantized_latent(wav), rtol=0, atol=1e-4)
    assert not ours.encoder.ragged


# What is no such file


class Evil:
    def __reduce__(self):
        return print, ("code from a pickle ran",)


@pytest.mark.parametrize("values", [
    {"state_dict": {"a": torch.zeros(1)}, "metadata": {"kwargs": {"encoder_rates": [2], "decoder_rates": [2]}, "more": Evil()}},
    {"state_dict": 3, "metadata": {"kwargs": {"encoder_rates": [2], "decoder_rates": [2]}}},
    {"encoder.model.0.conv.conv.weight_v": 3, "quantizer.vq.layers.0._codebook.embed": 4}, [1, 2], {3: torch.zeros(1)},
    {"metadata": None, "state_dict": {}},
])
def test_other_pickles_are_refused(values, tmp_path, capsys):
    torch.save(values, tmp_path / "weights.pth")
    for source in (tmp_path, tmp_path / "weights.pth"):
        with pytest.raises(ConfigError) as caught:
            codec.load(source)
        assert "\n" not in str(caught.value)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("kwargs, problem", [
    ({"encoder_rates": [2, 2], "decoder_rates": [2, 2]}, "missing encoder.conv1"),
    ({"encoder_rates": 7, "decoder_rates": "x"}, "upsampling_ratios must be a list"),
    ({"encoder_rates": [2] * 1000, "decoder_rates": [2]}, "downsampling_ratios"),
    ({"encoder_rates": [2], "decoder_rates": [2], "encoder_dim": 10**9}, "."),
])
def test_settings_that_do_not_fit_are_refused(kwargs, problem, tmp_path):
    torch.save({"state_dict": {"more": torch.zeros(1)}, "metadata": {"kwargs": kwargs}}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=problem) as caught:
        codec.load(tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    for name, problem in (("a.wav", "no weights of EnCodec"), ("a.safetensors", "not readable"), ("b.safetensors", "no weights of")):
        with pytest.raises(ConfigError, match=problem):
            codec.load(tmp_path / name)
