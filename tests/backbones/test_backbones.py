"""What every encoder and decoder promises."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from codec.backbones import build_decoder, build_encoder
from codec.config import ConvNeXtDecoderConfig, SEANetDecoderConfig, SEANetEncoderConfig

sys.path.append(str(Path(__file__).parent.parent / "nn"))
from streaming import stream  # noqa: E402

HOP = 160


def same(model, a, b) -> bool:
    """Bit by bit for frame-wise layers, to 1e-6 for convolutions and LSTMs."""
    return torch.equal(a, b) if model.config.name != "tiny-seanet" else torch.allclose(a, b, rtol=0, atol=1e-6)


@torch.no_grad()
def test_encoder_streams_and_batches(any_model):
    wav = 0.3 * torch.randn(3, 1, 120 * HOP, generator=torch.Generator().manual_seed(1))
    latents, _ = any_model.encoder(wav)
    assert latents.shape == (3, 12, 120)
    assert same(any_model, stream(any_model.encoder, wav, 2, unit=HOP), latents)
    assert same(any_model, any_model.encoder(wav[1:2])[0], latents[1:2])


@torch.no_grad()
def test_decoder_streams_and_batches(any_model):
    latents = torch.randn(3, 12, 120, generator=torch.Generator().manual_seed(1))
    wav, _ = any_model.decoder(latents)
    assert wav.shape == (3, 1, 120 * HOP)
    assert same(any_model, stream(any_model.decoder, latents, 2), wav)
    assert same(any_model, any_model.decoder(latents[1:2])[0], wav[1:2])


@torch.no_grad()
def test_the_future_changes_nothing(any_model):
    wav = 0.3 * torch.randn(1, 1, 20 * HOP, generator=torch.Generator().manual_seed(1))
    changed = wav.clone()
    changed[..., 10 * HOP :] += 0.5
    before, after = any_model.encoder(wav)[0], any_model.encoder(changed)[0]
    assert same(any_model, before[..., :10], after[..., :10])
    assert not same(any_model, before[..., 10], after[..., 10])
    latents = torch.randn(1, 12, 20)
    other = latents.clone()
    other[..., 10:] += 1
    start = 10 * HOP
    before, after = any_model.decoder(latents)[0], any_model.decoder(other)[0]
    assert same(any_model, before[..., :start], after[..., :start])
    assert not same(any_model, before[..., start : start + HOP], after[..., start : start + HOP])


def test_gradients_reach_every_weight(any_model):
    encoder = build_encoder(any_model.config.encoder, 12, HOP)
    decoder = build_decoder(any_model.config.decoder, 12, HOP)
    decoder(encoder(0.3 * torch.randn(2, 1, 30 * HOP))[0])[0].square().mean().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiply to 320"):
        build_encoder(SEANetEncoderConfig(strides=(2, 4, 5, 8)), 12, HOP)
    with pytest.raises(ValueError, match="multiply to 40"):
        build_decoder(SEANetDecoderConfig(strides=(5, 8)), 12, HOP)
    with pytest.raises(ValueError, match="take a divisor"):
        build_decoder(ConvNeXtDecoderConfig(upsample=3), 12, 320)
    with pytest.raises(ValueError, match="delay=10"):
        build_decoder(ConvNeXtDecoderConfig(delay=10), 12, 320)
