"""Configuration of a codec: one typed dataclass per part, named parts looked up in registries.

A configuration comes from a recipe or a checkpoint's config.json, so from strangers: unknown names and keys are
refused with the list of the known ones, and nothing in it is imported or evaluated.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union


class ConfigError(ValueError):
    """A configuration that cannot be used, with the remedy."""


MAX_BYTES = 1_000_000  # of a config.json

# Least and most of each number, so that no configuration alone can fill the memory or build layers for ever.
LIMITS: dict[str, tuple[float, float]] = {
    "sample_rate": (1, 768_000),
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
    "strides": (1, 1024),
    "num_codebooks": (1, 256),
    "codebook_size": (2, 65_536),
    "decay": (0, 1),
}
MAX_NAME = 200
MAX_STRIDES = 16


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


@dataclass(frozen=True)
class SEANetEncoderConfig(_SEANetConfig):
    """`codec.backbones.seanet.SEANetEncoder`."""

    strides: tuple[int, ...] = (2, 4, 5, 8)


@dataclass(frozen=True)
class SEANetDecoderConfig(_SEANetConfig):
    """`codec.backbones.seanet.SEANetDecoder`."""

    strides: tuple[int, ...] = (8, 5, 4, 2)


@dataclass(frozen=True)
class RVQConfig:
    """`quantizers.rvq.ResidualVQ`."""

    name: str = "rvq"
    num_codebooks: int = 8
    codebook_size: int = 1024
    decay: float = 0.99


EncoderConfig = Union[ConvNeXtEncoderConfig, SEANetEncoderConfig]
DecoderConfig = Union[ConvNeXtDecoderConfig, SEANetDecoderConfig]
QuantizerConfig = Union[RVQConfig]

ENCODERS = {cls().name: cls for cls in (ConvNeXtEncoderConfig, SEANetEncoderConfig)}
DECODERS = {cls().name: cls for cls in (ConvNeXtDecoderConfig, SEANetDecoderConfig)}
QUANTIZERS = {cls().name: cls for cls in (RVQConfig,)}


@dataclass(frozen=True)
class CodecConfig:
    """A whole codec: mono audio at `sample_rate`, `frame_size` samples a frame, latents `dim` wide."""

    name: str = "codec"
    sample_rate: int = 16_000
    frame_size: int = 320
    dim: int = 64
    encoder: EncoderConfig = field(default_factory=ConvNeXtEncoderConfig)
    decoder: DecoderConfig = field(default_factory=ConvNeXtDecoderConfig)
    quantizer: QuantizerConfig = field(default_factory=RVQConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CodecConfig:
        """Raises ConfigError for unknown names and keys, and values of a wrong type or outside LIMITS."""
        values = dict(_mapping(values, "the configuration"))
        for part, registry in (("encoder", ENCODERS), ("decoder", DECODERS), ("quantizer", QUANTIZERS)):
            if part in values:
                values[part] = _named(registry, values[part], part)
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


def build(cls: type, values: dict[str, Any], where: str) -> Any:
    """Make the dataclass `cls` of a dict; every key must be a field and every value of the field's type."""
    types = typing.get_type_hints(cls)
    unknown = sorted(str(key)[:MAX_NAME] for key in values if key not in types)
    if unknown:
        raise ConfigError(f"{where} has no setting {', '.join(unknown[:8])}; known are {', '.join(types)}")
    return cls(**{key: _typed(value, types[key], f"{where}: {key}") for key, value in values.items()})


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
    """Check a plain value against int, float, str, bool or tuple[X, ...]; integers pass as floats, lists as tuples."""
    origin = typing.get_origin(expected)
    if origin is tuple:
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
        elif one.name == "name" and not (1 <= len(value) <= MAX_NAME and value.isprintable()):
            raise ConfigError(f"{where}: name must be 1 to {MAX_NAME} printable characters")
        elif isinstance(value, tuple) and len(value) > MAX_STRIDES:
            raise ConfigError(f"{where}: {one.name} has {len(value)} entries: at most {MAX_STRIDES} are allowed")
        elif one.name in LIMITS:
            least, most = LIMITS[one.name]
            for number in value if isinstance(value, tuple) else (value,):
                if not least <= number <= most:
                    raise ConfigError(f"{where}: {one.name} is {number:.6g}: it must lie in {least} to {most}")
