"""Configuration of a codec: one typed dataclass per part, named parts looked up in registries.

A configuration comes from a recipe or a checkpoint's config.json, so from strangers: unknown names and keys are
refused with the list of the known ones, and nothing in it is imported or evaluated.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import quantizers


class ConfigError(ValueError):
    """A configuration that cannot be used, with the remedy."""


MAX_BYTES = 1_000_000  # of a config.json

# Least and most of each number, so that no configuration alone can fill the memory or build layers for ever.
LIMITS: dict[str, tuple[float, float]] = {
    "sample_rate": (1, 768_000),
    "output_sample_rate": (1, 768_000),
    "frame_size": (1, 65_536),
    "dim": (1, 4096),
    "window": (2, 4096),  # a DFT basis has its square
    "delay": (0, 65_536),
    "channels": (1, 4096),
    "hidden": (1, 16_384),
    "blocks": (0, 64),
    "upsample": (1, 256),
    "fine_channels": (1, 4096),
    "fine_hidden": (1, 16_384),
    "fine_blocks": (0, 64),
    "kernel_size": (1, 255),
    "residual_kernel_size": (1, 255),
    "residual_layers": (0, 16),
    "dilation_base": (1, 16),
    "lstm_layers": (0, 8),
    "last_kernel_size": (1, 255),
    "compress": (1, 64),
    "frame_stride": (1, 64),
    "transformer_layers": (0, 64),
    "heads": (1, 256),
    "attention_window": (1, 16_384),
    "rotary_base": (1, 1e9),
    "layer_scale": (0, 100),
    "upsample_groups": (1, 4096),
    "window_frames": (1, 65_536),
    "overlap_frames": (0, 65_536),
    "sound_dim": (1, 4096),
    "content_dim": (1, 4096),
    "content_channels": (1, 4096),
    "content_hidden": (1, 16_384),
    "content_blocks": (0, 64),
    "semantic_channels": (1, 4096),
    "semantic_kernel_size": (1, 255),
    "semantic_unit_kernel_size": (1, 255),
    "semantic_dilations": (1, 255),
    "teacher_dim": (1, 4096),
    "teacher_layers": (0, 64),
    "teacher_heads": (1, 256),
    "teacher_hidden": (1, 16_384),
    "teacher_conv_channels": (1, 4096),
    "teacher_conv_kernels": (1, 255),
    "teacher_conv_strides": (1, 255),
    "levels": (3, 65_536),
    "layers": (0, 64),
    "head_dim": (1, 1024),
    "teacher_kernel_size": (1, 255),
    "teacher_left": (0, 4096),
    "teacher_right": (0, 4096),
    "teacher_position_kernel": (1, 1024),
    "teacher_position_groups": (1, 4096),
    "teacher_buckets": (4, 4096),
    "teacher_max_distance": (1, 16_384),
    "strides": (1, 1024),
    "num_codebooks": (1, 256),
    "codebook_size": (2, 65_536),
    "decay": (0, 1),
}
MAX_NAME = 200
MAX_ENTRIES = 256  # of a list
OPTION_LIMITS = (0, 65_536)  # of a quantizer's numbers that LIMITS does not name


@dataclass(frozen=True)
class ConvNeXtEncoderConfig:
    """`codec.backbones.convnext_stft.ConvNeXtEncoder`; window in samples."""

    name: str = "convnext_stft"
    window: int = 640
    channels: int = 384
    hidden: int = 1152
    blocks: int = 4
    kernel_size: int = 7


@dataclass(frozen=True)
class FusedEncoderConfig(ConvNeXtEncoderConfig):
    """`codec.backbones.fused.FusedEncoder`: the network of the sound, and beside it the one of the content."""

    name: str = "fused"
    sound_dim: int = 64
    content_dim: int = 512
    content_channels: int = 256
    content_hidden: int = 768
    content_blocks: int = 4


@dataclass(frozen=True)
class ConvNeXtDecoderConfig:
    """`codec.backbones.convnext_stft.ConvNeXtDecoder`; window and delay in samples."""

    name: str = "convnext_stft"
    window: int = 320
    channels: int = 384
    hidden: int = 1152
    blocks: int = 4
    upsample: int = 4
    fine_channels: int = 192
    fine_hidden: int = 576
    fine_blocks: int = 3
    kernel_size: int = 7
    delay: int = 320


@dataclass(frozen=True)
class _SEANetConfig:
    """What SEANet's two halves share: `strides` multiply to the frame size."""

    name: str = "seanet"
    channels: int = 32
    strides: tuple[int, ...] = ()
    kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    lstm_layers: int = 2
    last_kernel_size: int | None = None
    compress: int = 2
    conv_shortcut: bool = False
    padding: str = "zeros"


