"""X-Codec 2 in its authors' layout, against their package xcodec2 with its own modules, small and with random weights."""

from __future__ import annotations

import importlib
import importlib.util
import json
import types

import pytest
import torch
from published import noise
from published_xcodec2 import fill, put_stand_ins, teacher
from safetensors.torch import save_file

from codec import hub
from codec.config import ConfigError
from codec.convert import convert, is_foreign
from codec.model import Codec

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchaudio")
pytest.importorskip("vector_quantize_pytorch")
if importlib.util.find_spec("xcodec2") is None:
    pytest.skip("compares with the package xcodec2: pip install --no-deps xcodec2 einops", allow_module_level=True)

HOP = 320
SETTINGS = {
    "model_type": "xcodec2", "semantic_hidden_size": 32, "codec_encoder_hidden_size": 64, "codec_decoder_hidden_size": 64,
    "use_vocos": True, "architectures": ["XCodec2Model"],
}


@pytest.fixture(scope="module")
def package():
    """Its modules, imported with what they need of others."""
    with pytest.MonkeyPatch.context() as patch:
        put_stand_ins(patch)
        names = ("modeling_xcodec2", "vq.codec_encoder", "vq.codec_decoder_vocos", "vq.module")
        yield types.SimpleNamespace(**{name.split(".")[-1]: importlib.import_module(f"xcodec2.{name}") for name in names})


def small(package):
    """Their XCodec2Model of small parts."""
    torch.manual_seed(0)
    model = package.modeling_xcodec2.XCodec2Model.__new__(package.modeling_xcodec2.XCodec2Model)
    torch.nn.Module.__init__(model)
    model.config = transformers.PretrainedConfig()
    model.feature_extractor = transformers.SeamlessM4TFeatureExtractor(padding_value=1)
    model.semantic_model = teacher(transformers)
    model.SemanticEncoder_module = package.module.SemanticEncoder(32, 32, 32)
    model.CodecEnc = package.codec_encoder.CodecEncoder_Transformer(ngf=4, hidden_dim=64)
    model.generator = package.codec_decoder_vocos.CodecDecoderVocos(
        hidden_dim=64, depth=2, heads=16, pos_meb_dim=4, hop_length=HOP, vq_dim=96,
    )
    model.fc_prior, model.fc_post_a = torch.nn.Linear(96, 96), torch.nn.Linear(96, 64)
    return fill(model)


def published(model, newer: bool = False) -> dict[str, torch.Tensor]:
    """As the published weights have them: weight normalisation of the old kind, and magnitudes of Snake called beta, which
    their package of version 0.1.5 calls bias (and so draws anew when it loads them)."""
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    if newer:
        return tensors
    changes = (".parametrizations.weight.original0", ".weight_g"), (".parametrizations.weight.original1", ".weight_v")
    changes += ((".act.bias", ".act.beta"),)
    for old, new in changes:
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return tensors


def save(tensors, directory, **settings):
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(SETTINGS | settings))
    return directory


