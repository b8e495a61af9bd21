"""Against Xcodec2Model of `transformers` behind its own feature extractor: random weights from its own configuration class."""

from __future__ import annotations

import math

import pytest
import torch
from published import noise, save
from safetensors.torch import load_file, save_file

from codec import hub
from codec.config import ConfigError
from codec.convert import convert
from codec.model import Codec
from codec.nn.fbank import Filterbank

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchaudio")

HOP = 320


def published():
    """A small Xcodec2Model, its weights such that no layer drowns in its bias."""
    torch.manual_seed(0)
    speech = {"model_type": "wav2vec2-bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
              "conv_depthwise_kernel_size": 5, "left_max_position_embeddings": 6, "right_max_position_embeddings": 3}
    model = transformers.Xcodec2Model(transformers.Xcodec2Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
        encoder_hidden_size=4, quantization_dim=96, semantic_model_config=speech,
    )).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "alpha", "beta")):
                value.normal_(0, 0.05 if name.endswith("bias") else 0.3)
            elif value.dim() >= 2:
                value.normal_(0, 0.7 * value[0].numel() ** -0.5)
        model.quantizer.project_in.weight *= 2
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    model = published()
    return model, convert(save(model, tmp_path_factory.mktemp("xcodec2")))


def features(wav):
    """What their model takes, of wav (B, 1, T)."""
    extractor = transformers.models.xcodec2.feature_extraction_xcodec2.Xcodec2FeatureExtractor()
    inputs = extractor([one[0].numpy() for one in wav], sampling_rate=16_000, return_tensors="pt")
    return {key: value for key, value in inputs.items() if key != "padding_mask"}


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 319, 320, 321, 640, 1601, 16_000, 50_123])
def test_codes_and_samples_are_theirs(pair, samples):
    """Their extractor puts a zero behind every signal, so that one that ends with a frame has another one of silence; here
    it has none, and decodes without."""
    theirs, ours = pair
    wav = noise(2, 1, samples)
    frames = math.ceil(samples / HOP)
    tokens, expected = ours.encode(wav), theirs.encode(**features(wav)).audio_codes
    assert tokens.codes.shape == (2, 1, frames) and expected.shape[2] == samples // HOP + 1
    assert (tokens.codes == expected[..., :frames]).float().mean() > 0.999
    assert samples < 10_000 or len(expected.unique()) > 20
    heard = theirs.decode(tokens.codes).audio_values[..., :samples]
    assert 1e-3 < heard.abs().mean() < 10
    torch.testing.assert_close(ours.decode(tokens), heard, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_batch_of_lengths_is_its_items_alone(pair):
    """In theirs the padding of a batch is normalised over and attended to by the decoder."""
    theirs, ours = pair
    lengths = [4000, 960, 3001]
    wav = noise(3, 1, 4000)
    tokens = ours.encode(wav, lengths=lengths)
    audio = ours.decode(tokens)
    for row, length in enumerate(lengths):
        frames = math.ceil(length / HOP)
        expected = theirs.encode(**features(wav[row : row + 1, :, :length])).audio_codes[..., :frames]
        assert (tokens.codes[row, :, :frames] == expected[0]).float().mean() > 0.95  # at most a tie
        heard = theirs.decode(tokens.codes[row : row + 1, :, :frames]).audio_values[0, 0, :length]
        torch.testing.assert_close(audio[row, 0, :length], heard, rtol=0, atol=1e-4)
        assert (audio[row, 0, length:] == 0).all()


@torch.no_grad()
def test_their_rotary_positions_change_nothing(pair):
    """They are the numbers of heads, not of frames. With other angles theirs makes the same samples."""
    theirs, _ = pair
    codes = torch.randint(65_536, (1, 1, 40), generator=torch.Generator().manual_seed(0))
    before = theirs.decode(codes).audio_values
    kept = theirs.acoustic_decoder.rotary_emb.inv_freq.clone()
    theirs.acoustic_decoder.rotary_emb.inv_freq.mul_(3.7)
    after = theirs.decode(codes).audio_values
    theirs.acoustic_decoder.rotary_emb.inv_freq.copy_(kept)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_the_filterbank_is_kaldis():
    import torchaudio

    wav = noise(1, 16_000)
    expected = torchaudio.compliance.kaldi.fbank(
        wav * 2**15, num_mel_bins=80, sample_frequency=16_000, window_type="povey", dither=0.0, high_freq=8000,
    )
    torch.testing.assert_close(Filterbank(16_000, 400, 160, 80)(wav)[0], expected, rtol=0, atol=2e-3)
    silence = Filterbank(16_000, 400, 160, 80)(torch.zeros(1, 800))
    torch.testing.assert_close(silence, torch.full_like(silence, torch.finfo(torch.float32).eps).log())


@torch.no_grad()
def test_saved_loaded_and_never_live(tmp_path, pair):
    _, ours = pair
    wav = noise(1, 1, 5000)
    hub.save(ours, tmp_path, dtype=torch.float32)
    again = hub.load(tmp_path)
    assert again.config == ours.config and torch.equal(again.encode(wav).codes, ours.encode(wav).codes)
    with pytest.raises(ValueError, match="cannot run live"):
        again.stream()


def test_it_trains_and_the_teacher_does_not(pair):
    model = Codec(pair[1].config).train().requires_grad_(True)
    assert not any(module.training for module in model.encoder.teacher.modules())
    model(noise(2, 1, 10 * HOP), quantize=False).audio.square().mean().backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None and not name.startswith("quantizer")]
    assert missing and all(name.startswith("encoder.teacher") for name in missing)


