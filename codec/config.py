"""Configuration of a codec: one typed dataclass per part, named parts looked up in registries.

A configuration comes from a recipe or a checkpoint's config.json, so from strangers: unknown names and keys are
refused with the list of the known ones, and nothing in it is imported or evaluated. Its encoders and decoders are in
`codec.parts`, and all of their names here, too.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import quantizers
from codec.checks import LIMITS, MAX_NAME, ConfigError, build, check_limits, mapping, typed  # noqa: F401
from codec.correction import fits
from codec.parts import (  # noqa: F401
    DECODERS, ENCODERS, ConvNeXtDecoderConfig, ConvNeXtEncoderConfig, DACDecoderConfig, DACEncoderConfig, DecoderConfig,
    EncoderConfig, FusedEncoderConfig, MirroredSEANetDecoderConfig, MirroredSEANetEncoderConfig, SEANetDecoderConfig,
    SEANetEncoderConfig, SEANetTransformerDecoderConfig, SEANetTransformerEncoderConfig, SNACDecoderConfig,
    SNACEncoderConfig, WavTokenizerDecoderConfig, XCodec2DecoderConfig, XCodec2EncoderConfig, XCodecDecoderConfig,
    XCodecEncoderConfig,
)

MAX_BYTES = 1_000_000  # of a config.json


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
        values = dict(mapping(values, "quantizer"))
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
        options = {key: typed(value, hints[key], f"quantizer: {key}") for key, value in values.items()}
        return build(cls, {"name": name, **common}, "quantizer", options=options)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "num_codebooks": self.num_codebooks, "codebook_size": self.codebook_size, **self.options}


@dataclass(frozen=True)
class CodecConfig:
    """A whole codec: mono audio at `sample_rate`, `frame_size` samples a frame, latents `dim` wide. The decoder makes audio
    at `output_sample_rate`, where that is another rate than the encoder's. `level`: of speech without its pauses, in dBFS, that it codes
    best, where that is known, and `spectrum`: the powers of such speech in octaves from 125 Hz on, in dBFS."""

    name: str = "codec"
    sample_rate: int = 16_000
    output_sample_rate: int | None = None
    frame_size: int = 320
    dim: int = 64
    encoder: EncoderConfig = field(default_factory=ConvNeXtEncoderConfig)
    decoder: DecoderConfig = field(default_factory=ConvNeXtDecoderConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    level: float | None = None
    spectrum: tuple[float, ...] | None = None

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
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CodecConfig:
        """Raises ConfigError for unknown names and keys, and values of a wrong type or outside LIMITS."""
        values = dict(mapping(values, "the configuration"))
        for part, registry in (("encoder", ENCODERS), ("decoder", DECODERS)):
            if part in values:
                values[part] = _named(registry, values[part], part)
        if "quantizer" in values and not isinstance(values["quantizer"], QuantizerConfig):
            values["quantizer"] = QuantizerConfig.from_dict(values["quantizer"])
        config = build(cls, values, "the configuration")
        check_limits(config, "the configuration")
        if config.spectrum is not None:
            if config.level is None or not fits(len(config.spectrum), config.sample_rate):
                raise ConfigError("the configuration: spectrum goes with a level, and has 2 or more octaves from 125 Hz up to half the sample rate")
            if config.output_rate != config.sample_rate:
                raise ConfigError("the configuration: spectrum is for models that decode at the rate at which they encode: leave it out")
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


def _named(registry: dict[str, type], values: Any, part: str) -> Any:
    if isinstance(values, tuple(registry.values())):
        return values
    values = mapping(values, part)
    name = values.get("name")
    if not isinstance(name, str) or name not in registry:
        raise ConfigError(f"{part}: no {part} is named {str(name)[:MAX_NAME]!r}; there is {', '.join(sorted(registry))}")
    return build(registry[name], values, part)