@pytest.fixture(scope="module")
def pair(package, tmp_path_factory):
    model = small(package)
    return model, convert(save(published(model), tmp_path_factory.mktemp("xcodec2")))


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 319, 320, 321, 640, 1601, 9599, 16_000, 50_123])
def test_codes_and_samples_are_theirs(pair, samples):
    """They code a frame of silence behind a recording that ends with a frame."""
    theirs, ours = pair
    wav, frames = noise(1, 1, samples), -(-samples // HOP)
    tokens, expected = ours.encode(wav), theirs.encode_code(wav[:, 0])
    assert tokens.codes.shape == (1, 1, frames) and expected.shape[2] == samples // HOP + 1
    assert (tokens.codes == expected[..., :frames]).float().mean() > 0.999
    assert samples < 10_000 or len(expected.unique()) > 10
    heard = theirs.decode_code(tokens.codes)
    assert 1e-3 < heard.abs().mean() < 10
    torch.testing.assert_close(ours.decode(tokens), heard[..., :samples], rtol=0, atol=1e-4)


@torch.no_grad()
def test_both_names_of_their_tensors_and_types(pair, tmp_path):
    theirs, ours = pair
    newer = convert(save(published(theirs, newer=True), tmp_path / "newer", model_type="xcodec"))
    assert newer.spec == ours.spec and newer.config == ours.config
    torch.save({"state_dict": published(theirs)}, tmp_path / "epoch=4-step=1400000.ckpt")  # of their training
    assert is_foreign(tmp_path) and hub.load(tmp_path).spec == ours.spec


@torch.no_grad()
def test_the_teacher_from_a_folder_of_its_own_or_the_hub(pair, tmp_path, monkeypatch):
    theirs, ours = pair
    tensors = published(theirs)
    lacking = {name: value for name, value in tensors.items() if not name.startswith("semantic_model.")}
    folder = save(lacking, tmp_path / "xcodec2")
    with pytest.raises(ConfigError, match="X-Codec 2 comes without its teacher: put model.safetensors of facebook/w2v-bert-2.0"):
        convert(folder)
    with pytest.raises(ConfigError, match="without its teacher"):
        hub.load(folder)  # a folder asks for nothing from elsewhere
    own = {name.removeprefix("semantic_model."): value for name, value in tensors.items() if name not in lacking}
    (tmp_path / "w2v-bert-2.0").mkdir()
    save_file(own, tmp_path / "w2v-bert-2.0" / "model.safetensors")
    there = {"HKUSTAudio/xcodec2": folder, "facebook/w2v-bert-2.0": tmp_path / "w2v-bert-2.0"}
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(there[name]))
    assert hub.load("HKUSTAudio/xcodec2").spec == ours.spec
    (tmp_path / "w2v-bert-2.0").rename(folder / "w2v-bert-2.0")
    assert hub.load(folder).spec == ours.spec


@pytest.mark.parametrize("change, problem", [
    (lambda tensors: tensors.pop("fc_prior.bias"), "missing fc_prior.bias"),
    (lambda tensors: tensors.pop("CodecEnc.conv_blocks.1.block.3.act.beta"), "missing CodecEnc.conv_blocks.1.block.3.act.beta"),
    (lambda tensors: tensors.update({"generator.extra": torch.zeros(3)}), "unexpected generator.extra"),
    (lambda tensors: tensors.update({"fc_post_a.weight": torch.zeros(64, 3)}), "do not fit behind each other"),
    (lambda tensors: tensors.update({"generator.head.out.weight": torch.zeros(3, 64)}), r"is \(3, 64\) instead of \(1282, 64\)"),
])
def test_tensors_that_do_not_fit_are_named(tmp_path, pair, change, problem):
    tensors = published(pair[0])
    change(tensors)
    with pytest.raises(ConfigError, match=problem):
        convert(save(tensors, tmp_path / "wrong"))


def test_settings_that_cannot_be_had_are_refused(tmp_path, pair):
    for settings, problem in (({"use_vocos": False}, "use_vocos=False"), ({"semantic_hidden_size": 48}, "the teacher's width")):
        with pytest.raises(ConfigError, match=problem):
            convert(save(published(pair[0]), tmp_path / "wrong", **settings))


def test_the_recipe_is_the_published_model(monkeypatch, package):
    """Weights of the published sizes fit the recipe's model: every shape, without a number."""
    from codec.convert import source, xcodec2_published
    from codec.training import recipe

    model = recipe.load("x_codec2").model
    with torch.device("meta"):
        axes = torch.nn.ModuleDict({"project_in": torch.nn.Linear(2048, 8), "project_out": torch.nn.Linear(8, 2048)})
        monkeypatch.setattr(package.codec_decoder_vocos, "ResidualFSQ", lambda **_: axes)  # it looks at its own numbers
        expected = Codec(model).state_dict()
        parts = {
            "CodecEnc": package.codec_encoder.CodecEncoder_Transformer(), "generator": package.codec_decoder_vocos.CodecDecoderVocos(),
            "SemanticEncoder_module": package.module.SemanticEncoder(1024, 1024, 1024),
            "fc_prior": torch.nn.Linear(2048, 2048), "fc_post_a": torch.nn.Linear(2048, 1024),
            "semantic_model": transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig()),
        }
    tensors = {f"{part}.{name}": torch.zeros(()).expand(value.shape) for part, network in parts.items()
               for name, value in network.state_dict().items()}
    found = {}
    monkeypatch.setattr(source.Source, "codec", lambda self, ours: found.update(config=ours, state=self._state, left=self._left))
    xcodec2_published.read({}, tensors)
    assert found["config"] == model and not found["left"]
    assert {name: value.shape for name, value in found["state"].items()} == {
        name: value.shape for name, value in expected.items() if not name.startswith("quantizer.trainer")}
