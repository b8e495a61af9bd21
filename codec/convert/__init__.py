"""Public checkpoints in the layout of `transformers` (config.json and model.safetensors, whole or in shards), or in that of their authors
(`codec.convert.original`), as codecs of this project.

`convert(directory)` looks at "model_type" in config.json, or else at what the settings are, and hands over to the file of that
family here, whose `read(config, tensors) -> Codec` maps settings and weights. Nothing of `transformers` is imported.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.config import MAX_BYTES, MAX_NAME, ConfigError
from codec.convert import original, shards, single

if TYPE_CHECKING:
    from torch import Tensor

    from codec.model import Codec

FAMILIES = {  # by "model_type"
    "dac": "codec.convert.dac",
    "encodec": "codec.convert.encodec",
    "mimi": "codec.convert.mimi",
    "neucodec": "codec.convert.neucodec",
    "neural_codec": "codec.convert.neural_codec",
    "snac": "codec.convert.snac",
    "speechtokenizer": "codec.convert.speechtokenizer",
    "wavtokenizer": "codec.convert.wavtokenizer",
    "xcodec": "codec.convert.xcodec",
    "xcodec2": "codec.convert.xcodec2",
    "xcodec2_published": "codec.convert.xcodec2_published",
}
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def convert(directory: str | Path, fetch: Callable[[str], Path] | None = None) -> Codec:
    """The codec in a directory as `transformers` or its authors have written it, in evaluation mode; also in a single file of
    weights, see `codec.convert.single`. fetch: gives the folder of a hub id, for a teacher that is not beside its codec.

    Raises ConfigError for a family that is not known, settings that cannot be had here, and tensors that are missing, left
    over or of another shape, by name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(directory)
    file = single.find(directory)
    if file is not None:
        config, tensors = single.read(file)
        return _read(config["model_type"], config, tensors, file)
    path, config = _read_config(directory)
    family = original.family(config) or config.get("model_type")
    if family is None and {"frame_size", "encoder", "quantizer"} <= config.keys():
        raise ConfigError(f"{directory} is a model of this project already: codec.load reads it as it is")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ConfigError(f"{path}: model_type {str(family)[:MAX_NAME]!r} cannot be converted; "
                          f"there is {', '.join(sorted(FAMILIES))}")
    try:
        if (directory / WEIGHTS).exists():
            tensors = load_file(directory / WEIGHTS)
        elif (directory / shards.INDEX).exists():
            tensors = shards.load(directory)
        else:
            tensors = original.read_weights(directory)
        if family in original.TAUGHT:
            tensors = original.with_teacher(directory, tensors, fetch)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{directory / WEIGHTS}: not readable as safetensors ({error})") from None
    return _read(family, config, tensors, directory)


def _read(family: str, config: dict[str, Any], tensors: dict[str, Tensor], source: Path) -> Codec:
    try:
        return importlib.import_module(FAMILIES[family]).read(config, tensors)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def is_foreign(directory: Path) -> bool:
    """Whether a directory or file holds a model of `transformers` or in the layout of its authors, and not ours."""
    try:
        if single.find(directory) is not None:
            return True
        _, config = _read_config(directory)
    except ConfigError:
        return False  # whoever reads it as ours will say what is wrong
    return "model_type" in config or original.family(config) is not None


def _read_config(directory: Path) -> tuple[Path, dict[str, Any]]:
    if (directory / CONFIG).exists():
        return directory / CONFIG, read_json(directory / CONFIG)
    path = original.find_yaml(directory)
    if path is not None:
        return path, original.read_yaml(path)
    settings = original.settings_of_weights(directory) if directory.is_dir() else None
    return directory / CONFIG, read_json(directory / CONFIG) if settings is None else settings


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
