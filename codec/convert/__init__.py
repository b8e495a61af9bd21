"""Public checkpoints in the layout of `transformers` (config.json and model.safetensors) as codecs of this project.

`convert(directory)` looks at "model_type" in config.json and hands over to the file of that family here, whose
`read(config, tensors) -> Codec` maps settings and weights. Nothing of `transformers` is imported.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.config import MAX_BYTES, MAX_NAME, ConfigError

if TYPE_CHECKING:
    from codec.model import Codec

FAMILIES = {"dac": "codec.convert.dac", "encodec": "codec.convert.encodec", "mimi": "codec.convert.mimi"}  # by "model_type"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def convert(directory: str | Path) -> Codec:
    """The codec in a directory with config.json and model.safetensors as `transformers` writes them, in evaluation mode.

    Raises ConfigError for a family that is not known, settings that cannot be had here, and tensors that are missing, left
    over or of another shape, by name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(directory)
    config = read_json(directory / CONFIG)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ConfigError(f"{directory / CONFIG}: model_type {str(family)[:MAX_NAME]!r} cannot be converted; "
                          f"there is {', '.join(sorted(FAMILIES))}")
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{directory / WEIGHTS}: not readable as safetensors ({error})") from None
    try:
        return importlib.import_module(FAMILIES[family]).read(config, tensors)
    except ConfigError as error:
        raise ConfigError(f"{directory}: {error}") from None


def is_foreign(path: Path) -> bool:
    """Whether a config.json is one of `transformers` and not ours."""
    try:
        return "model_type" in read_json(path)
    except ConfigError:
        return False  # whoever reads it as ours will say what is wrong


def read_json(path: Path) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
        values = json.loads(text) if len(text) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable JSON configuration ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a configuration: a mapping of settings in at most {MAX_BYTES} characters is one")
    return values