@dataclass(frozen=True)
class SEANetEncoderConfig(_SEANetConfig):
    """`codec.backbones.seanet.SEANetEncoder`."""

    strides: tuple[int, ...] = (2, 4, 5, 8)
    ragged: bool = False


@dataclass(frozen=True)
class SEANetDecoderConfig(_SEANetConfig):
    """`codec.backbones.seanet.SEANetDecoder`."""

    strides: tuple[int, ...] = (8, 5, 4, 2)


@dataclass(frozen=True)
class _SEANetTransformerConfig(_SEANetConfig):
    """What the halves of a SEANet with a transformer share: `strides` and `frame_stride` multiply to the frame size."""

    name: str = "seanet_transformer"
    channels: int = 64
    lstm_layers: int = 0
    last_kernel_size: int | None = 3
    frame_stride: int = 2
    transformer_layers: int = 8
    heads: int = 8
    hidden: int = 2048
    attention_window: int = 250
    rotary_base: float = 10_000.0
    layer_scale: float = 0.01


@dataclass(frozen=True)
class SEANetTransformerEncoderConfig(_SEANetTransformerConfig):
    """`codec.backbones.seanet_transformer.SEANetTransformerEncoder`."""

    strides: tuple[int, ...] = (4, 5, 6, 8)
    ragged: bool = False


@dataclass(frozen=True)
class SEANetTransformerDecoderConfig(_SEANetTransformerConfig):
    """`codec.backbones.seanet_transformer.SEANetTransformerDecoder`."""

    strides: tuple[int, ...] = (8, 6, 5, 4)
    upsample_groups: int | None = None


@dataclass(frozen=True)
class _MirroredSEANetConfig:
    """What the halves of a mirrored SEANet share: `strides` multiply to the frame size. Windows of 20 s at 50 frames a second,
    which overlap by 2 s."""

    name: str = "seanet_mirrored"
    channels: int = 64
    strides: tuple[int, ...] = ()
    kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    lstm_layers: int = 2
    activation: str = "elu"
    window_frames: int = 1000
    overlap_frames: int = 100


@dataclass(frozen=True)
class MirroredSEANetEncoderConfig(_MirroredSEANetConfig):
    """`codec.backbones.seanet_mirrored.MirroredSEANetEncoder`."""

    strides: tuple[int, ...] = (2, 4, 5, 8)
    bidirectional: bool = True


@dataclass(frozen=True)
class MirroredSEANetDecoderConfig(_MirroredSEANetConfig):
    """`codec.backbones.seanet_mirrored.MirroredSEANetDecoder`."""

    strides: tuple[int, ...] = (8, 5, 4, 2)


@dataclass(frozen=True)
class WavTokenizerDecoderConfig:
    """`codec.backbones.wavtokenizer.WavTokenizerDecoder`: `window` in samples, a multiple of the frame size."""

    name: str = "wavtokenizer"
    channels: int = 768
    hidden: int = 2304
    blocks: int = 12
    kernel_size: int = 7
    window: int = 1280
    window_frames: int = 1500
    overlap_frames: int = 150


@dataclass(frozen=True)
class DACEncoderConfig:
    """`codec.backbones.dac.DACEncoder`: `strides` multiply to the frame size, `channels` at the sample rate."""

    name: str = "dac"
    channels: int = 64
    strides: tuple[int, ...] = (2, 4, 5, 8)


@dataclass(frozen=True)
class DACDecoderConfig:
    """`codec.backbones.dac.DACDecoder`: `channels` at the frame rate."""

    name: str = "dac"
    channels: int = 1536
    strides: tuple[int, ...] = (8, 5, 4, 2)
    whole: bool = True
    tanh: bool = True


@dataclass(frozen=True)
class SNACEncoderConfig:
    """`codec.backbones.snac.SNACEncoder`: `strides` multiply to the frame size, `channels` at the sample rate."""

    name: str = "snac"
    channels: int = 48
    strides: tuple[int, ...] = (2, 4, 8, 8)
    depthwise: bool = True


@dataclass(frozen=True)
class SNACDecoderConfig:
    """`codec.backbones.snac.SNACDecoder`: `channels` at the frame rate."""

    name: str = "snac"
    channels: int = 1024
    strides: tuple[int, ...] = (8, 8, 4, 2)
    depthwise: bool = True
    noise: bool = True


