"""X-Codec 2 (Ye et al. 2025, https://arxiv.org/abs/2502.04128) as `transformers` keeps it: Xcodec2Model.

The teacher, w2v-BERT 2.0, is in the same file. Linear maps that follow each other are made one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.dac import take_conv
from codec.convert.source import Settings, Source
from codec.model import Codec


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    values = Settings("X-Codec 2", config)
    speech = Settings("X-Codec 2, semantic_model_config", values("semantic_model_config", {}))
    strides, levels = values.wholes("downsampling_ratios", (2, 2, 4, 4, 5)), values.wholes("quantization_levels", (4,) * 8)
    if len(strides) > 16:
        raise ConfigError("X-Codec 2: more than 16 downsampling_ratios cannot be had here")
    dim, heads = values.whole("hidden_size", 1024), values.whole("num_attention_heads", 16)
    teacher = _teacher(speech)
    values.require("sampling_rate", 16_000, "the filterbank is one of 16 kHz")
    values.require("quantization_dim", dim + teacher["teacher_dim"], "it is the width of both branches")
    values.require("num_key_value_heads", heads, "every head has keys of its own")
    for name, wanted in (("hidden_act", "silu"), ("attention_bias", False), ("rms_norm_eps", 1e-6)):
        values.require(name, wanted, "only the published value is built")
    windows = {"window_frames": 1500, "overlap_frames": 100}
    ours = CodecConfig.from_dict({
        "name": "x-codec2-16k", "sample_rate": 16_000, "frame_size": math.prod(strides), "dim": len(levels),
        "encoder": {
            "name": "xcodec2", "channels": values.whole("encoder_hidden_size", 48), "strides": strides, "sound_dim": dim,
            "levels": levels, **windows, **teacher,
        },
        "decoder": {
            "name": "xcodec2", "channels": dim, "layers": values("num_hidden_layers", 12), "heads": heads,
            "head_dim": values.whole("head_dim", 64), "hidden": values.whole("intermediate_size", 4096), **windows,
        },
        "quantizer": {
            "name": "fsq", "num_codebooks": 1, "codebook_size": math.prod(levels), "levels": levels, "reconstruction": "grid",
        },
    })
    source = Source(tensors)
    source.drop("semantic_encoder.masked_spec_embed")
    for name in teacher_names(ours.encoder.teacher_layers):
        source.take(f"encoder.teacher.model.{name}", f"semantic_encoder.{name}")
    take_refiner(source, [f"semantic_adapter.conv{index + 1}" for index in range(4)])
    _take_sound(source, len(strides))
    take_joined(source, "encoder.join", "fc_encoder", "quantizer.project_in")
    take_joined(source, "decoder.split", "quantizer.project_out", "acoustic_decoder.fc")
    _take_decoder(source, ours.decoder.layers)
    put_grid(source, len(levels))
    return source.codec(ours)


def _teacher(speech: Settings) -> dict[str, Any]:
    for name, wanted in (("model_type", "wav2vec2-bert"), ("feature_projection_input_dim", 160), ("hidden_act", "swish"),
                         ("layer_norm_eps", 1e-5), ("position_embeddings_type", "relative_key"), ("add_adapter", False),
                         ("use_intermediate_ffn_before_adapter", False)):
        speech.require(name, wanted, "only the published teacher's own value is built")
    return {
        "teacher_dim": speech.whole("hidden_size", 1024), "teacher_layers": speech("num_hidden_layers", 16),
        "teacher_heads": speech.whole("num_attention_heads", 16), "teacher_hidden": speech.whole("intermediate_size", 4096),
        "teacher_kernel_size": speech.whole("conv_depthwise_kernel_size", 31),
        "teacher_left": speech.whole("left_max_position_embeddings", 64),
        "teacher_right": speech.whole("right_max_position_embeddings", 8),
    }


def teacher_names(layers: int) -> list[str]:
    """Of the tensors of so many layers of w2v-BERT 2.0."""
    names, parts = [], ["feature_projection.layer_norm", "feature_projection.projection"]
    for index in range(layers):
        layer = f"encoder.layers.{index}"
        parts += [f"{layer}.{name}_layer_norm" for name in ("ffn1", "self_attn", "ffn2", "final")]
        parts[-1] = f"{layer}.final_layer_norm"
        parts += [f"{layer}.{name}_dense" for name in ("ffn1.intermediate", "ffn1.output", "ffn2.intermediate", "ffn2.output")]
        parts += [f"{layer}.self_attn.linear_{name}" for name in ("q", "k", "v", "out")]
        parts += [f"{layer}.conv_module.layer_norm", f"{layer}.conv_module.depthwise_layer_norm"]
        names += [f"{layer}.conv_module.{name}.weight" for name in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2")]
        names.append(f"{layer}.self_attn.distance_embedding.weight")
    return names + [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]


def take_refiner(source: Source, convolutions: list[str]) -> None:
    """The four convolutions behind the teacher."""
    for index, name in enumerate(convolutions):
        source.take(f"encoder.refiner.convs.{index}.weight", f"{name}.weight")
        if index in (1, 2):
            source.take(f"encoder.refiner.convs.{index}.bias", f"{name}.bias")


def put_grid(source: Source, axes: int) -> None:
    """The quantizer's axes as they come, neither moved nor scaled."""
    source.put("quantizer.center", "quantization_levels", torch.zeros(axes))
    source.put("quantizer.scale", "quantization_levels", torch.ones(axes))


