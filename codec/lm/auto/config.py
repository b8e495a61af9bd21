"""Settings and inputs of a codec in `transformers`."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
from transformers import EncodecFeatureExtractor, PreTrainedConfig

import quantizers
from codec.config import CodecConfig
from codec.hub import Undrawn

CODE = "neural_codec.py"  # beside the weights, for those who load with trust_remote_code=True


class NeuralCodecConfig(PreTrainedConfig):
    """codec: the codec's own configuration (`CodecConfig.to_dict()`), a small default one when left out.
    chunk_axis: codes have EnCodec's shape, (1, B, K, T), and come with `audio_scales`, which are None.
    use_streaming, use_cache: `encode` and `decode` go on with a cache unless they are told otherwise, as Mimi's do."""

    model_type = "neural_codec"

    codec: dict | None = None
    chunk_axis: bool = False
    use_streaming: bool = False
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.codec = CodecConfig.from_dict(self.codec or {}).to_dict()
        self.auto_map = {f"Auto{kind}": f"{CODE[:-3]}.NeuralCodec{kind}" for kind in ("Config", "Model")}
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)

    @property
    def parsed(self) -> CodecConfig:
        return CodecConfig.from_dict(self.codec)

    @property
    def sampling_rate(self) -> int:
        return self.codec["sample_rate"]

    @property
    def output_sampling_rate(self) -> int:
        """Of `audio_values`, in Hz."""
        return self.parsed.output_rate

    @property
    def audio_channels(self) -> int:
        return 1

    @property
    def frame_size(self) -> int:
        return self.codec["frame_size"]

    hop_length = frame_size

    @property
    def frame_rate(self) -> float:
        return self.sampling_rate / self.frame_size

    @property
    def hidden_size(self) -> int:
        """Width of the latents."""
        return self.codec["dim"]

    @property
    def num_quantizers(self) -> int:
        return len(self._quantizer.codebook_sizes)

    num_codebooks = num_quantizers

    @property
    def codebook_size(self) -> int:
        """Of the largest codebook."""
        return max(self._quantizer.codebook_sizes)

    @property
    def target_bandwidths(self) -> list[float]:
        """kbit/s of the numbers of codebooks that decode on their own."""
        return [self.frame_rate * self._quantizer.bits_per_frame(k) / 1000 for k in self._quantizer.counts]

    @property
    def _quantizer(self) -> quantizers.Quantizer:
        return _without_weights(json.dumps({"dim": self.codec["dim"], **self.codec["quantizer"]}))


@lru_cache(8)
def _without_weights(settings: str) -> quantizers.Quantizer:
    """What a quantizer says of itself."""
    with torch.device("meta"), Undrawn():
        return quantizers.build(**json.loads(settings))


class NeuralCodecFeatureExtractor(EncodecFeatureExtractor):
    """raw_audio and sampling_rate to input_values (B, 1, T) and padding_mask (B, T), as Mimi and EnCodec have it."""

    def __init__(self, sampling_rate: int = 16_000, **kwargs: Any):
        kwargs["auto_map"] = {"AutoFeatureExtractor": f"{CODE[:-3]}.NeuralCodecFeatureExtractor"}
        super().__init__(**{"feature_size": 1, **kwargs}, sampling_rate=sampling_rate)
