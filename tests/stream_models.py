"""Small codecs of every structure that streams, by name, and what their streams are compared with."""

from __future__ import annotations

import functools
import random

import torch
from small_models import make_config, make_fused_config, make_model, make_seanet_config
from torch import Tensor

from codec.config import (
    CodecConfig, DACDecoderConfig, DACEncoderConfig, QuantizerConfig, SEANetDecoderConfig, SEANetEncoderConfig,
    SEANetTransformerDecoderConfig, SEANetTransformerEncoderConfig,
)

NAMES = ("speech", "fused", "seanet", "encodec", "mimi", "dac", "grouped")


def config(name: str) -> CodecConfig:
    if name == "speech":
        return make_config()
    if name == "fused":
        return make_fused_config()
    if name == "seanet":
        return make_seanet_config()
    if name == "grouped":  # frames that are coded together
        return make_config(name=name, quantizer=QuantizerConfig(
            "multiscale_rvq", num_codebooks=4, codebook_size=32, options={"strides": (4, 2, 1, 1)},
        ))
    if name == "dac":
        return make_config(
            name=name, frame_size=40, encoder=DACEncoderConfig(channels=4, strides=(5, 8)),
            decoder=DACDecoderConfig(channels=16, strides=(8, 5)),
        )
    seanet = {"channels": 4, "padding": "reflect", "conv_shortcut": True} if name == "encodec" else {
        "channels": 4, "frame_stride": 2, "transformer_layers": 2, "heads": 2, "hidden": 20, "attention_window": 7,
        "layer_scale": 0.5,
    }
    kinds = (SEANetEncoderConfig, SEANetDecoderConfig) if name == "encodec" else (
        SEANetTransformerEncoderConfig, SEANetTransformerDecoderConfig)
    strides = (2, 4, 5) if name == "encodec" else (4, 5)
    return make_config(
        name=name, frame_size=40, encoder=kinds[0](strides=strides, ragged=True, **seanet),
        decoder=kinds[1](strides=strides[::-1], **seanet),
    )


@functools.cache
def streamed(name: str):
    """Shared: do not change it."""
    if name != "grouped":
        return make_model(config(name))
    from codec.model import Codec

    torch.manual_seed(0)
    return Codec(config(name)).eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alone(model, wav: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (1, K, m) and audio (1, 1, n) of samples (n,) that are coded at once."""
    if not len(wav):
        return torch.zeros(1, model.num_codebooks, 0, dtype=torch.int64), torch.zeros(1, 1, 0)
    codes = model.encode(wav).codes
    return codes, model.decode_frames(codes)


def random_cuts(total: int, most: int, chance: random.Random) -> list[int]:
    """Sizes from 0 to `most`, many of them small, that sum to `total`."""
    sizes = []
    while total:
        size = chance.choice((0, 1, 2, chance.randint(1, 40), chance.randint(1, most)))
        sizes.append(min(size, total))
        total -= sizes[-1]
    return sizes


class Row:
    """What one row of a stream has been given and has answered, from its last start on."""

    def __init__(self, model):
        self.model, self.wav, self.codes, self.audio = model, [], [], []

    def given(self, pcm: Tensor, codes: Tensor, audio: Tensor, length: int) -> None:
        """pcm (n,) of the row, codes (K, m) with -1 in front, audio (1, n') of which the last `length` are the row's."""
        own = (codes >= 0).all(0)
        assert ((codes >= 0) == own).all() and own.tolist() == sorted(own.tolist())  # whole frames, at the end
        assert not audio[:, : audio.shape[1] - length].any()
        self.wav.append(pcm)
        self.codes.append(codes[:, own])
        self.audio.append(audio[:, audio.shape[1] - length :])

    def check(self, whole: bool = False) -> None:
        """What has come is the beginning of what the signal alone gives, no later than `latency`; all of it if `whole`."""
        wav, codes = torch.cat(self.wav), torch.cat(self.codes, 1)
        audio, model = torch.cat(self.audio, 1), self.model
        expected, sound = alone(model, wav)
        assert torch.equal(codes, expected[0, :, : codes.shape[1]])
        torch.testing.assert_close(audio, sound[0, :, : audio.shape[1]], rtol=0, atol=1e-5)
        if whole:
            assert codes.shape[1] == expected.shape[2] and audio.shape[1] == sound.shape[2]
        else:
            assert len(wav) - audio.shape[1] < round(model.latency * model.sample_rate) + 1
