"""Tokens in language models: patterns that lay codebooks out as a sequence, vocabularies, and the faces that other libraries
expect of a codec. Submodules are imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import Any

_ROOMS = ("auto", "bpe", "compression", "patterns", "predictability", "spans", "streamer", "vocab")
__all__ = list(_ROOMS)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"codec.lm.{name}")
    raise AttributeError(f"module 'codec.lm' has no attribute {name!r}; it offers {', '.join(_ROOMS)}")


def __dir__() -> list[str]:
    return list(__all__)
