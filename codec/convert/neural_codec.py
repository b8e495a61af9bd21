"""Our own codecs as `codec.lm.auto` writes them for `transformers`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codec.config import CodecConfig
from codec.convert.source import Settings, Source
from codec.model import Codec


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings and tensors that do not fit."""
    ours, source = CodecConfig.from_dict(Settings("neural_codec", config)("codec", {})), Source(tensors)
    with torch.device("meta"):
        names = Codec(ours).state_dict().keys() | {name.removeprefix("codec.") for name in tensors}
    for name in sorted(names):
        if name.startswith("quantizer.trainer"):
            source.drop(f"codec.{name}")
        else:
            source.take(name, f"codec.{name}")
    return source.codec(ours)