@pytest.mark.parametrize("change, problem", [
    (lambda tensors: tensors.pop("fc_encoder.bias"), "missing fc_encoder.bias"),
    (lambda tensors: tensors.update({"semantic_encoder.extra": torch.zeros(3)}), "unexpected semantic_encoder.extra"),
    (lambda tensors: tensors.update({"quantizer.project_in.weight": torch.zeros(8, 3)}), "do not fit behind each other"),
    (lambda tensors: tensors.update({"acoustic_decoder.fc.weight": torch.zeros(3, 96), "acoustic_decoder.fc.bias": torch.zeros(3)}),
     r"decoder.fc is \(3, 8\) instead of \(64, 8\)"),
    (lambda tensors: tensors.update({"acoustic_encoder.block.0.snake1.act.beta": torch.zeros(3)}), r"beta is \(3,\) instead"),
])
def test_tensors_that_do_not_fit_are_named(tmp_path, change, problem):
    save(published(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=problem):
        convert(tmp_path)


@pytest.mark.parametrize("settings, problem", [
    ({"num_key_value_heads": 2}, "num_key_value_heads=2"), ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ({"quantization_dim": 7}, "quantization_dim=7"), ({"sampling_rate": 24_000}, "sampling_rate=24000"),
    ({"semantic_model_config": {"model_type": "hubert"}}, "model_type='hubert'"),
])
def test_settings_that_are_not_built_are_refused(settings, problem):
    from codec.convert import xcodec2

    with pytest.raises(ConfigError, match=problem):
        xcodec2.read(settings, {})


def test_the_recipe_is_the_published_model(monkeypatch):
    """Weights of the published sizes fit the recipe's model: every shape, without a number."""
    from codec.convert import source, xcodec2
    from codec.training import recipe

    model = recipe.load("x_codec2").model
    with torch.device("meta"):
        state = transformers.Xcodec2Model(transformers.Xcodec2Config()).state_dict()
        expected = Codec(model).state_dict()
    found = {}
    monkeypatch.setattr(source.Source, "codec", lambda self, ours: found.update(config=ours, state=self._state, left=self._left))
    xcodec2.read(transformers.Xcodec2Config().to_dict(), {n: torch.zeros(()).expand(v.shape) for n, v in state.items()})
    assert found["config"] == model and not found["left"]
    assert {name: value.shape for name, value in found["state"].items()} == {
        name: value.shape for name, value in expected.items() if not name.startswith("quantizer.trainer")}
