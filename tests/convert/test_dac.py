"""Against DacModel of `transformers`: random weights from its own configuration class, saved by its own save_pretrained."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from codec.config import ConfigError
from codec.convert import convert

transformers = pytest.importorskip("transformers")

STRIDES = [(2, 4, 8, 8), (2, 4, 5), (3, 2, 5)]  # the first as at 44.1 kHz; odd ones as at 16 and 24 kHz


def published(strides=(2, 4, 5), **settings):
    """A small DacModel, its weights such that no layer drowns in its bias and all codes are used."""
    torch.manual_seed(0)
    common = {"encoder_hidden_size": 8, "decoder_hidden_size": 64, "n_codebooks": 4, "codebook_size": 64, "codebook_dim": 4}
    model = transformers.DacModel(transformers.DacConfig(**common | {"downsampling_ratios": list(strides)} | settings)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("alpha"):
                value.uniform_(0.3, 2.0)
            elif name.endswith("bias"):
                value.normal_(0, 0.05)
            elif value.dim() == 3:
                value.normal_(0, 0.5 / math.sqrt(value[0].numel()))
        model.encoder.conv2.weight *= 4
        for stage in model.quantizer.quantizers:
            stage.codebook.weight.normal_(0, 0.5)
    return model.requires_grad_(False)


@pytest.fixture(scope="module", params=STRIDES, ids=str)
def pair(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("dac")
    theirs = published(request.param)
    theirs.save_pretrained(directory)
    return theirs, convert(directory)


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("frames", [0.01, 0.5, 1, 2, 5.3, 33, 620.6])
def test_codes_and_samples_are_theirs(pair, frames):
    """Theirs pads nothing by itself (the last samples would change their codes); its feature extractor fills the last
    frame with zeros, as here. Where a stride is odd, theirs makes fewer samples than went in: all that it makes are
    the same, and what it leaves out, at most at the very end, is silence here."""
    theirs, ours = pair
    hop = ours.frame_size
    samples = max(1, round(frames * hop))
    wav = noise(2, samples)
    tokens = ours.encode(wav[:, None])
    expected = theirs.encode(F.pad(wav, (0, -samples % hop))[:, None]).audio_codes
    assert tokens.codes.shape == expected.shape and torch.equal(tokens.codes, expected)
    audio, heard = ours.decode(tokens)[:, 0], theirs.decode(audio_codes=expected).audio_values[:, :samples]
    assert 0.01 < heard.abs().mean() < 0.9  # neither silent nor at tanh's ends
    torch.testing.assert_close(audio[:, : heard.shape[1]], heard, rtol=0, atol=1e-4)
    assert audio.shape == (2, samples) and (audio[:, heard.shape[1] :] == 0).all()
    assert samples - heard.shape[1] <= hop // 2


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_number_of_codebooks(pair, k):
    theirs, ours = pair
    wav = noise(1, 1, 40 * ours.frame_size)
    codes = ours.encode(wav, num_codebooks=k)
    expected = theirs.encode(wav, n_quantizers=k)
    assert torch.equal(codes.codes, expected.audio_codes)
    heard = theirs.decode(quantized_representation=expected.quantized_representation).audio_values
    torch.testing.assert_close(ours.decode(codes)[:, 0, : heard.shape[1]], heard, rtol=0, atol=1e-4)


@torch.no_grad()
def test_latents_of_codes_are_theirs(pair):
    """Found by the directions of the vectors, decoded from the vectors as they are."""
    theirs, ours = pair
    codes = torch.randint(64, (2, 4, 50), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.quantizer.decode(codes), theirs.quantizer.from_codes(codes)[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_batch_of_lengths_is_its_items_alone(pair):
    theirs, ours = pair
    hop = ours.frame_size
    lengths = [9 * hop, 1, 5 * hop + 3, 9 * hop - 1]
    wav = noise(4, 1, 9 * hop)
    tokens = ours.encode(wav, lengths=lengths)
    audio = ours.decode(tokens)
    for row, length in enumerate(lengths):
        alone = F.pad(wav[row : row + 1, :, :length], (0, -length % hop))
        expected = theirs.encode(alone).audio_codes
        assert torch.equal(tokens.codes[row, :, : expected.shape[2]], expected[0])
        heard = theirs.decode(audio_codes=expected).audio_values[0, :length]
        torch.testing.assert_close(audio[row, 0, : len(heard)], heard, rtol=0, atol=1e-4)
        assert (audio[row, 0, length:] == 0).all()


@pytest.mark.parametrize("name, rate, strides, books", [
    ("dac_16k", 16_000, (2, 4, 5, 8), 12), ("dac_24k", 24_000, (2, 4, 5, 8), 32), ("dac_44k", 44_100, (2, 4, 8, 8), 9),
])
def test_recipes_are_the_published_models(monkeypatch, name, rate, strides, books):
    """Weights of the published sizes fit the recipe's model: every shape, without a number."""
    from codec.convert import dac, source
    from codec.model import Codec
    from codec.training import recipe

    config = transformers.DacConfig(downsampling_ratios=list(strides), sampling_rate=rate, n_codebooks=books)
    with torch.device("meta"):
        published = transformers.DacModel(config).state_dict()
        expected = Codec(recipe.load(name).model).state_dict()
    found = {}
    monkeypatch.setattr(source.Source, "codec", lambda self, ours: found.update(config=ours, state=self._state))
    dac.read(config.to_dict(), {name: torch.zeros(()).expand(value.shape) for name, value in published.items()})
    assert found["config"] == recipe.load(name).model
    assert {name: value.shape for name, value in found["state"].items()} == {n: v.shape for n, v in expected.items()}


def test_weight_normalisation_is_folded(tmp_path, pair):
    """Both ways in which torch has kept it."""
    theirs, ours = pair
    wav = noise(1, 1, 6 * ours.frame_size)
    theirs.save_pretrained(tmp_path)
    plain = load_file(tmp_path / "model.safetensors")
    for first, second in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        normed = {}
        for name, value in plain.items():
            if value.dim() == 3 and name.endswith(".weight"):
                name = name.removesuffix("weight")
                normed[name + first] = value.flatten(1).norm(dim=1)[:, None, None]
                normed[name + second] = 3 * value
            else:
                normed[name] = value
        save_file(normed, tmp_path / "model.safetensors")
        assert torch.equal(convert(tmp_path).encode(wav).codes, ours.encode(wav).codes)


@pytest.mark.parametrize("change, name", [
    (lambda tensors: tensors.pop("decoder.block.1.res_unit2.snake2.alpha"), "missing decoder.block.1.res_unit2.snake2.alpha"),
    (lambda tensors: tensors.update({"decoder.extra": torch.zeros(3)}), "unexpected decoder.extra"),
    (lambda tensors: tensors.update({"encoder.conv1.weight": torch.zeros(8, 1, 5)}), r"encoder.conv1.* is \(8, 1, 5\) instead"),
    (lambda tensors: tensors.update({"encoder.snake1.alpha": torch.zeros(3)}), r"encoder.snake1.alpha is \(3,\)"),
    (lambda tensors: tensors.update({"quantizer.quantizers.0.in_proj.weight": torch.zeros(3)}), r"in_proj.* is \(3,\)"),
])
def test_tensors_that_do_not_fit_are_named(tmp_path, change, name):
    published().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=name):
        convert(tmp_path)
