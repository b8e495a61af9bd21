"""SNAC (Siuzdak et al. 2024, https://arxiv.org/abs/2410.14411) as its authors published it, without local attention."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.dac import take_conv, take_snake, take_stage
from codec.convert.source import Settings, Source
from codec.model import Codec


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    values = Settings("SNAC", config)
    if config.get("attn_window_size", 32) is not None:  # 32 is what SNAC takes where nothing is said
        raise ConfigError(f"SNAC: attn_window_size={config.get('attn_window_size', 32)} cannot be converted: local attention is "
                          "not built; take the 24 kHz model, which has none")
    down, up = values.wholes("encoder_rates", (3, 3, 7, 7)), values.wholes("decoder_rates", (7, 7, 3, 3))
    vq_strides = values.wholes("vq_strides", (8, 4, 2, 1))
    channels, rate = values.whole("encoder_dim", 64), values.whole("sampling_rate", 44_100)
    depthwise, noise = values("depthwise", True), values("noise", True)
    if len(down) > 16 or len(up) > 16:
        raise ConfigError("SNAC: encoder_rates and decoder_rates can have at most 16 entries here")
    dim = channels * 2 ** len(down)
    values.require("latent_dim", dim, "latents are as wide as the encoder's last layer")
    ours = CodecConfig.from_dict({
        "name": f"snac-{rate // 1000}k", "sample_rate": rate, "frame_size": math.prod(down), "dim": dim,
        "encoder": {"name": "snac", "channels": channels, "strides": down, "depthwise": depthwise},
        "decoder": {
            "name": "snac", "channels": values.whole("decoder_dim", 1536), "strides": up, "depthwise": depthwise,
            "noise": noise,
        },
        "quantizer": {
            "name": "factorized_rvq", "num_codebooks": len(vq_strides), "codebook_size": values.whole("codebook_size", 4096),
            "codebook_dim": values.whole("codebook_dim", 8), "strides": vq_strides,
        },
    })
    source = Source(tensors)
    _take_encoder(source, len(down))
    _take_decoder(source, len(up), depthwise, noise)
    for index in range(len(vq_strides)):
        take_stage(source, f"quantizer.stages.{index}", f"quantizer.quantizers.{index}")
    return source.codec(ours)


def _take_encoder(source: Source, blocks: int) -> None:
    take_conv(source, "encoder.conv1", "encoder.block.0")
    for index in range(blocks):
        own, theirs = f"encoder.blocks.{index}", f"encoder.block.{index + 1}.block"
        _take_units(source, own, theirs, 0)
        take_snake(source, f"{own}.snake", f"{theirs}.3")
        take_conv(source, f"{own}.conv", f"{theirs}.4")
    take_conv(source, "encoder.conv2", f"encoder.block.{blocks + 1}")


def _take_decoder(source: Source, blocks: int, depthwise: bool, noise: bool) -> None:
    """They number all layers, ours are named."""
    start = 2 if depthwise else 1
    for number in range(start):
        take_conv(source, f"decoder.first.{number}", f"decoder.model.{number}")
    for index in range(blocks):
        own, theirs = f"decoder.blocks.{index}", f"decoder.model.{start + index}.block"
        take_snake(source, f"{own}.snake", f"{theirs}.0")
        take_conv(source, f"{own}.conv", f"{theirs}.1")
        if noise:
            source.take_normed(f"{own}.noise.scale.weight", f"{theirs}.2.linear")
        _take_units(source, own, theirs, 3 if noise else 2)
    take_snake(source, "decoder.snake", f"decoder.model.{start + blocks}")
    take_conv(source, "decoder.conv2", f"decoder.model.{start + blocks + 1}")


def _take_units(source: Source, own: str, theirs: str, first: int) -> None:
    for index in range(3):
        unit, published = f"{own}.units.{index}", f"{theirs}.{first + index}.block"
        take_snake(source, f"{unit}.snake1", f"{published}.0")
        take_conv(source, f"{unit}.conv1", f"{published}.1")
        take_snake(source, f"{unit}.snake2", f"{published}.2")
        take_conv(source, f"{unit}.conv2", f"{published}.3")
