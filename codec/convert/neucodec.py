"""NeuCodec as its authors published it: a pickled state dict of the neucodec package's NeuCodec, without settings.

It is X-Codec 2 (https://arxiv.org/abs/2502.04128) with a decoder at 24 kHz.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from codec.config import ConfigError
from codec.convert import xcodec2_published
from codec.convert.source import Settings
from codec.model import Codec


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    values = Settings("NeuCodec", config)
    if any(name.startswith("codec_encoder.") for name in tensors):
        raise ConfigError("DistillNeuCodec has encoders of its own, which are not built here: take neuphonic/neucodec")
    return xcodec2_published.build(values, "neucodec", values.whole("sample_rate", 24_000), False, tensors)
