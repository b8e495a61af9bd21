"""Semantics: teachers that hear or read, their features on disk, and the losses that bring a codec near them.

    teacher = codec.semantic.load_teacher("hubert-base/", layer="mean")    # frozen, outside of your model
    features = teacher.features(wav)                                       # (T,) at 16 kHz to (F, D)
    loss = codec.semantic.d_axis_distillation_loss(student, features[None])

Training alone needs this room: nothing that encodes or decodes imports it. Everything is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "d_axis_distillation_loss": "losses",
    "t_axis_distillation_loss": "losses",
    "cosine_loss": "losses",
    "masked_mse": "losses",
    "ctc_loss": "losses",
    "load_teacher": "teachers",
    "Teacher": "teachers",
    "CallableTeacher": "teachers",
    "FeatureStore": "features",
    "compute": "filling",
    "content_key": "features",
    "Transcripts": "transcripts",
    "transcribe": "transcribing",
    "load_text_teacher": "text",
    "compute_text": "text",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"codec.semantic.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'codec.semantic' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
