"""Small seeded codecs. A module of its own: `conftest` is whichever conftest.py pytest has read last."""

from __future__ import annotations

import torch

from codec.config import (
    CodecConfig,
    ConvNeXtDecoderConfig,
    ConvNeXtEncoderConfig,
    FusedEncoderConfig,
    QuantizerConfig,
    SEANetDecoderConfig,
    SEANetEncoderConfig,
)


def make_config(**changes) -> CodecConfig:
    """16 kHz, frames of 160 samples, 4 codebooks of 32; odd widths, so that kernels have remainders to get wrong."""
    settings = {
        "name": "tiny", "frame_size": 160, "dim": 12,
        "encoder": ConvNeXtEncoderConfig(window=320, channels=27, hidden=50, blocks=2, kernel_size=5),
        "decoder": ConvNeXtDecoderConfig(
            window=160, channels=27, hidden=50, blocks=2, upsample=4, fine_channels=18, fine_hidden=31, fine_blocks=1,
            kernel_size=5, delay=160,
        ),
        "quantizer": QuantizerConfig(num_codebooks=4, codebook_size=32),
    }
    return CodecConfig(**(settings | changes))


def make_seanet_config() -> CodecConfig:
    common = {"channels": 4, "kernel_size": 5, "residual_layers": 2, "lstm_layers": 1}
    return make_config(
        name="tiny-seanet", encoder=SEANetEncoderConfig(strides=(4, 5, 8), **common),
        decoder=SEANetDecoderConfig(strides=(8, 5, 4), **common),
    )


def make_fused_config() -> CodecConfig:
    return make_config(name="tiny-fused", encoder=FusedEncoderConfig(
        window=320, channels=27, hidden=50, blocks=2, kernel_size=5, sound_dim=10, content_dim=22, content_channels=19,
        content_hidden=35, content_blocks=1,
    ))


def make_model(config: CodecConfig):
    """Seeded weights, scaled so that every codebook is used."""
    from codec.model import Codec

    torch.manual_seed(0)
    model = Codec(config).eval().requires_grad_(False)
    noise = 0.3 * torch.randn(1, 1, 50 * config.frame_size)
    model.quantizer.codebooks *= 1.5 * model.encoder(noise)[0].std()
    return model
