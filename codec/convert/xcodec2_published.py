"""X-Codec 2 as its authors published it: the state dict of XCodec2Model of their package xcodec2, in a folder with its
config.json; and what NeuCodec has of it. Sizes are those of the tensors.

Its teacher, w2v-BERT 2.0, is in the same file, or in a folder beside it, see `codec.convert.original.with_teacher`.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.dac import take_conv
from codec.convert.original import TEACHER
from codec.convert.source import Settings, Source
from codec.convert.xcodec2 import put_grid, take_decoder_convs, take_joined, take_refiner, teacher_names
from codec.model import Codec

# All others are their training's.
OURS = ("CodecEnc.", "SemanticEncoder_module.", "fc_prior.", "fc_post_a.", "generator.", "semantic_model.")
RATE = 16_000
LEVELS = (4,) * 8
HEADS = 16
TEACHER_LAYERS, TEACHER_LEFT, TEACHER_RIGHT = 16, 64, 8  # fixed in their code and in w2v-BERT 2.0
DIRECTIONS = ("weight_v", "parametrizations.weight.original1", "weight")  # with and without weight normalisation


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    values = Settings("X-Codec 2", config)
    values.require("use_vocos", True, "their package has no other decoder")
    return build(values, "x-codec2-16k", None, True, tensors)


def build(values: Settings, name: str, output_rate: int | None, centred: bool, tensors: dict[str, Tensor]) -> Codec:
    """The codec `name` that decodes at `output_rate`, or at its own. centred: see `XCodec2Encoder`."""
    if not any(one.startswith("semantic_model.") for one in tensors):
        raise ConfigError(f"this checkpoint of {values.family} comes without its teacher: put model.safetensors of "
                          f"facebook/w2v-bert-2.0 into a folder {TEACHER} beside it")
    sizes = _Sizes(values.family, tensors)
    blocks = sizes.count("CodecEnc.conv_blocks") - 1
    strides = [sizes(f"CodecEnc.conv_blocks.{1 + block}.block.4", 2) // 2 for block in range(blocks)]
    dim, teacher_dim = sizes("generator.backbone.embed", 0), sizes("semantic_model.feature_projection.projection", 0)
    layer, attention = "semantic_model.encoder.layers.0", "generator.backbone.transformers.0"
    windows = {"window_frames": 1500, "overlap_frames": 100}
    ours = CodecConfig.from_dict({
        "name": name, "sample_rate": RATE, "output_sample_rate": output_rate, "frame_size": math.prod(strides),
        "dim": len(LEVELS),
        "encoder": {
            "name": "xcodec2", "channels": sizes("CodecEnc.conv_blocks.0", 0), "strides": strides,
            "sound_dim": sizes("CodecEnc.conv_final_block.1", 0), "levels": LEVELS, "centred": centred, **windows,
            "teacher_dim": teacher_dim, "teacher_layers": TEACHER_LAYERS,
            "teacher_heads": teacher_dim // max(1, sizes(f"{layer}.self_attn.distance_embedding", 1)),
            "teacher_hidden": sizes(f"{layer}.ffn1.intermediate_dense", 0),
            "teacher_kernel_size": sizes(f"{layer}.conv_module.depthwise_conv", 2),
            "teacher_left": TEACHER_LEFT, "teacher_right": TEACHER_RIGHT,
        },
        "decoder": {
            "name": "xcodec2", "channels": dim, "layers": sizes.count("generator.backbone.transformers"), "heads": HEADS,
            "head_dim": sizes(f"{attention}.att.c_proj", 1) // HEADS, "hidden": sizes(f"{attention}.mlp.fc1", 0), **windows,
        },
        "quantizer": {
            "name": "fsq", "num_codebooks": 1, "codebook_size": math.prod(LEVELS), "levels": LEVELS, "reconstruction": "grid",
        },
    })
    values.require("hop_length", ours.output_frame_size, "it is what a frame of the encoder takes at the decoder's rate")
    values.require("semantic_hidden_size", teacher_dim, "it is the teacher's width")
    source = Source({name: value for name, value in tensors.items() if name.startswith(OURS) and not _unused(name)})
    for name in teacher_names(TEACHER_LAYERS):
        source.take(f"encoder.teacher.model.{name}", f"semantic_model.{name}")
    take_refiner(source, [f"SemanticEncoder_module.{name}" for name in (
        "initial_conv", "residual_blocks.1", "residual_blocks.3", "final_conv",
    )])
    _take_sound(source, len(strides))
    take_joined(source, "encoder.join", "fc_prior", "generator.quantizer.project_in")
    take_joined(source, "decoder.split", "generator.quantizer.project_out", "fc_post_a")
    _take_decoder(source, ours.decoder.layers)
    put_grid(source, len(LEVELS))
    return source.codec(ours)


class _Sizes:
    """What the shapes of tensors say; ConfigError where one is not there or has fewer axes."""

    def __init__(self, family: str, tensors: dict[str, Tensor]):
        self._family = family
        self._shapes = {name: tuple(value.shape) for name, value in tensors.items()}

    def __call__(self, prefix: str, axis: int) -> int:
        for kind in DIRECTIONS:
            shape = self._shapes.get(f"{prefix}.{kind}", ())
            if len(shape) > axis:
                return shape[axis]
        raise ConfigError(f"the tensors are not {self._family}'s: missing {prefix}.weight")

    def count(self, prefix: str) -> int:
        """Of numbered parts."""
        return len({name[len(prefix) + 1 :].split(".")[0] for name in self._shapes if name.startswith(f"{prefix}.")})


def _unused(name: str) -> bool:
    """The teacher's layers that nothing is taken from, filters and windows that are computed."""
    layer = name.removeprefix("semantic_model.encoder.layers.").split(".")[0]
    return name == "semantic_model.masked_spec_embed" or name.endswith(".filter") or name == "generator.head.istft.window" or (
        name.startswith("semantic_model.encoder.layers.") and layer.isdecimal() and int(layer) >= TEACHER_LAYERS
    )


