"""Weights of `transformers` in several files: model.safetensors.index.json, and the files that it names."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from codec.config import ConfigError

INDEX = "model.safetensors.index.json"
FILES = "model-*.safetensors"  # as they are named


def load(directory: Path) -> dict[str, Tensor]:
    """The tensors of all files that the index names. Raises ConfigError for an index that cannot be read, and for files that
    are not there, by name; SafetensorError for those that are cut off."""
    from safetensors.torch import load_file

    path = directory / INDEX
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable index of weights ({type(error).__name__})") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise ConfigError(f"{path}: names files outside its folder")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ConfigError(f"{path} names files that are not there: {', '.join(missing[:20])}")
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_file(directory / name)
    return tensors
