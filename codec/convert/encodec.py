"""EnCodec (Défossez et al. 2022, https://arxiv.org/abs/2210.13438) as `transformers` keeps it: EncodecModel.

The causal mono model of 24 kHz. Weight normalisation is folded into the weights.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.seanet import seanet_settings, take_seanet
from codec.convert.source import Settings, Source
from codec.model import Codec

BANDWIDTHS = [1.5, 3.0, 6.0, 12.0, 24.0]  # kbit/s
TRAINING = ("inited", "cluster_size", "embed_avg")  # of a codebook


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for what is not the causal model, and tensors that do not fit."""
    values = Settings("EnCodec", config)
    stereo = "the 48 kHz stereo model looks ahead and normalises over time: take encodec_24khz"
    values.require("norm_type", "weight_norm", stereo)
    values.require("normalize", False, stereo)
    if config.get("chunk_length_s") is not None:
        raise ConfigError(f"EnCodec: chunk_length_s={config['chunk_length_s']!r} cannot be converted: {stereo}")
    settings = seanet_settings(values, channels=32, last_kernel_size=7, conv_shortcut=True, pad_mode="reflect")
    settings["lstm_layers"] = values("num_lstm_layers", 2)
    rate, dim, size = values.whole("sampling_rate", 24_000), values.whole("hidden_size", 128), values.whole("codebook_size", 1024)
    values.require("codebook_dim", dim, "codebooks are as wide as the latents")
    hop = math.prod(settings["strides"])
    count = _codebooks(values, -(-rate // hop), size)
    ours = CodecConfig.from_dict({
        "name": f"encodec-{rate // 1000}k", "sample_rate": rate, "frame_size": hop, "dim": dim,
        "encoder": {"name": "seanet", **settings, "strides": settings["strides"][::-1], "ragged": True},
        "decoder": {"name": "seanet", **settings},
        "quantizer": {"name": "rvq", "num_codebooks": count, "codebook_size": size},
    })
    source = Source(tensors)
    for half in ("encoder", "decoder"):
        take_seanet(source, settings, half, f"{half}.layers", f"{half}.layers")
    names = [f"quantizer.layers.{index}.codebook.embed" for index in range(count)]
    books = [source.pop(name) for name in names]
    for index in range(count):
        for name in TRAINING:
            source.drop(f"quantizer.layers.{index}.codebook.{name}")
    source.stack("quantizer.codebooks", names, books)
    return source.codec(ours)


def _codebooks(values: Settings, frame_rate: int, size: int) -> int:
    """As many as the highest bandwidth holds."""
    bandwidths = values("target_bandwidths", BANDWIDTHS)
    if not bandwidths or type(bandwidths[-1]) not in (int, float) or not 0 < bandwidths[-1] < 1e6:
        raise ConfigError("EnCodec: target_bandwidths must be a list of kbit/s")
    return max(1, int(1000 * bandwidths[-1] // (frame_rate * math.ceil(math.log2(size)))))
