"""A codec as a model of `transformers`: importing this module makes AutoConfig, AutoModel and AutoFeatureExtractor know it.

    import codec.lm.auto
    codec.lm.auto.wrap(codec.load("speech-16k")).save_pretrained("speech-16k-hf")        # with code that needs no such import
    model = transformers.AutoModel.from_pretrained("speech-16k-hf")
    extractor = transformers.AutoFeatureExtractor.from_pretrained("speech-16k-hf")
    inputs = extractor(raw_audio=wav, sampling_rate=16_000, return_tensors="pt")
    codes = model.encode(**inputs).audio_codes
    audio = model.decode(codes, inputs["padding_mask"]).audio_values

It speaks as Mimi does there, and as EnCodec does where `config.chunk_axis` is set.
"""

from __future__ import annotations

from typing import Any

try:
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
except ImportError:
    raise ImportError('codec.lm.auto needs transformers: pip install "neural-codec-toolkit[lm]"') from None

from codec.adapters import AdaptedCodec
from codec.lm.auto.config import NeuralCodecConfig, NeuralCodecFeatureExtractor
from codec.lm.auto.model import NeuralCodecDecoderOutput, NeuralCodecEncoderOutput, NeuralCodecModel, NeuralCodecOutput
from codec.model import Codec

__all__ = [
    "NeuralCodecConfig", "NeuralCodecDecoderOutput", "NeuralCodecEncoderOutput", "NeuralCodecFeatureExtractor", "NeuralCodecModel",
    "NeuralCodecOutput", "wrap",
]


def wrap(codec: Codec, **settings: Any) -> NeuralCodecModel:
    """A codec as a model of transformers; it holds the codec itself, not a copy. settings: of NeuralCodecConfig.

    Raises ValueError for codecs that stay outside (`codec.adapters`) or are there by half, which could not be loaded again."""
    if isinstance(codec, AdaptedCodec):
        raise ValueError(f"{codec.config.name} is coded outside and cannot be saved for transformers: convert its checkpoint first")
    if any(weight.is_meta for weight in codec.parameters()):
        raise ValueError("half of the weights were released: load the model again to wrap it")
    model = NeuralCodecModel.__new__(NeuralCodecModel)
    super(NeuralCodecModel, model).__init__(NeuralCodecConfig(codec=codec.config.to_dict(), **settings))
    model._empty, model.codec = False, codec
    model.post_init()
    return model.eval()


AutoConfig.register(NeuralCodecConfig.model_type, NeuralCodecConfig, exist_ok=True)
AutoModel.register(NeuralCodecConfig, NeuralCodecModel, exist_ok=True)
AutoFeatureExtractor.register(NeuralCodecConfig, NeuralCodecFeatureExtractor, exist_ok=True)
