"""Against the package `speechtokenizer`: random weights from its own class, saved as its trainer saves them."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from published import noise
from torch.nn import functional as F

import codec
from codec.config import ConfigError
from codec.convert import convert

CONFIG = {
    "n_filters": 4, "strides": [5, 4, 2], "dimension": 24, "semantic_dimension": 12, "bidirectional": True, "dilation_base": 2,
    "residual_kernel_size": 3, "n_residual_layers": 2, "lstm_layers": 2, "activation": "ELU", "codebook_size": 64, "n_q": 4,
    "sample_rate": 16_000,
}


@pytest.fixture(scope="module")
def theirs():
    """Its package imports its trainer, and that what only training needs: not here."""
    pytest.importorskip("einops")
    stub = types.ModuleType("speechtokenizer.trainer")
    stub.SpeechTokenizerTrainer = None
    sys.modules.setdefault("speechtokenizer.trainer", stub)
    return pytest.importorskip("speechtokenizer").SpeechTokenizer


def published(kind, **settings):
    """A small model, its codebooks near its latents, so that all codes are used."""
    torch.manual_seed(0)
    model = kind(CONFIG | settings).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("alpha"):
            value.uniform_(0.3, 2.0)
        elif name.endswith("weight_g"):
            value.mul_(1.5)
    latents = model.encoder(noise(1, 1, 4000))
    for layer in model.quantizer.vq.layers:
        layer._codebook.inited.fill_(1)
        layer._codebook.embed.normal_().mul_(0.7 * latents.std()).add_(0.3 * latents.mean((0, 2)))
    return model


def save(model, directory, values=CONFIG, name="SpeechTokenizer.pt"):
    (directory / "config.json").write_text(json.dumps(values))
    torch.save(model.state_dict(), directory / name)
    return directory


@pytest.fixture(scope="module", params=["ELU", "Snake", "one way"])
def pair(request, theirs, tmp_path_factory):
    changes = {"bidirectional": False} if request.param == "one way" else {"activation": request.param}
    model = published(theirs, **changes)
    return model, convert(save(model, tmp_path_factory.mktemp("published"), CONFIG | changes))


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 2, 39, 40, 41, 200, 1234, 8003])
def test_codes_and_samples_are_theirs(pair, samples):
    theirs, ours = pair
    wav = noise(2, 1, samples)
    expected = theirs.encode(wav)  # (n_q, B, T)
    tokens = ours.encode(wav)
    assert tokens.codes.shape == (2, 4, -(-samples // 40))
    assert torch.equal(tokens.codes, expected.transpose(0, 1))
    audio = theirs.decode(expected)
    torch.testing.assert_close(ours.decode(tokens), audio[..., :samples], rtol=0, atol=1e-4)
    if samples > 1000:
        assert audio.std() > 1e-3 and len(expected.unique()) > 20


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_number_of_codebooks(pair, k):
    theirs, ours = pair
    wav = noise(1, 1, 2000)
    expected = theirs.encode(wav, n_q=k)
    tokens = ours.encode(wav, num_codebooks=k)
    assert torch.equal(tokens.codes, expected.transpose(0, 1))
    torch.testing.assert_close(ours.decode(tokens), theirs.decode(expected), rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_batch_of_lengths_is_its_items_alone(pair):
    theirs, ours = pair
    lengths = [1500, 41, 1499, 3]
    wav = noise(4, 1, 1500)
    tokens = ours.encode(wav, lengths=lengths)
    audio = ours.decode(tokens)
    for row, length in enumerate(lengths):
        expected = theirs.encode(wav[row : row + 1, :, :length])
        assert torch.equal(tokens.codes[row, :, : expected.shape[2]], expected[:, 0])
        torch.testing.assert_close(audio[row, 0, :length], theirs.decode(expected)[0, 0, :length], rtol=0, atol=1e-4)
        assert not audio[row, 0, length:].any()


def test_what_its_trainer_writes_is_read(theirs, tmp_path):
    """The model in a package with others, and safetensors."""
    from safetensors.torch import save_file

    model, wav = published(theirs), noise(1, 1, 999)
    expected = model.encode(wav).transpose(0, 1)
    save(model, tmp_path)
    torch.save({"generator": model.state_dict(), "best_dev_mel_loss": 1.5}, tmp_path / "SpeechTokenizer.pt")
    assert torch.equal(codec.load(tmp_path).encode(wav).codes, expected)
    (tmp_path / "SpeechTokenizer.pt").unlink()
    save_file({name: value.clone() for name, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    assert torch.equal(codec.load(tmp_path).encode(wav).codes, expected)


def test_dm_codec_has_its_name(theirs, tmp_path):
    ours = convert(save(published(theirs), tmp_path, CONFIG | {"project_name": "codec-dooku"}, "Model_best_dev.pt"))
    assert ours.config.name == "dm-codec"


def test_saved_as_ours_and_loaded_again(theirs, tmp_path):
    from codec import hub

    ours = convert(save(published(theirs), tmp_path))
    hub.save(ours, tmp_path / "ours", torch.float32)
    assert codec.load(tmp_path / "ours").spec == ours.spec


class Evil:
    def __reduce__(self):
        return print, ("code from a pickle ran",)


def test_pickles_with_code_are_refused(theirs, tmp_path, capsys):
    model = published(theirs)
    save(model, tmp_path)
    torch.save({"generator": model.state_dict(), "more": Evil()}, tmp_path / "SpeechTokenizer.pt")
    with pytest.raises(ConfigError, match="SpeechTokenizer.pt: refused.*safetensors") as error:
        convert(tmp_path)
    assert "ran" not in capsys.readouterr().out and "\n" not in str(error.value)


@pytest.mark.parametrize("content, problem", [
    (b"", "refused"), (b"PK\x03\x04 no zip", "refused"), (None, "one file of weights is needed"),
])
def test_what_is_no_state_dict_is_refused(tmp_path, content, problem):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    if content is not None:
        (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        codec.load(tmp_path)


def test_two_files_of_weights_are_refused_by_name(theirs, tmp_path):
    model = published(theirs)
    save(model, tmp_path)
    save(model, tmp_path, name="other.ckpt")
    with pytest.raises(ConfigError, match="SpeechTokenizer.pt, other.ckpt"):
        convert(tmp_path)


@pytest.mark.parametrize("change, problem", [
    (lambda t: t.pop("decoder.model.1.lstm.weight_hh_l1"), "missing decoder.model.1.lstm.weight_hh_l1"),
    (lambda t: t.update({"more": torch.zeros(3)}), "unexpected more"),
    (lambda t: t.update({"encoder.model.0.conv.conv.bias": torch.zeros(3)}), r"encoder.model.0.conv.conv.bias is \(3,\)"),
    (lambda t: t.update({"quantizer.vq.layers.1._codebook.embed": torch.zeros(3, 24)}), r"layers.1._codebook.embed is \(3, 24\)"),
])
def test_tensors_that_do_not_fit_are_named(theirs, tmp_path, change, problem):
    model = published(theirs)
    tensors = dict(model.state_dict())
    change(tensors)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=problem):
        convert(tmp_path)


@pytest.mark.parametrize("values, problem", [
    ({"activation": "ReLU"}, "activation='ReLU': there is ELU, Snake"), ({"strides": []}, "strides must be a list"),
    ({"n_filters": "many"}, "n_filters must be int"), ({"n_q": 0}, "n_q is 0"), ({"lstm_layers": -1}, "lstm_layers is -1"),
])
def test_settings_that_cannot_be_had_are_refused(theirs, tmp_path, values, problem):
    save(published(theirs), tmp_path, CONFIG | values)
    with pytest.raises(ConfigError, match=problem):
        convert(tmp_path)


def test_plain_reference_of_the_paddings(pair):
    """Encoder's first layer by hand: mirrored on both sides."""
    _, ours = pair
    layer, x = ours.encoder.layers[0], noise(1, 1, 50)
    expected = F.conv1d(torch.cat([x[..., 1:4].flip(2), x, x[..., -4:-1].flip(2)], 2), layer.conv.weight, layer.conv.bias)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("name", ["speechtokenizer", "dm_codec"])
def test_recipes_are_the_published_models(theirs, monkeypatch, name):
    """Weights of the published sizes fit the recipe's model: every shape, without a number."""
    from codec.convert import source, speechtokenizer
    from codec.model import Codec
    from codec.training import recipe

    values = CONFIG | {"n_filters": 64, "strides": [8, 5, 4, 2], "dimension": 1024, "semantic_dimension": 768, "n_q": 8,
                       "n_residual_layers": 1, "codebook_size": 1024}
    if name == "dm_codec":
        values["project_name"] = "codec-dooku"
    with torch.device("meta"):
        tensors = theirs(values).state_dict()
        expected = Codec(recipe.load(name).model).state_dict()
    found = {}
    monkeypatch.setattr(source.Source, "codec", lambda self, ours: found.update(config=ours, state=self._state))
    zeros = {key: torch.zeros(()).expand(value.shape) for key, value in tensors.items()}
    speechtokenizer.read(values, zeros)
    assert found["config"] == recipe.load(name).model
    assert {n: v.shape for n, v in found["state"].items()} == {
        n: v.shape for n, v in expected.items() if not n.startswith("quantizer.trainer")
    }