@dataclass(frozen=True)
class XCodecEncoderConfig:
    """`codec.backbones.xcodec.XCodecEncoder`: a DAC encoder, and a teacher (HuBERT-base where nothing else is said)."""

    name: str = "xcodec"
    channels: int = 64
    strides: tuple[int, ...] = (8, 5, 4, 2)
    sound_dim: int = 256
    semantic_channels: tuple[int, ...] = (768, 768)
    semantic_kernel_size: int = 3
    semantic_unit_kernel_size: int = 3
    semantic_dilations: tuple[int, ...] = (1, 1)
    window_frames: int = 1500
    overlap_frames: int = 100
    teacher: str = "hubert"
    teacher_dim: int = 768
    teacher_layers: int = 12
    teacher_heads: int = 12
    teacher_hidden: int = 3072
    teacher_conv_channels: tuple[int, ...] = (512,) * 7
    teacher_conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    teacher_conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    teacher_conv_bias: bool = False
    teacher_norm: str = "group"
    teacher_stable: bool = False
    teacher_position_kernel: int = 128
    teacher_position_groups: int = 16
    teacher_buckets: int = 320
    teacher_max_distance: int = 800


@dataclass(frozen=True)
class XCodecDecoderConfig:
    """`codec.backbones.xcodec.XCodecDecoder`: `channels` at the frame rate."""

    name: str = "xcodec"
    sound_dim: int = 256
    channels: int = 1024
    strides: tuple[int, ...] = (8, 5, 4, 2)


@dataclass(frozen=True)
class XCodec2EncoderConfig:
    """`codec.backbones.xcodec2.XCodec2Encoder`."""

    name: str = "xcodec2"
    channels: int = 48
    strides: tuple[int, ...] = (2, 2, 4, 4, 5)
    sound_dim: int = 1024
    levels: tuple[int, ...] = (4,) * 8
    centred: bool = True
    window_frames: int = 1500
    overlap_frames: int = 100
    teacher_dim: int = 1024
    teacher_layers: int = 16
    teacher_heads: int = 16
    teacher_hidden: int = 4096
    teacher_kernel_size: int = 31
    teacher_left: int = 64
    teacher_right: int = 8


@dataclass(frozen=True)
class XCodec2DecoderConfig:
    """`codec.backbones.xcodec2.XCodec2Decoder`."""

    name: str = "xcodec2"
    channels: int = 1024
    layers: int = 12
    heads: int = 16
    head_dim: int = 64
    hidden: int = 4096
    window_frames: int = 1500
    overlap_frames: int = 100


@dataclass(frozen=True)
class QuantizerConfig:
    """Arguments of `quantizers.build`; options are those that the family alone has, defaults filled in."""

    name: str = "rvq"
    num_codebooks: int = 8
    codebook_size: int = 1024
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", quantizers.options(self.name) | self.options)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuantizerConfig:
        """Of a flat mapping. Raises ConfigError for unknown names and settings, and values of a wrong type."""
        values = dict(_mapping(values, "quantizer"))
        name = values.pop("name", cls.name)
        if not isinstance(name, str) or name not in quantizers.available():
            known = ", ".join(sorted(quantizers.available()))
            raise ConfigError(f"quantizer: no quantizer is named {str(name)[:MAX_NAME]!r}; there is {known}")
        hints = quantizers.option_types(name)
        common = {key: values.pop(key) for key in ("num_codebooks", "codebook_size") if key in values}
        unknown = sorted(str(key)[:MAX_NAME] for key in values if key not in hints)
        if unknown:
            known = ", ".join(["name", "num_codebooks", "codebook_size", *hints])
            raise ConfigError(f"quantizer {name} has no setting {', '.join(unknown[:8])}; known are {known}")
        options = {key: _typed(value, hints[key], f"quantizer: {key}") for key, value in values.items()}
        return build(cls, {"name": name, **common}, "quantizer", options=options)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "num_codebooks": self.num_codebooks, "codebook_size": self.codebook_size, **self.options}


EncoderConfig = Union[
    ConvNeXtEncoderConfig, FusedEncoderConfig, SEANetEncoderConfig, SEANetTransformerEncoderConfig, DACEncoderConfig,
    SNACEncoderConfig, XCodecEncoderConfig, XCodec2EncoderConfig, MirroredSEANetEncoderConfig,
]
DecoderConfig = Union[
    ConvNeXtDecoderConfig, SEANetDecoderConfig, SEANetTransformerDecoderConfig, DACDecoderConfig, SNACDecoderConfig,
    XCodecDecoderConfig,
    XCodec2DecoderConfig,
    MirroredSEANetDecoderConfig, WavTokenizerDecoderConfig,
]

ENCODERS = {cls().name: cls for cls in typing.get_args(EncoderConfig)}
DECODERS = {cls().name: cls for cls in typing.get_args(DecoderConfig)}


