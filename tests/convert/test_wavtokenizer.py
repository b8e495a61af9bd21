"""Against parts of public packages, put together in `published_wavtokenizer`."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml
from published import noise
from published_wavtokenizer import HOP, Published, settings
from torch.nn import functional as F

import codec
from codec.config import ConfigError
from codec.convert import convert

pytest.importorskip("encodec"), pytest.importorskip("vocos")


def published(values):
    torch.manual_seed(0)
    model = Published(values).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.startswith("backbone") and value.dim() == 1 or "norm.s" in name:  # norms, biases and scales do something
            value.add_(0.2 * torch.randn_like(value))
        elif name.startswith("backbone") or name == "head.out.weight":
            value.normal_(0, 1.5 / value[0].numel() ** 0.5)
        elif name.endswith("weight_g"):
            value.mul_(1.5)
    latents = model.feature_extractor.encodec.encoder(noise(1, 1, 6000))
    book = model.feature_extractor.encodec.quantizer.vq.layers[0]._codebook
    book.inited.fill_(1)
    book.embed.copy_(latents[0].T[torch.randperm(latents.shape[2])[: len(book.embed)]])
    return model


def save(model, values, directory, name="config.yaml"):
    (directory / name).write_text(yaml.safe_dump(values))
    state = model.state_dict() | {"multiperioddisc.discriminators.0.weight": torch.zeros(3), "melspec_loss.fb": torch.zeros(2)}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, directory / "wavtokenizer.ckpt")
    return directory


@pytest.fixture(scope="module", params=[True, False], ids=["adaptive", "plain"])
def pair(request, tmp_path_factory):
    values = settings(adaptive=request.param)
    model = published(values)
    return model, convert(save(model, values, tmp_path_factory.mktemp("published")))


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 39, 40, 41, 123, 1234, 6007])
def test_codes_and_samples_are_theirs(pair, samples):
    theirs, ours = pair
    wav = noise(2, 1, samples)
    expected = theirs.encode(wav)
    tokens = ours.encode(wav)
    assert tokens.codes.shape == (2, 1, -(-samples // HOP))
    assert torch.equal(tokens.codes, expected.transpose(0, 1))
    audio = theirs.decode(expected)
    torch.testing.assert_close(ours.decode(tokens), audio[..., :samples], rtol=0, atol=1e-4)
    if samples > 1000:
        assert 1e-2 < audio.std() < 10 and len(expected.unique()) > 10


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


def test_the_inverse_stft_gives_a_signal_back():
    """Independent of vocos: torch.stft of a signal whose ends are padded by what "same" cuts off."""
    from codec.nn.istft import CentredSynthesis

    wav = noise(2, 800)
    padded = F.pad(wav, (60, 60))
    spectrum = torch.stft(padded, 160, 40, window=torch.hann_window(160), center=False, return_complex=True).transpose(1, 2)
    out = CentredSynthesis(160, 40)(torch.cat([spectrum.real, spectrum.imag], -1))
    torch.testing.assert_close(out, wav, rtol=0, atol=1e-5)


def test_read_by_load_and_saved_as_ours(pair, tmp_path):
    from codec import hub

    theirs, ours = pair
    values = settings(adaptive=theirs.adaptive)
    save(theirs, values, tmp_path)
    hub.save(codec.load(tmp_path), tmp_path / "ours", torch.float32)
    assert codec.load(tmp_path / "ours").spec == ours.spec


@pytest.mark.parametrize("change, problem", [
    (lambda t: t.pop("backbone.pos_net.2.k.bias"), "missing backbone.pos_net.2.k.bias"),
    (lambda t: t.update({"backbone.more": torch.zeros(3)}), "unexpected backbone.more"),
    (lambda t: t.update({"head.out.bias": torch.zeros(3)}), r"head.out.bias is \(3,\)"),
    (lambda t: t.update({"backbone.norm.scale.weight": torch.zeros(4, 3)}), r"backbone.norm.scale.weight is \(3,\)"),
    (lambda t: t.update({"backbone.pos_net.2.v.weight": torch.zeros(3, 3, 1)}), r"2.v.weight is \(3, 3, 1\), unlike"),
])
def test_tensors_that_do_not_fit_are_named(tmp_path, change, problem):
    values = settings()
    model = published(values)
    save(model, values, tmp_path)
    state = dict(model.state_dict())
    change(state)
    torch.save({"state_dict": state}, tmp_path / "wavtokenizer.ckpt")
    with pytest.raises(ConfigError, match=problem):
        convert(tmp_path)


@pytest.mark.parametrize("part, key, value, problem", [
    ("head", "padding", "center", "padding='center'"), ("head", "hop_length", 41, "hop_length=41"),
    ("head", "n_fft", 41, "no model of these settings"), ("backbone", "dim", 224, "head: dim=192"),
    ("feature_extractor", "num_quantizers", 2, "num_quantizers=2"), ("backbone", "num_layers", "two", "num_layers must be int"),
])
def test_settings_that_cannot_be_had_are_refused(tmp_path, part, key, value, problem):
    values = copy.deepcopy(settings())
    values["model"]["init_args"][part]["init_args"][key] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match=problem):
        convert(tmp_path)


def test_other_classes_are_refused(tmp_path):
    values = copy.deepcopy(settings())
    values["model"]["init_args"]["head"]["class_path"] = "decoder.heads.IMDCTCosHead"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    torch.save({}, tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="head must be ISTFTHead.*IMDCTCosHead"):
        convert(tmp_path)


@pytest.mark.parametrize("name, strides", [("wavtokenizer_40", [6, 5, 5, 4]), ("wavtokenizer_75", [8, 5, 4, 2])])
def test_recipes_are_the_published_models(monkeypatch, name, strides):
    """Weights of the published sizes fit the recipe's model: every shape, without a number."""
    from codec.convert import source, wavtokenizer
    from codec.model import Codec
    from codec.training import recipe

    values = settings(strides, 768, 2304, 12, 4096)
    with torch.device("meta"):
        tensors = Published(values).state_dict()
        expected = Codec(recipe.load(name).model).state_dict()
    found = {}
    monkeypatch.setattr(source.Source, "codec", lambda self, ours: found.update(config=ours, state=self._state))
    wavtokenizer.read(values, {key: torch.zeros(()).expand(value.shape) for key, value in tensors.items()})
    assert found["config"] == recipe.load(name).model
    assert {n: v.shape for n, v in found["state"].items()} == {
        n: v.shape for n, v in expected.items() if not n.startswith("quantizer.trainer")
    }
