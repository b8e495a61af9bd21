"""X-Codec (Ye et al. 2024, https://arxiv.org/abs/2408.17175) as `transformers` keeps it: XcodecModel.

The teacher, HuBERT or WavLM, is in the same file. What only their training needs (the semantic decoder) is left out.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.dac import take_conv, take_decoder, take_encoder
from codec.convert.source import Settings, Source
from codec.model import Codec

BANDWIDTHS = [0.5, 1, 1.5, 2, 4]  # kbit/s
TRAINING = re.compile(r"decoder_semantic\.(conv[12]|conv_blocks\.\d+\.(conv|res_units\.\d+\.conv[12]))\.(weight|bias)|fc1\.(weight|bias)|"
                      r"quantizer\.quantizers\.\d+\.codebook\.(inited|cluster_size|embed_avg)|semantic_model\.masked_spec_embed")


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    values = Settings("X-Codec", config)
    sound, speech = (_part(values, name) for name in ("acoustic_model_config", "semantic_model_config"))
    down = sound.wholes("downsampling_ratios", (8, 5, 4, 2))
    up = sound.wholes("upsampling_ratios", (8, 5, 4, 2))
    if max(len(down), len(up)) > 16:
        raise ConfigError("X-Codec: more than 16 downsampling_ratios or upsampling_ratios cannot be had here")
    sound_dim, rate, size = sound.whole("hidden_size", 256), values.whole("sample_rate", 16_000), values.whole("codebook_size", 1024)
    teacher = _teacher(values, speech)
    semantic = _semantic(values, teacher["teacher_dim"])
    dim, hop = sound_dim + semantic["semantic_channels"][-1], math.prod(down)
    values.require("codebook_dim", dim, "codebooks are as wide as the latents")
    ours = CodecConfig.from_dict({
        "name": f"x-codec-{rate // 1000}k", "sample_rate": rate, "frame_size": hop, "dim": dim,
        "encoder": {
            "name": "xcodec", "channels": sound.whole("encoder_hidden_size", 64), "strides": down, "sound_dim": sound_dim,
            **semantic, **teacher,
        },
        "decoder": {
            "name": "xcodec", "sound_dim": sound_dim, "channels": sound.whole("decoder_hidden_size", 1024), "strides": up,
        },
        "quantizer": {"name": "rvq", "num_codebooks": _codebooks(values, -(-rate // hop), size), "codebook_size": size},
    })
    source = Source({name: value for name, value in tensors.items() if not TRAINING.fullmatch(name)})
    take_encoder(source, len(down), "encoder.sound", "acoustic_encoder")
    take_decoder(source, len(up), "decoder.sound", "acoustic_decoder")
    _take_refiner(source, ours.encoder)
    take_speech_model(source, ours.encoder, "encoder.teacher.model", "semantic_model")
    for own, theirs in (("encoder.join", "fc"), ("decoder.split", "fc2")):
        source.take(f"{own}.weight", f"{theirs}.weight")
        source.take(f"{own}.bias", f"{theirs}.bias")
    names = [f"quantizer.quantizers.{index}.codebook.embed" for index in range(ours.quantizer.num_codebooks)]
    source.stack("quantizer.codebooks", names, [source.pop(name) for name in names])
    return source.codec(ours)


def _part(values: Settings, name: str) -> Settings:
    return Settings(f"X-Codec, {name}", values(name, {}))


def _teacher(values: Settings, speech: Settings) -> dict[str, Any]:
    """Our options of the teacher."""
    kind = speech("model_type", "hubert")
    if kind not in ("hubert", "wavlm"):
        raise ConfigError(f"X-Codec: a semantic model of type {kind[:40]!r} cannot be converted; there is hubert and wavlm")
    for name, wanted in (("hidden_act", "gelu"), ("feat_extract_activation", "gelu"), ("feat_proj_layer_norm", True),
                         ("layer_norm_eps", 1e-5), ("conv_pos_batch_norm", False), ("add_adapter", False)):
        speech.require(name, wanted, "only the published teachers' own value is built")
    return {
        "teacher": kind,
        "teacher_dim": speech.whole("hidden_size", 768), "teacher_layers": speech("num_hidden_layers", 12),
        "teacher_heads": speech.whole("num_attention_heads", 12), "teacher_hidden": speech.whole("intermediate_size", 3072),
        "teacher_conv_channels": speech.wholes("conv_dim", (512,) * 7),
        "teacher_conv_kernels": speech.wholes("conv_kernel", (10, 3, 3, 3, 3, 2, 2)),
        "teacher_conv_strides": speech.wholes("conv_stride", (5, 2, 2, 2, 2, 2, 2)),
        "teacher_conv_bias": speech("conv_bias", False), "teacher_norm": speech("feat_extract_norm", "group"),
        "teacher_stable": speech("do_stable_layer_norm", False),
        "teacher_position_kernel": speech.whole("num_conv_pos_embeddings", 128),
        "teacher_position_groups": speech.whole("num_conv_pos_embedding_groups", 16),
        "teacher_buckets": speech.whole("num_buckets", 320), "teacher_max_distance": speech.whole("max_bucket_distance", 800),
    }


def _semantic(values: Settings, dim: int) -> dict[str, Any]:
    """Our options of the convolutions behind the teacher."""
    strides, ratios = values("strides", [1, 1]), values("channel_ratios", [1, 1])
    if any(stride != 1 for stride in strides) or len(strides) != len(ratios):
        raise ConfigError("X-Codec: strides must be 1, as many as channel_ratios: the semantic branch keeps the frame rate")
    if not all(type(ratio) in (int, float) and 0 < ratio < 1e6 for ratio in ratios):
        raise ConfigError("X-Codec: channel_ratios must be a list of positive numbers")
    channels = tuple(int(dim * ratio) for ratio in ratios)
    if not channels or channels[-1] != dim:
        raise ConfigError("X-Codec: the last of channel_ratios must be 1, so that the latents are as wide as the map behind them")
    return {
        "semantic_channels": channels, "semantic_kernel_size": values.whole("kernel_size", 3),
        "semantic_unit_kernel_size": values.whole("unit_kernel_size", 3), "semantic_dilations": values.wholes("block_dilations", (1, 1)),
    }


def _codebooks(values: Settings, frame_rate: int, size: int) -> int:
    """As many as the highest bandwidth holds."""
    bandwidths = values("target_bandwidths", BANDWIDTHS)
    if not bandwidths or type(bandwidths[-1]) not in (int, float) or not 0 < bandwidths[-1] < 1e6:
        raise ConfigError("X-Codec: target_bandwidths must be a list of kbit/s")
    return max(1, int(1000 * bandwidths[-1] // (frame_rate * math.ceil(math.log2(size)))))


def _take_refiner(source: Source, encoder: Any) -> None:
    own, theirs, units = "encoder.refiner", "encoder_semantic", len(encoder.semantic_dilations)
    source.take(f"{own}.conv.weight", f"{theirs}.conv.weight")
    for block in range(len(encoder.semantic_channels)):
        for unit in range(units):
            for conv in ("conv1", "conv2"):
                source.take(f"{own}.blocks.{block}.{unit}.{conv}.weight",
                            f"{theirs}.conv_blocks.{block}.res_units.{unit}.{conv}.weight")
        take_conv(source, f"{own}.blocks.{block}.{units}", f"{theirs}.conv_blocks.{block}.conv")


def take_speech_model(source: Source, encoder: Any, own: str, theirs: str) -> None:
    """The weights of a HuBERT or WavLM under `theirs`; ours at `own` has the same names, but the position convolution's
    weight normalisation, which is over kernel positions, is folded."""
    conv = "encoder.pos_conv_embed.conv"
    lengths, directions = (f"{theirs}.{conv}.parametrizations.weight.original{index}" for index in (0, 1))
    if lengths not in source and f"{theirs}.{conv}.weight_g" in source:
        lengths, directions = (f"{theirs}.{conv}.weight_{letter}" for letter in "gv")
    if lengths in source or directions in source:
        length, direction = source.pop(lengths), source.pop(directions)
        if length is not None and direction is not None:
            if direction.dim() != 3 or length.shape != (1, 1, direction.shape[2]):
                source.refuse(f"{lengths} is {tuple(length.shape)} for {directions} of {tuple(direction.shape)}")
            else:
                source.put(f"{own}.{conv}.weight", directions, torch._weight_norm(direction, length, 2))
    else:
        source.take(f"{own}.{conv}.weight", f"{theirs}.{conv}.weight")
    for name in _speech_names(encoder):
        source.take(f"{own}.{name}", f"{theirs}.{name}")


def _speech_names(encoder: Any) -> list[str]:
    """Names of the tensors of a speech model, but for the weight of its position convolution."""
    parts = ["feature_projection.layer_norm", "feature_projection.projection", "encoder.layer_norm"]
    for index in range(encoder.teacher_layers):
        layer = f"encoder.layers.{index}"
        parts += [f"{layer}.attention.{name}_proj" for name in ("q", "k", "v", "out")]
        parts += [f"{layer}.{name}" for name in ("layer_norm", "final_layer_norm", "feed_forward.intermediate_dense",
                                                 "feed_forward.output_dense")]
        if encoder.teacher == "wavlm":
            parts.append(f"{layer}.attention.gru_rel_pos_linear")
    names = ["encoder.pos_conv_embed.conv.bias"]
    for index in range(len(encoder.teacher_conv_channels)):
        conv = f"feature_extractor.conv_layers.{index}"
        names += [f"{conv}.conv.weight"] + [f"{conv}.conv.bias"] * encoder.teacher_conv_bias
        if encoder.teacher_norm == "layer" or index == 0:
            parts.append(f"{conv}.layer_norm")
    if encoder.teacher == "wavlm":
        names += [f"encoder.layers.{index}.attention.gru_rel_pos_const" for index in range(encoder.teacher_layers)]
        names += ["encoder.layers.0.attention.rel_attn_embed.weight"] if encoder.teacher_layers else []
    return names + [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]
