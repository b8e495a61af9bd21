"""Audio to discrete tokens and back. `model = codec.load("speech-16k")`, `model.encode(wav, sample_rate)`, `model.decode(tokens)`.

Nothing heavy is imported until it is used: `import codec` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load": "codec.hub",
    "save": "codec.hub",
    "models": "codec.hub",
    "Codec": "codec.model",
    "CodecConfig": "codec.config",
    "Tokens": "codec.tokens",
    "TokenSpec": "codec.tokens",
    "TokError": "codec.container",
    "AudioError": "codec.audio",
}
_ROOMS = ("adapters", "convert", "corpus", "entropy", "latents", "lm", "semantic")  # imported when asked for
__all__ = sorted([*_LAZY, *_ROOMS])


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"codec.{name}")
    raise AttributeError(f"module 'codec' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