@dataclass(frozen=True)
class CodecConfig:
    """A whole codec: mono audio at `sample_rate`, `frame_size` samples a frame, latents `dim` wide. The decoder makes audio
    at `output_sample_rate`, where that is another rate than the encoder's."""

    name: str = "codec"
    sample_rate: int = 16_000
    output_sample_rate: int | None = None
    frame_size: int = 320
    dim: int = 64
    encoder: EncoderConfig = field(default_factory=ConvNeXtEncoderConfig)
    decoder: DecoderConfig = field(default_factory=ConvNeXtDecoderConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    @property
    def output_rate(self) -> int:
        """Of the decoder, in Hz."""
        return self.sample_rate if self.output_sample_rate is None else self.output_sample_rate

    @property
    def output_frame_size(self) -> int:
        """Samples that the decoder makes of a frame. Raises ConfigError where that is no whole number."""
        samples, rest = divmod(self.frame_size * self.output_rate, self.sample_rate)
        if rest or not samples:
            raise ConfigError(f"output_sample_rate={self.output_rate}: a frame of {self.frame_size} samples at "
                              f"{self.sample_rate} Hz is no whole number of samples there: take another rate")
        return samples

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self) | {"quantizer": self.quantizer.to_dict()}
        if self.output_sample_rate is None:
            del values["output_sample_rate"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CodecConfig:
        """Raises ConfigError for unknown names and keys, and values of a wrong type or outside LIMITS."""
        values = dict(_mapping(values, "the configuration"))
        for part, registry in (("encoder", ENCODERS), ("decoder", DECODERS)):
            if part in values:
                values[part] = _named(registry, values[part], part)
        if "quantizer" in values and not isinstance(values["quantizer"], QuantizerConfig):
            values["quantizer"] = QuantizerConfig.from_dict(values["quantizer"])
        config = build(cls, values, "the configuration")
        _check_limits(config, "the configuration")
        return config

    @classmethod
    def from_json(cls, path: Path) -> CodecConfig:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(MAX_BYTES + 1)
            if len(text) > MAX_BYTES:
                raise ConfigError(f"{path}: more than {MAX_BYTES} characters are no configuration")
            values = json.loads(text)
        except ConfigError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not a readable JSON configuration ({error})") from None
        return cls.from_dict(values)


def build(cls: type, values: dict[str, Any], where: str, **checked: Any) -> Any:
    """Make the dataclass `cls` of a dict; every key must be a field and every value of the field's type. What is
    `checked` already is passed on."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(str(key)[:MAX_NAME] for key in values if key not in hints)
    if unknown:
        raise ConfigError(f"{where} has no setting {', '.join(unknown[:8])}; known are {', '.join(hints)}")
    return cls(**{key: _typed(value, hints[key], f"{where}: {key}") for key, value in values.items()}, **checked)


def _named(registry: dict[str, type], values: Any, part: str) -> Any:
    if isinstance(values, tuple(registry.values())):
        return values
    values = _mapping(values, part)
    name = values.get("name")
    if not isinstance(name, str) or name not in registry:
        raise ConfigError(f"{part}: no {part} is named {str(name)[:MAX_NAME]!r}; there is {', '.join(sorted(registry))}")
    return build(registry[name], values, part)


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be a mapping of settings, not {type(values).__name__}")
    return values


def _typed(value: Any, expected: Any, where: str) -> Any:
    """Check a plain value against int, float, str, bool, tuple[X, ...], Sequence[X] or one of these or None; integers pass as
    floats, lists as tuples."""
    origin = typing.get_origin(expected)
    if origin in (Union, types.UnionType) and type(None) in typing.get_args(expected):
        if value is None:
            return None
        (expected,) = (one for one in typing.get_args(expected) if one is not type(None))
        return _typed(value, expected, where)
    if origin in (tuple, Sequence):
        inner = typing.get_args(expected)[0]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, not {type(value).__name__}")
        return tuple(_typed(one, inner, where) for one in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not -1e12 < value < 1e12:  # NaN fails, too
        raise ConfigError(f"{where} is out of range")
    if expected is float and number:
        return float(value)
    if expected in (int, float, str, bool):
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise ConfigError(f"{where} must be {expected.__name__}, not {type(value).__name__}")
    return value


def _check_limits(config: Any, where: str) -> None:
    """Check the numbers and names of a dataclass and of the parts in it."""
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            _check_limits(value, one.name)
        elif isinstance(value, dict):
            for name, option in value.items():
                _check_limit(name, option, where, OPTION_LIMITS)
        elif one.name == "name" and not (1 <= len(value) <= MAX_NAME and value.isprintable()):
            raise ConfigError(f"{where}: name must be 1 to {MAX_NAME} printable characters")
        else:
            _check_limit(one.name, value, where)


def _check_limit(name: str, value: Any, where: str, otherwise: tuple[float, float] | None = None) -> None:
    limits = LIMITS.get(name, otherwise)
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) > MAX_ENTRIES:
        raise ConfigError(f"{where}: {name} has {len(numbers)} entries: at most {MAX_ENTRIES} are allowed")
    for number in numbers:
        if limits and isinstance(number, (int, float)) and not limits[0] <= number <= limits[1]:
            raise ConfigError(f"{where}: {name} is {number:.6g}: it must lie in {limits[0]} to {limits[1]}")
