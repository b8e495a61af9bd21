"""Encoder and decoder families behind one interface.

An encoder maps (wav (B, 1, n * hop), state) to (latents (B, dim, n), state), a decoder maps them back; no state means
the start of a signal. A decoder's `delay` says by how many samples its output lags the input of the encoder: look-ahead
plus what overlapping synthesis windows still need.
"""

from __future__ import annotations

import dataclasses

from torch import nn

from codec.config import DecoderConfig, EncoderConfig


def build_encoder(config: EncoderConfig, dim: int, hop: int) -> nn.Module:
    options = _options(config)
    if config.name == "convnext_stft":
        from codec.backbones.convnext_stft import ConvNeXtEncoder

        return ConvNeXtEncoder(dim=dim, hop=hop, **options)
    if config.name == "fused":
        from codec.backbones.fused import FusedEncoder

        return FusedEncoder(dim=dim, hop=hop, **options)
    if config.name == "dac":
        from codec.backbones.dac import DACEncoder

        return DACEncoder(dim=dim, hop=hop, **options)
    if config.name == "snac":
        from codec.backbones.snac import SNACEncoder

        return SNACEncoder(dim=dim, hop=hop, **options)
    if config.name == "seanet_transformer":
        from codec.backbones.seanet_transformer import SEANetTransformerEncoder

        return SEANetTransformerEncoder(dim=dim, hop=hop, **options)
    if config.name == "xcodec":
        from codec.backbones.xcodec import XCodecEncoder

        return XCodecEncoder(dim=dim, hop=hop, **options)
    if config.name == "xcodec2":
        from codec.backbones.xcodec2 import XCodec2Encoder

        return XCodec2Encoder(dim=dim, hop=hop, **options)
    if config.name == "seanet_mirrored":
        from codec.backbones.seanet_mirrored import MirroredSEANetEncoder

        return MirroredSEANetEncoder(dim=dim, hop=hop, **options)
    from codec.backbones.seanet import SEANetEncoder

    return SEANetEncoder(dim=dim, hop=hop, **options)


def build_decoder(config: DecoderConfig, dim: int, hop: int) -> nn.Module:
    options = _options(config)
    if config.name == "convnext_stft":
        from codec.backbones.convnext_stft import ConvNeXtDecoder

        return ConvNeXtDecoder(dim=dim, hop=hop, **options)
    if config.name == "dac":
        from codec.backbones.dac import DACDecoder

        return DACDecoder(dim=dim, hop=hop, **options)
    if config.name == "snac":
        from codec.backbones.snac import SNACDecoder

        return SNACDecoder(dim=dim, hop=hop, **options)
    if config.name == "seanet_transformer":
        from codec.backbones.seanet_transformer import SEANetTransformerDecoder

        return SEANetTransformerDecoder(dim=dim, hop=hop, **options)
    if config.name == "xcodec":
        from codec.backbones.xcodec import XCodecDecoder

        return XCodecDecoder(dim=dim, hop=hop, **options)
    if config.name == "xcodec2":
        from codec.backbones.xcodec2 import XCodec2Decoder

        return XCodec2Decoder(dim=dim, hop=hop, **options)
    if config.name == "seanet_mirrored":
        from codec.backbones.seanet_mirrored import MirroredSEANetDecoder

        return MirroredSEANetDecoder(dim=dim, hop=hop, **options)
    if config.name == "wavtokenizer":
        from codec.backbones.wavtokenizer import WavTokenizerDecoder

        return WavTokenizerDecoder(dim=dim, hop=hop, **options)
    from codec.backbones.seanet import SEANetDecoder

    return SEANetDecoder(dim=dim, hop=hop, **options)


def _options(config) -> dict:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "name"}
