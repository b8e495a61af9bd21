"""Settings and inputs of a codec in `transformers`."""

from __future__ import annotations

from typing import Any

from transformers import EncodecFeatureExtractor, PreTrainedConfig

from codec.config import CodecConfig

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
        return self.codec["quantizer"]["num_codebooks"]

    num_codebooks = num_quantizers

    @property
    def codebook_size(self) -> int:
        """Of the largest codebook."""
        return self.codec["quantizer"]["codebook_size"]


class NeuralCodecFeatureExtractor(EncodecFeatureExtractor):
    """raw_audio and sampling_rate to input_values (B, 1, T) and padding_mask (B, T), as Mimi and EnCodec have it."""

    def __init__(self, sampling_rate: int = 16_000, **kwargs: Any):
        kwargs["auto_map"] = {"AutoFeatureExtractor": f"{CODE[:-3]}.NeuralCodecFeatureExtractor"}
        super().__init__(**{"feature_size": 1, **kwargs}, sampling_rate=sampling_rate)
