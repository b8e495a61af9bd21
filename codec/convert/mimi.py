"""Mimi (Défossez et al. 2024, https://arxiv.org/abs/2410.00037) as `transformers` keeps it: MimiModel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.seanet import seanet_settings, take_seanet
from codec.convert.source import Settings, Source
from codec.model import Codec

USAGE_FLOOR = 1e-5  # of `cluster_usage`, by which a codebook's sums are divided


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    values = Settings("Mimi", config)
    for half in ("encoder", "decoder"):
        if f"{half}_config" in config and config[f"{half}_config"] is None:
            raise ConfigError(f"Mimi: this checkpoint has no {half}: convert a whole one")
    rate, dim, size = values.whole("sampling_rate", 24_000), values.whole("hidden_size", 512), values.whole("codebook_size", 2048)
    seanet = seanet_settings(values, channels=64, last_kernel_size=3, conv_shortcut=False, pad_mode="constant")
    hop = math.prod(seanet["strides"])
    stride = _frame_stride(values, rate, hop)
    transformer = _transformer(values, dim)
    ragged = not values("whole_frames", False)  # in `transformers` every layer fills up its input, in moshi zeros fill up the last frame
    count, semantic = values.whole("num_quantizers", 32), values.whole("num_semantic_quantizers", 1)
    width = values.whole("vector_quantization_hidden_dimension", 256)
    values.require("codebook_dim", width, "codebooks are as wide as what they quantize")
    shared = {"name": "seanet_transformer", **seanet, **transformer, "frame_stride": stride}
    ours = CodecConfig.from_dict({
        "name": "mimi", "sample_rate": rate, "frame_size": hop * stride, "dim": dim,
        "encoder": {**shared, "strides": seanet["strides"][::-1], "ragged": ragged},
        "decoder": {**shared, "upsample_groups": values.whole("upsample_groups", 512)},
        "quantizer": {
            "name": "split_rvq", "num_codebooks": count, "codebook_size": size, "semantic_codebooks": semantic,
            "codebook_dim": width, "parallel": True,
        },
    })
    source = Source(tensors)
    for half in ("encoder", "decoder"):
        take_seanet(source, seanet, half, f"{half}.seanet.layers", f"{half}.layers")
        for layer in range(transformer["transformer_layers"]):
            _take_layer(source, values, f"{half}.transformer.layers.{layer}", f"{half}_transformer.layers.{layer}", transformer)
    source.take("encoder.down.conv.weight", "downsample.conv.weight")
    source.take("decoder.up.conv.weight", "upsample.conv.weight")
    _take_quantizer(source, semantic, count, dim, width)
    return source.codec(ours)


def _frame_stride(values: Settings, rate: int, hop: int) -> int:
    """Frames of SEANet to one of the codec: by the frame rate that old checkpoints state, and 2 in new ones."""
    stated = values("_frame_rate", 0.0) or values("frame_rate", 0.0)
    stride = int(-(-rate // hop) / stated) if stated > 0 else 2
    if not 2 <= stride <= 64:
        raise ConfigError(f"Mimi: a frame_rate of {stated:g} Hz cannot be made of {rate / hop:g} Hz: take a half of it, or less")
    return stride


def _transformer(values: Settings, dim: int) -> dict[str, Any]:
    heads = values.whole("num_attention_heads", 8)
    if dim % heads:
        raise ConfigError(f"Mimi: hidden_size={dim} is not a multiple of num_attention_heads={heads}")
    values.require("head_dim", dim // heads, "heads share the width of the model")
    values.require("attention_bias", False, "attention has no biases here")
    values.require("hidden_act", "gelu", "the transformers have GELU")
    values.require("norm_eps", 1e-5, "normalisations add 1e-5")
    rope = values("rope_parameters", {})
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(f"Mimi: rope_type={str(rope['rope_type'])[:40]!r} cannot be converted: positions are the default ones")
    base = Settings("Mimi", rope)("rope_theta", values("rope_theta", 10_000.0))
    return {
        "transformer_layers": values.whole("num_hidden_layers", 8), "heads": heads,
        "hidden": values.whole("intermediate_size", 2048), "attention_window": values.whole("sliding_window", 250),
        "rotary_base": base, "layer_scale": values("layer_scale_initial_scale", 0.01),
    }


def _take_layer(source: Source, values: Settings, own: str, theirs: str, transformer: dict[str, Any]) -> None:
    heads, shared = transformer["heads"], values.whole("num_key_value_heads", 8)
    names = [f"{theirs}.self_attn.{name}_proj.weight" for name in "qkv"]
    query, key, value = (source.pop(name) for name in names)
    source.stack(f"{own}.qkv.weight", names,
                 [query, _for_every_head(key, heads, shared), _for_every_head(value, heads, shared)], torch.cat)
    for ours, name in (("out", "self_attn.o_proj"), ("expand", "mlp.fc1"), ("project", "mlp.fc2"),
                       ("norm_attention", "input_layernorm"), ("norm_mlp", "post_attention_layernorm")):
        source.take(f"{own}.{ours}.weight", f"{theirs}.{name}.weight")
    source.take(f"{own}.norm_attention.bias", f"{theirs}.input_layernorm.bias")
    source.take(f"{own}.norm_mlp.bias", f"{theirs}.post_attention_layernorm.bias")
    source.take(f"{own}.scale_attention", f"{theirs}.self_attn_layer_scale.scale")
    source.take(f"{own}.scale_mlp", f"{theirs}.mlp_layer_scale.scale")


def _for_every_head(weight: Tensor | None, heads: int, shared: int) -> Tensor | None:
    """Weights of keys or values that several heads share, repeated for each of them (grouped-query attention)."""
    if weight is None or heads % shared or weight.dim() != 2 or weight.shape[0] % shared:
        return weight
    return weight.reshape(shared, -1, weight.shape[1]).repeat_interleave(heads // shared, 0).flatten(0, 1)


def _take_quantizer(source: Source, semantic: int, count: int, dim: int, width: int) -> None:
    books: dict[str, Tensor | None] = {}
    for half, number in (("semantic", semantic), ("acoustic", count - semantic)):
        theirs = f"quantizer.{half}_residual_vector_quantizer"
        for ours, name in (("in", "input_proj"), ("out", "output_proj")):
            if width != dim:
                source.take(f"quantizer.{half}_{ours}.weight", f"{theirs}.{name}.weight", lambda weight: weight.squeeze(2))
            else:  # they have no maps then; those of one are the same
                source.put(f"quantizer.{half}_{ours}.weight", f"{theirs}.{name}.weight", torch.eye(dim))
        for index in range(number):
            book = f"{theirs}.layers.{index}.codebook"
            sums, usage = source.pop(f"{book}.embed_sum"), source.pop(f"{book}.cluster_usage")
            source.drop(f"{book}.initialized")
            fits = sums is not None and usage is not None and usage.dim() == 1 and usage.shape == sums.shape[:1]
            books[f"{book}.embed_sum"] = sums / usage.clamp(min=USAGE_FLOOR)[:, None] if fits and sums.dim() == 2 else sums
            if sums is not None and usage is not None and not fits:
                source.refuse(f"{book}.cluster_usage is {tuple(usage.shape)}")
    source.stack("quantizer.codebooks", list(books), list(books.values()))
