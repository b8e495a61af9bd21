"""Against the package neucodec with its own modules, small and with random weights."""

from __future__ import annotations

import importlib
import importlib.util
import math
import types

import pytest
import torch
from published import noise
from published_xcodec2 import fill, put_stand_ins, teacher
from safetensors.torch import save_file

from codec import hub
from codec.config import ConfigError
from codec.convert import convert, is_foreign
from codec.files import decode_file, encode_file
from codec.model import Codec

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchaudio")
pytest.importorskip("vector_quantize_pytorch")
if importlib.util.find_spec("neucodec") is None:
    pytest.skip("compares with the package neucodec: pip install --no-deps neucodec", allow_module_level=True)

HOP, OUT = 320, 480


@pytest.fixture(scope="module")
def package():
    """Its modules, imported with what they need of others."""
    with pytest.MonkeyPatch.context() as patch:
        put_stand_ins(patch)
        names = ("model", "codec_encoder", "codec_decoder_vocos", "module")
        yield types.SimpleNamespace(**{name: importlib.import_module(f"neucodec.{name}") for name in names})


def small(package):
    """Their NeuCodec of small parts."""
    torch.manual_seed(0)
    model = package.model.NeuCodec.__new__(package.model.NeuCodec)
    torch.nn.Module.__init__(model)
    model.sample_rate, model.hop_length = 24_000, OUT
    model.feature_extractor = transformers.SeamlessM4TFeatureExtractor(padding_value=1)
    model.semantic_model = teacher(transformers)
    model.SemanticEncoder_module = package.module.SemanticEncoder(32, 32, 32)
    model.CodecEnc = package.codec_encoder.CodecEncoder(ngf=4, hidden_dim=64)
    model.generator = package.codec_decoder_vocos.CodecDecoderVocos(
        hidden_dim=64, depth=2, heads=16, pos_meb_dim=4, hop_length=OUT, vq_dim=96,
    )
    model.fc_prior, model.fc_post_a = torch.nn.Linear(96, 96), torch.nn.Linear(96, 64)
    return fill(model)


def save(model, directory):
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    (directory / "meta.yaml").write_text("")
    return directory


@pytest.fixture(scope="module")
def pair(package, tmp_path_factory):
    model = small(package)
    return model, convert(save(model, tmp_path_factory.mktemp("neucodec")))


@torch.no_grad()
@pytest.mark.parametrize("samples", [320, 321, 640, 1601, 9599, 16_000, 50_123])
def test_codes_and_samples_are_theirs(pair, samples):
    """Theirs leaves out the last frame of a signal that does not fill it; here it is there, so that all is decoded."""
    theirs, ours = pair
    wav = noise(2, 1, samples)
    whole, frames = samples // HOP, math.ceil(samples / HOP)
    tokens, expected = ours.encode(wav), theirs.encode_code(wav)
    assert tokens.codes.shape == (2, 1, frames) and expected.shape[2] == whole
    assert (tokens.codes[..., :whole] == expected).float().mean() > 0.999
    assert samples < 10_000 or len(expected.unique()) > 20
    heard = theirs.decode_code(tokens.codes)  # at 24 kHz
    assert 1e-3 < heard.abs().mean() < 10
    torch.testing.assert_close(ours.decode_frames(tokens.codes), heard, rtol=0, atol=1e-4)
    assert ours.decode(tokens).shape == wav.shape


@torch.no_grad()
def test_less_than_a_frame_is_one(pair):
    """Theirs has no features for it."""
    for samples in (1, 160, 319):
        tokens = pair[1].encode(noise(1, samples))
        assert tokens.codes.shape == (1, 1, 1) and pair[1].decode(tokens).shape == (1, 1, samples)


