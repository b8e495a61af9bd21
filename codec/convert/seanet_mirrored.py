"""Where the original SEANets of SpeechTokenizer, DM-Codec and WavTokenizer keep the weights of ours."""

from __future__ import annotations

import torch

from codec.backbones import build_decoder, build_encoder
from codec.config import CodecConfig, ConfigError
from codec.convert.source import Source
from codec.nn.padded import PaddedConv1d, TrimmedConvTranspose1d
from codec.nn.snake import Snake

WINDOW_SECONDS, OVERLAP_SECONDS = 20, 2
TRAINING = ("inited", "cluster_size", "embed_avg")  # of a codebook


def windows(rate: int, hop: int) -> dict[str, int]:
    """The grid of a converted model in frames."""
    frames, overlap = WINDOW_SECONDS * rate // hop, OVERLAP_SECONDS * rate // hop
    return {"window_frames": max(2, frames), "overlap_frames": overlap}


def take_seanet(source: Source, config: CodecConfig, half: str, theirs: str) -> None:
    """The layers of our half, "encoder" or "decoder": they are numbered as those of theirs at `theirs`."""
    build = build_encoder if half == "encoder" else build_decoder
    try:
        with torch.device("meta"):
            network = build(getattr(config, half), config.dim, config.frame_size)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"no {half} of these settings can be built: {error}") from None
    for name, layer in network.named_modules():
        own, published = f"{half}.{name}", theirs + name.removeprefix("layers")
        if isinstance(layer, (PaddedConv1d, TrimmedConvTranspose1d)):
            kind = "conv" if isinstance(layer, PaddedConv1d) else "convtr"
            source.take_normed(f"{own}.conv.weight", f"{published}.{kind}.{kind}")
            source.take(f"{own}.conv.bias", f"{published}.{kind}.{kind}.bias")
        elif isinstance(layer, Snake):
            source.take(f"{own}.alpha", f"{published}.alpha", lambda alpha: alpha.squeeze(0))
        elif isinstance(layer, torch.nn.LSTM):
            for weight, _ in layer.named_parameters():
                source.take(f"{own}.{weight}", f"{published.replace('.residual', '')}.{weight}")


def take_codebooks(source: Source, count: int, theirs: str) -> None:
    """The codebooks of a residual quantizer whose stages are at `theirs`.N."""
    names = [f"{theirs}.{index}._codebook.embed" for index in range(count)]
    books = [source.pop(name) for name in names]
    for index in range(count):
        for name in TRAINING:
            source.drop(f"{theirs}.{index}._codebook.{name}")
    source.stack("quantizer.codebooks", names, books)
