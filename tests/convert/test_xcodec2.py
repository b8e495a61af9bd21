"""Against Xcodec2Model of `transformers` behind its own feature extractor: random weights from its own configuration class."""

from __future__ import annotations

import math

import pytest
import torch
from published import noise, save

from codec.convert import convert

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchaudio")

HOP = 320


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
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
    model.requires_grad_(False)
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
