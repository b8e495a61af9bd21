"""DAC (Kumar et al. 2023, https://arxiv.org/abs/2306.06546) as `transformers` keeps it: DacModel."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.source import Settings, Source
from codec.model import Codec


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    values = Settings("DAC", config)
    down = values.wholes("downsampling_ratios", (2, 4, 8, 8))
    up = values.wholes("upsampling_ratios", down[::-1])
    channels, rate = values.whole("encoder_hidden_size", 64), values.whole("sampling_rate", 16_000)
    if len(down) > 16:
        raise ConfigError(f"DAC: downsampling_ratios has {len(down)} entries: at most 16 can be had here")
    ours = CodecConfig.from_dict({
        "name": f"dac-{rate // 1000}k", "sample_rate": rate, "frame_size": math.prod(down),
        "dim": values.whole("hidden_size", channels * 2 ** len(down)),
        "encoder": {"name": "dac", "channels": channels, "strides": down},
        "decoder": {"name": "dac", "channels": values.whole("decoder_hidden_size", 1536), "strides": up, "whole": False},
        "quantizer": {
            "name": "factorized_rvq", "num_codebooks": values.whole("n_codebooks", 9),
            "codebook_size": values.whole("codebook_size", 1024), "codebook_dim": values.whole("codebook_dim", 8),
        },
    })
    source = Source(tensors)
    take_encoder(source, len(down), "encoder", "encoder")
    take_decoder(source, len(up), "decoder", "decoder")
    for index in range(ours.quantizer.num_codebooks):
        take_stage(source, f"quantizer.stages.{index}", f"quantizer.quantizers.{index}")
    return source.codec(ours)


def take_encoder(source: Source, blocks: int, own: str, theirs: str) -> None:
    """The weights under `theirs` of a `DACEncoder` at `own`."""
    take_conv(source, f"{own}.conv1", f"{theirs}.conv1")
    for index in range(blocks):
        block, published = f"{own}.blocks.{index}", f"{theirs}.block.{index}"
        _take_units(source, block, published)
        take_snake(source, f"{block}.snake", f"{published}.snake1")
        take_conv(source, f"{block}.conv", f"{published}.conv1")
    take_snake(source, f"{own}.snake", f"{theirs}.snake1")
    take_conv(source, f"{own}.conv2", f"{theirs}.conv2")


def take_decoder(source: Source, blocks: int, own: str, theirs: str) -> None:
    """The weights under `theirs` of a `DACDecoder` at `own`."""
    take_conv(source, f"{own}.conv1", f"{theirs}.conv1")
    for index in range(blocks):
        block, published = f"{own}.blocks.{index}", f"{theirs}.block.{index}"
        take_snake(source, f"{block}.snake", f"{published}.snake1")
        take_conv(source, f"{block}.conv", f"{published}.conv_t1")
        _take_units(source, block, published)
    take_snake(source, f"{own}.snake", f"{theirs}.snake1")
    take_conv(source, f"{own}.conv2", f"{theirs}.conv2")


def take_stage(source: Source, own: str, theirs: str) -> None:
    """A stage of the factorized quantizer, whose maps they have as convolutions of width 1."""
    for name in ("in_proj", "out_proj"):
        source.take_normed(f"{own}.{name}.weight", f"{theirs}.{name}", lambda weight: weight.squeeze(2))
        source.take(f"{own}.{name}.bias", f"{theirs}.{name}.bias")
    source.take(f"{own}.codebook.weight", f"{theirs}.codebook.weight")


def take_conv(source: Source, own: str, theirs: str) -> None:
    source.take_normed(f"{own}.weight", theirs)
    source.take(f"{own}.bias", f"{theirs}.bias")


def take_snake(source: Source, own: str, theirs: str) -> None:
    source.take(f"{own}.alpha", f"{theirs}.alpha", lambda alpha: alpha.squeeze(0))


def _take_units(source: Source, own: str, theirs: str) -> None:
    for index in range(3):
        unit, published = f"{own}.units.{index}", f"{theirs}.res_unit{index + 1}"
        for number in (1, 2):
            take_snake(source, f"{unit}.snake{number}", f"{published}.snake{number}")
            take_conv(source, f"{unit}.conv{number}", f"{published}.conv{number}")
