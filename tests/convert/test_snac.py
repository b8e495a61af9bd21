"""Against SNAC itself (pip install snac): random weights, saved as its authors do, config.json beside pytorch_model.bin.

SNAC's decoder adds white noise, drawn anew every time: two decodings of the same codes differ, by more than any tolerance.
Here it is left out, which is its mean. So samples are compared with SNAC's where it draws zeros.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.nn import functional as F

import codec
from codec.config import ConfigError
from codec.convert import convert

snac = pytest.importorskip("snac")

SMALL = {  # of the layout of hubertsiuzdak/snac_24khz
    "sampling_rate": 24_000, "encoder_dim": 6, "encoder_rates": [2, 4, 8], "decoder_dim": 64, "decoder_rates": [8, 4, 2],
    "attn_window_size": None, "codebook_size": 64, "codebook_dim": 4, "vq_strides": [4, 2, 1], "noise": True, "depthwise": True,
}
VARIANTS = {
    "published": {}, "odd strides": {"encoder_rates": [3, 2, 5], "decoder_rates": [5, 2, 3]}, "dense": {"depthwise": False},
    "no noise": {"noise": False}, "four rates": {"vq_strides": [8, 4, 2, 1]}, "one rate": {"vq_strides": [1, 1]},
}


def save(directory, **changes):
    torch.manual_seed(0)
    settings = SMALL | changes
    model = snac.SNAC(**settings).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("alpha"):
            value.uniform_(0.3, 2.0)
        elif name.endswith("bias"):
            value.normal_(0, 0.05)
        elif name.endswith("original1"):
            value.normal_(0, 1)
        elif name.endswith("original0"):
            value.uniform_(0.5, 0.9)
        elif "codebook" in name:
            value.normal_(0, 0.5)
    (directory / "config.json").write_text(json.dumps(settings))
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("snac")
    return save(directory, **VARIANTS[request.param]), convert(directory)


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("frames", [0.01, 1, 3.5, 4, 8, 29.3, 64])
def test_codes_and_samples_are_theirs(pair, monkeypatch, frames):
    theirs, ours = pair
    samples = max(1, round(frames * ours.frame_size))
    wav = noise(2, 1, samples)
    tokens, expected = ours.encode(wav), theirs.encode(wav)
    group = ours.quantizer.frame_multiple
    assert tokens.num_frames == math.ceil(samples / ours.frame_size / group) * group == expected[-1].shape[1]
    for index, (codes, stride) in enumerate(zip(expected, ours.quantizer.strides)):
        assert torch.equal(tokens.codes[:, index], codes.repeat_interleave(stride, 1))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", torch.zeros)
        heard = theirs.decode(expected)[..., :samples]
    assert 0.001 < heard.abs().mean() < 0.9  # neither silent nor at tanh's ends
    torch.testing.assert_close(ours.decode(tokens), heard, rtol=0, atol=1e-4)


@torch.no_grad()
def test_fewer_codebooks_are_the_first_ones(pair):
    """SNAC itself decodes all of them alone."""
    theirs, ours = pair
    wav = noise(1, 1, 16 * ours.frame_size)
    every = ours.encode(wav)
    for k in ours.quantizer.counts:
        tokens = ours.encode(wav, num_codebooks=k)
        assert torch.equal(tokens.codes, every.codes[:, :k])
        latents = sum(
            stage.out_proj(stage.decode_code(codes)).repeat_interleave(stage.stride, 2)
            for stage, codes in zip(list(theirs.quantizer.quantizers)[:k], theirs.encode(wav))
        )
        torch.testing.assert_close(ours.quantizer.decode(tokens.codes), latents, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_batch_of_lengths_is_its_items_alone(pair, monkeypatch):
    theirs, ours = pair
    hop = ours.frame_size
    lengths = [16 * hop, 1, 9 * hop + 3, 15 * hop]
    wav = noise(4, 1, 16 * hop)
    tokens = ours.encode(wav, lengths=lengths)
    audio = ours.decode(tokens)
    monkeypatch.setattr(torch, "randn", torch.zeros)
    for row, length in enumerate(lengths):
        expected = theirs.encode(wav[row : row + 1, :, :length])
        for index, (codes, stride) in enumerate(zip(expected, ours.quantizer.strides)):
            codes = codes.repeat_interleave(stride, 1)
            assert torch.equal(tokens.codes[row, index, : codes.shape[1]], codes[0])
        torch.testing.assert_close(audio[row, :, :length], theirs.decode(expected)[0, :, :length], rtol=0, atol=1e-4)
        assert (audio[row, 0, length:] == 0).all()


def test_decoding_draws_nothing_and_training_does(tmp_path):
    save(tmp_path)
    ours = codec.load(tmp_path)
    latents = torch.randn(1, ours.config.dim, 8)
    assert torch.equal(ours.decoder(latents)[0], ours.decoder(latents)[0])
    ours.decoder.train()
    assert not torch.equal(ours.decoder(latents)[0], ours.decoder(latents)[0])


@torch.no_grad()
def test_noise_in_training_is_theirs(tmp_path, monkeypatch):
    """The same draw, added to the same place, scaled by the same map."""
    theirs = save(tmp_path)
    ours = convert(tmp_path)
    ours.decoder.train()
    latents = noise(1, ours.config.dim, 8)
    torch.manual_seed(0)
    expected = theirs.decoder(latents)
    torch.manual_seed(0)
    torch.testing.assert_close(ours.decoder(latents)[0], expected, rtol=0, atol=1e-4)


def test_the_recipe_is_the_published_model():
    from codec.convert import snac as conversion
    from codec.convert import source
    from codec.model import Codec
    from codec.training import recipe

    settings = SMALL | {"encoder_dim": 48, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 1024, "decoder_rates": [8, 8, 4, 2],
                        "codebook_size": 4096, "codebook_dim": 8}
    ours = recipe.load("snac_24k").model
    with torch.device("meta"):
        published, expected = snac.SNAC(**settings).state_dict(), Codec(ours).state_dict()
    assert 19.7e6 < sum(value.numel() for value in published.values()) < 19.9e6  # 19.8 M, its authors say
    with pytest.MonkeyPatch.context() as patch:
        found = {}
        patch.setattr(source.Source, "codec", lambda self, config: found.update(config=config, state=self._state))
        conversion.read(settings, {name: torch.zeros(()).expand(value.shape) for name, value in published.items()})
    assert found["config"] == ours
    assert {name: value.shape for name, value in found["state"].items()} == {n: v.shape for n, v in expected.items()}


@pytest.mark.parametrize("changes, message", [
    ({"attn_window_size": 32}, "local attention is not built"),
    ({"latent_dim": 7}, "latent_dim=7 cannot be converted"),
    ({"vq_strides": [4, 3, 1]}, "each a multiple of the next"),
    ({"encoder_rates": []}, "encoder_rates must be a list of positive whole numbers"),
])
def test_settings_that_cannot_be_had_are_refused(tmp_path, changes, message):
    save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL | changes))
    with pytest.raises(ConfigError, match=message):
        convert(tmp_path)


def test_tensors_that_do_not_fit_are_named(tmp_path):
    save(tmp_path)
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    del state["decoder.model.2.block.0.alpha"]
    state["extra"] = torch.zeros(2)
    state["encoder.block.0.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError) as error:
        convert(tmp_path)
    for name in ("missing decoder.model.2.block.0.alpha", "unexpected extra", "encoder.block.0.bias is (3,) instead of (6,)"):
        assert name in str(error.value)


@torch.no_grad()
def test_streamed_it_is_the_same(pair):
    theirs, ours = pair
    wav = noise(1, 1, 30 * ours.frame_size + 5)
    tokens = ours.encode(wav)
    with ours.stream() as stream:
        codes = torch.cat([*(stream.encode(part) for part in wav.split(97, 2)), stream.flush()], 2)
        audio = torch.cat([*(stream.decode(part) for part in codes.split(3, 2)), stream.flush_decoder()], 2)
    assert torch.equal(codes, tokens.codes)
    torch.testing.assert_close(audio[..., : wav.shape[2]], ours.decode(tokens), rtol=0, atol=1e-5)
    padded = F.pad(wav, (0, -wav.shape[2] % (ours.frame_size * ours.quantizer.frame_multiple)))
    assert torch.equal(theirs.encode(padded)[-1], codes[:, -1])
