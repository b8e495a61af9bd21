"""Plain values from strangers against types and limits, for configurations."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, Union


class ConfigError(ValueError):
    """A configuration that cannot be used, with the remedy."""


# Least and most of each number, so that no configuration alone can fill the memory or build layers for ever.
LIMITS: dict[str, tuple[float, float]] = {
    "sample_rate": (1, 768_000),
    "output_sample_rate": (1, 768_000),
    "frame_size": (1, 65_536),
    "level": (-100, 0),
    "spectrum": (-200, 0),
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


def build(cls: type, values: dict[str, Any], where: str, **checked: Any) -> Any:
    """Make the dataclass `cls` of a dict; every key must be a field and every value of the field's type. What is
    `checked` already is passed on."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(str(key)[:MAX_NAME] for key in values if key not in hints)
    if unknown:
        raise ConfigError(f"{where} has no setting {', '.join(unknown[:8])}; known are {', '.join(hints)}")
    return cls(**{key: typed(value, hints[key], f"{where}: {key}") for key, value in values.items()}, **checked)


def mapping(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be a mapping of settings, not {type(values).__name__}")
    return values


def typed(value: Any, expected: Any, where: str) -> Any:
    """Check a plain value against int, float, str, bool, tuple[X, ...], Sequence[X] or one of these or None; integers pass as
    floats, lists as tuples."""
    origin = typing.get_origin(expected)
    if origin in (Union, types.UnionType) and type(None) in typing.get_args(expected):
        if value is None:
            return None
        (expected,) = (one for one in typing.get_args(expected) if one is not type(None))
        return typed(value, expected, where)
    if origin in (tuple, Sequence):
        inner = typing.get_args(expected)[0]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, not {type(value).__name__}")
        return tuple(typed(one, inner, where) for one in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not -1e12 < value < 1e12:  # NaN fails, too
        raise ConfigError(f"{where} is out of range")
    if expected is float and number:
        return float(value)
    if expected in (int, float, str, bool):
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise ConfigError(f"{where} must be {expected.__name__}, not {type(value).__name__}")
    return value


def check_limits(config: Any, where: str) -> None:
    """Check the numbers and names of a dataclass and of the parts in it."""
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            check_limits(value, one.name)
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