def _take_sound(source: Source, blocks: int) -> None:
    own, theirs = "encoder.sound", "CodecEnc"

    def snake(into: str, name: str) -> None:
        source.take(f"{into}.alpha", f"{name}.act.alpha")
        newer = f"{name}.act.bias" in source  # in version 0.1.5 of their package; the published weights say beta
        source.take(f"{into}.beta", f"{name}.act.bias" if newer else f"{name}.act.beta")

    take_conv(source, f"{own}.0", f"{theirs}.conv_blocks.0")
    for block in range(blocks):
        first, published = 1 + 5 * block, f"{theirs}.conv_blocks.{1 + block}.block"
        for unit in range(3):
            for number in (1, 2):
                place = 2 * (number - 1)
                snake(f"{own}.{first + unit}.snake{number}", f"{published}.{unit}.block.{place}")
                take_conv(source, f"{own}.{first + unit}.conv{number}", f"{published}.{unit}.block.{place + 1}")
        snake(f"{own}.{first + 3}", f"{published}.3")
        take_conv(source, f"{own}.{first + 4}", f"{published}.4")
    snake(f"{own}.{1 + 5 * blocks}", f"{theirs}.conv_final_block.0")
    take_conv(source, f"{own}.{2 + 5 * blocks}", f"{theirs}.conv_final_block.1")


def _take_decoder(source: Source, layers: int) -> None:
    own, theirs = "decoder", "generator.backbone"
    take_decoder_convs(source, theirs)
    for index in range(layers):
        for ours, name in (("qkv", "att.c_attn"), ("out", "att.c_proj"), ("expand", "mlp.fc1"), ("project", "mlp.fc2"),
                           ("norm_attention", "att_norm"), ("norm_mlp", "ffn_norm")):
            source.take(f"{own}.layers.{index}.{ours}.weight", f"{theirs}.transformers.{index}.{name}.weight")
    take_conv(source, f"{own}.norm", f"{theirs}.final_layer_norm")
    take_conv(source, f"{own}.head", "generator.head.out")
