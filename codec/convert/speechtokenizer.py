"""SpeechTokenizer (Zhang et al. 2023, https://arxiv.org/abs/2308.16692) and DM-Codec (Ahasan et al. 2024,
https://arxiv.org/abs/2410.15017), its fork, as their authors published them.

The linear map to the teacher's features, which only training needs, is left out.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.seanet_mirrored import take_codebooks, take_seanet, windows
from codec.convert.source import Settings, Source
from codec.model import Codec

ACTIVATIONS = {"ELU": "elu", "Snake": "snake"}
DM_CODEC = "codec-dooku"  # project_name in DM-Codec's config.json, which else has SpeechTokenizer's settings


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    values = Settings("SpeechTokenizer", config)
    strides, rate = values.wholes("strides", (8, 5, 4, 2)), values.whole("sample_rate", 16_000)
    activation = values("activation", "ELU")
    if activation not in ACTIVATIONS:
        raise ConfigError(f"SpeechTokenizer: activation={activation[:40]!r}: there is {', '.join(ACTIVATIONS)}")
    hop = math.prod(strides)
    shared = {
        "name": "seanet_mirrored", "channels": values.whole("n_filters", 64), "activation": ACTIVATIONS[activation],
        "residual_kernel_size": values.whole("residual_kernel_size", 3), "residual_layers": values("n_residual_layers", 1),
        "dilation_base": values.whole("dilation_base", 2), "lstm_layers": values("lstm_layers", 2), **windows(rate, hop),
    }
    ours = CodecConfig.from_dict({
        "name": "dm-codec" if config.get("project_name") == DM_CODEC else "speechtokenizer", "sample_rate": rate,
        "frame_size": hop, "dim": values.whole("dimension", 1024),
        "encoder": {**shared, "strides": strides[::-1], "bidirectional": values("bidirectional", False)},
        "decoder": {**shared, "strides": strides},
        "quantizer": {
            "name": "rvq", "num_codebooks": values.whole("n_q", 8), "codebook_size": values.whole("codebook_size", 1024),
        },
    })
    source = Source(tensors)
    take_seanet(source, ours, "encoder", "encoder.model")
    take_seanet(source, ours, "decoder", "decoder.model")
    take_codebooks(source, ours.quantizer.num_codebooks, "quantizer.vq.layers")
    for name in ("transform.weight", "transform.bias"):
        source.drop(name)
    return source.codec(ours)