@torch.no_grad()
def test_a_batch_of_lengths_is_its_items_alone(pair):
    _, ours = pair
    lengths, wav = [4000, 960, 3001], noise(3, 1, 4000)
    tokens = ours.encode(wav, lengths=lengths)
    audio = ours.decode(tokens)
    for row, length in enumerate(lengths):
        alone = ours.encode(wav[row, :, :length])
        assert torch.equal(tokens.item(row).codes, alone.codes)
        torch.testing.assert_close(audio[row, :, :length], ours.decode(alone)[0], rtol=0, atol=1e-5)
        assert (audio[row, :, length:] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("rate, samples", [(16_000, 20_001), (24_000, 30_011), (44_100, 40_007), (48_000, 3)])
def test_files_are_what_arrays_are(pair, tmp_path, rate, samples):
    import soundfile

    _, ours = pair
    wav = (noise(samples).clamp(-1, 1) * 32767).round() / 32768
    soundfile.write(tmp_path / "a.wav", wav.numpy(), rate, subtype="PCM_16")
    encode_file(ours, tmp_path / "a.wav", tmp_path / "a.tok")
    report = decode_file(ours, tmp_path / "a.tok", tmp_path / "b.wav")
    tokens = ours.encode(wav, sample_rate=rate)
    assert report.num_samples == samples and report.num_frames == tokens.num_frames
    heard, found = soundfile.read(tmp_path / "b.wav", dtype="float32")
    assert found == rate and len(heard) == samples
    expected = ours.decode(tokens)[0, 0].clamp(-1, 32767 / 32768)
    torch.testing.assert_close(torch.from_numpy(heard), expected, rtol=0, atol=1 / 32768)


@torch.no_grad()
def test_saved_loaded_and_never_live(tmp_path, pair):
    _, ours = pair
    assert (ours.sample_rate, ours.output_sample_rate, ours.frame_size, ours.output_frame_size) == (16_000, 24_000, HOP, OUT)
    hub.save(ours, tmp_path, dtype=torch.float32)
    again, wav = hub.load(tmp_path), noise(1, 1, 5000)
    assert again.config == ours.config and torch.equal(again.encode(wav).codes, ours.encode(wav).codes)
    with pytest.raises(ValueError, match="cannot run live"):
        again.stream()


@torch.no_grad()
def test_the_teacher_from_a_folder_of_its_own(tmp_path, pair):
    theirs, ours = pair
    state = theirs.state_dict()
    heard_through = {name.removeprefix("semantic_model."): value for name, value in state.items() if name.startswith("semantic_model.")}
    rest = {name: value for name, value in state.items() if not name.startswith("semantic_model.")}
    training = {"fc_post_s.weight": torch.zeros(2, 2), "SemanticDecoder_module.initial_conv.weight": torch.zeros(1)}
    torch.save(rest | training, tmp_path / "pytorch_model.bin")
    assert is_foreign(tmp_path)
    with pytest.raises(ConfigError, match="put model.safetensors of facebook/w2v-bert-2.0 into a folder w2v-bert-2.0"):
        convert(tmp_path)
    (tmp_path / "w2v-bert-2.0").mkdir()
    save_file({name: value.contiguous() for name, value in heard_through.items()}, tmp_path / "w2v-bert-2.0" / "model.safetensors")
    assert convert(tmp_path).spec == ours.spec
    (tmp_path / "config.json").write_text('{"sample_rate": 24000, "hop_length": 480}')
    assert hub.load(tmp_path).spec == ours.spec
    (tmp_path / "config.json").write_text('{"sample_rate": 16000, "hop_length": 480}')
    with pytest.raises(ConfigError, match="hop_length=480"):
        convert(tmp_path)


@torch.no_grad()
def test_from_the_hub(tmp_path, pair, monkeypatch):
    """Where it has neither a configuration nor safetensors, and its teacher is another model."""
    theirs, ours = pair
    parts = {True: {}, False: {}}
    for name, value in theirs.state_dict().items():
        parts[name.startswith("semantic_model.")][name.removeprefix("semantic_model.")] = value.contiguous()
    files = {
        ("neuphonic/neucodec", "pytorch_model.bin"): lambda path: torch.save(parts[False], path),
        ("facebook/w2v-bert-2.0", "model.safetensors"): lambda path: save_file(parts[True], path),
    }

    def snapshot_download(name, allow_patterns):
        folder = tmp_path / name.replace("/", "--")
        for (owner, file), write in files.items():
            if owner == name and file in allow_patterns:
                folder.mkdir(exist_ok=True)
                write(folder / file)
        return str(folder)

    monkeypatch.setattr(pytest.importorskip("huggingface_hub"), "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert hub.load("neuphonic/neucodec").spec == hub.load("hf:neuphonic/neucodec").spec == ours.spec


@pytest.mark.parametrize("change, problem", [
    (lambda tensors: tensors.pop("fc_prior.bias"), "missing fc_prior.bias"),
    (lambda tensors: tensors.update({"generator.extra": torch.zeros(3)}), "unexpected generator.extra"),
    (lambda tensors: tensors.update({"fc_post_a.weight": torch.zeros(64, 3)}), "do not fit behind each other"),
    (lambda tensors: tensors.pop("generator.backbone.embed.weight"), "missing generator.backbone.embed.weight"),
    (lambda tensors: tensors.update({"codec_encoder.a": torch.zeros(3)}), "DistillNeuCodec has encoders of its own"),
    (lambda tensors: tensors.update({"generator.head.out.weight": torch.zeros(3, 64)}), r"is \(3, 64\) instead of \(1922, 64\)"),
])
def test_tensors_that_do_not_fit_are_named(tmp_path, pair, change, problem):
    tensors = dict(pair[0].state_dict())
    change(tensors)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=problem):
        convert(tmp_path)


def test_the_recipe_is_the_published_model(monkeypatch, package):
    """Weights of the published sizes fit the recipe's model: every shape, without a number."""
    from codec.convert import neucodec, source
    from codec.training import recipe

    model = recipe.load("neucodec").model
    with torch.device("meta"):
        quantizer = package.codec_decoder_vocos.ResidualFSQ
        axes = torch.nn.ModuleDict({"project_in": torch.nn.Linear(2048, 8), "project_out": torch.nn.Linear(8, 2048)})
        monkeypatch.setattr(package.codec_decoder_vocos, "ResidualFSQ", lambda **_: axes)  # it looks at its own numbers
        expected = Codec(model).state_dict()
        published = {
            "CodecEnc": package.codec_encoder.CodecEncoder(),
            "generator": package.codec_decoder_vocos.CodecDecoderVocos(hop_length=OUT),
            "SemanticEncoder_module": package.module.SemanticEncoder(1024, 1024, 1024),
            "fc_prior": torch.nn.Linear(2048, 2048), "fc_post_a": torch.nn.Linear(2048, 1024),
            "semantic_model": transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig()),
        }
    own = quantizer(dim=2048, levels=[4] * 8, num_quantizers=1).state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in axes.state_dict().items()}
    tensors = {f"{part}.{name}": torch.zeros(()).expand(value.shape) for part, network in published.items()
               for name, value in network.state_dict().items()}
    found = {}
    monkeypatch.setattr(source.Source, "codec", lambda self, ours: found.update(config=ours, state=self._state, left=self._left))
    neucodec.read({}, tensors)
    assert found["config"] == model and not found["left"]
    assert {name: value.shape for name, value in found["state"].items()} == {
        name: value.shape for name, value in expected.items() if not name.startswith("quantizer.trainer")}