def _take_sound(source: Source, blocks: int) -> None:
    own, theirs = "encoder.sound", "acoustic_encoder"

    def snake(into: str, name: str) -> None:
        for value in ("alpha", "beta"):
            source.take(f"{into}.{value}", f"{name}.act.{value}")

    take_conv(source, f"{own}.0", f"{theirs}.conv1")
    for block in range(blocks):
        first, published = 1 + 5 * block, f"{theirs}.block.{block}"
        for unit in range(3):
            for number in (1, 2):
                snake(f"{own}.{first + unit}.snake{number}", f"{published}.res_unit{unit + 1}.snake{number}")
                take_conv(source, f"{own}.{first + unit}.conv{number}", f"{published}.res_unit{unit + 1}.conv{number}")
        snake(f"{own}.{first + 3}", f"{published}.snake1")
        take_conv(source, f"{own}.{first + 4}", f"{published}.conv1")
    snake(f"{own}.{1 + 5 * blocks}", f"{theirs}.snake1")
    take_conv(source, f"{own}.{2 + 5 * blocks}", f"{theirs}.conv2")


def take_joined(source: Source, own: str, first: str, second: str) -> None:
    """Two linear maps, one after the other, as one."""
    weights, biases = ([source.pop(f"{name}.{kind}") for name in (first, second)] for kind in ("weight", "bias"))
    if any(value is None for value in weights + biases):
        return
    (inner, outer), (start, end) = weights, biases
    if inner.dim() != 2 or outer.dim() != 2 or start.shape != inner.shape[:1] or end.shape != outer.shape[:1] or (
        outer.shape[1] != inner.shape[0]
    ):
        source.refuse(f"{first} and {second} do not fit behind each other: weights {tuple(inner.shape)} and "
                      f"{tuple(outer.shape)}, biases {tuple(start.shape)} and {tuple(end.shape)}")
        return
    source.put(f"{own}.weight", f"{first} and {second}", (outer.double() @ inner.double()).float())
    source.put(f"{own}.bias", f"{first} and {second}", (outer.double() @ start.double() + end.double()).float())


def take_decoder_convs(source: Source, theirs: str) -> None:
    """The decoder's first convolution, and its residual blocks before and behind the transformer."""
    take_conv(source, "decoder.embed", f"{theirs}.embed")
    for net, published in (("before", "prior_net"), ("behind", "post_net")):
        for block in range(2):
            for part in ("norm1", "conv1", "norm2", "conv2"):
                take_conv(source, f"decoder.{net}.{block}.{part}", f"{theirs}.{published}.{block}.{part}")


def _take_decoder(source: Source, layers: int) -> None:
    own, theirs = "decoder", "acoustic_decoder"
    take_decoder_convs(source, theirs)
    for index in range(layers):
        layer, published = f"{own}.layers.{index}", f"{theirs}.layers.{index}"
        names = [f"{published}.self_attn.{name}_proj.weight" for name in "qkv"]
        source.stack(f"{layer}.qkv.weight", names, [source.pop(name) for name in names], torch.cat)
        for ours, name in (("out", "self_attn.o_proj"), ("expand", "mlp.fc1"), ("project", "mlp.fc2"),
                           ("norm_attention", "input_layernorm"), ("norm_mlp", "post_attention_layernorm")):
            source.take(f"{layer}.{ours}.weight", f"{published}.{name}.weight")
    take_conv(source, f"{own}.norm", f"{theirs}.norm")
    take_conv(source, f"{own}.head", f"{theirs}.head.linear")
