"""Corpora of tokens: many recordings to shards of codes, once and exactly, and the reader that feeds training.

    codec.corpus.tokenize("speech-16k", "recordings/", "tokens/", jobs=8)     # or `codec tokenize recordings/ tokens/`
    data = codec.corpus.TokenDataset("tokens/", crop=500)                     # data[i]["codes"] is (K, 500) int64

Everything is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "tokenize": "run", "Report": "run", "CorpusError": "plan", "TokenDataset": "dataset", "TokenBatches": "dataset",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"codec.corpus.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'codec.corpus' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
