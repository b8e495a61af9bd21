"""WavTokenizer (Ji et al. 2024, https://arxiv.org/abs/2408.16532) as its authors published it: a configuration in YAML, and a
checkpoint of lightning.

Left out are what only its training has (discriminators, averages of codebooks) and EnCodec's decoder, which it never uses. Its
adaptive normalisations become plain ones with the numbers of the first bandwidth, with which its authors infer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from codec.config import CodecConfig, ConfigError
from codec.convert.original import parts
from codec.convert.seanet_mirrored import take_codebooks, take_seanet, windows
from codec.convert.source import Settings, Source
from codec.model import Codec

CLASSES = {"feature_extractor": "EncodecFeatures", "backbone": "VocosBackbone", "head": "ISTFTHead"}
ENCODEC = "feature_extractor.encodec"
OURS = ("feature_extractor.", "backbone.", "head.")  # all others are their training's
UNUSED = (f"{ENCODEC}.decoder.", "head.istft.window")
CHANNELS, DIM = 32, 512  # fixed in their EncodecFeatures


def read(config: dict[str, Any], tensors: dict[str, Tensor]) -> Codec:
    """The codec. Raises ConfigError for settings that cannot be had here, and tensors that do not fit."""
    model = parts(config)
    encodec, backbone, head = (_part(model, name) for name in CLASSES)
    strides = encodec.wholes("dowmsamples", (6, 5, 5, 4))  # sic
    hop, rate = math.prod(strides), Settings("WavTokenizer", model).whole("sample_rate", 24_000)
    backbone.require("input_channels", DIM, "the latents of its encoder are as wide")
    head.require("hop_length", hop, "the head must make as many samples as the strides took")
    head.require("padding", "same", "only frames at the middle of their samples are built")
    channels, blocks = backbone.whole("dim", 768), backbone.whole("num_layers", 12)
    encodec.require("num_quantizers", 1, "more than one codebook is not published")
    head.require("dim", channels, "the head is as wide as the blocks")
    grid = windows(rate, hop)
    ours = CodecConfig.from_dict({
        "name": f"wavtokenizer-{round(rate / hop)}", "sample_rate": rate, "frame_size": hop, "dim": DIM,
        "encoder": {"name": "seanet_mirrored", "channels": CHANNELS, "strides": strides[::-1], "bidirectional": False, **grid},
        "decoder": {
            "name": "wavtokenizer", "channels": channels, "hidden": backbone.whole("intermediate_dim", 2304),
            "blocks": blocks, "window": head.whole("n_fft", 4 * hop), **grid,
        },
        "quantizer": {
            "name": "rvq", "num_codebooks": 1, "codebook_size": encodec.whole("vq_bins", 16_384),
        },
    })
    source = Source({
        name: value for name, value in tensors.items() if name.startswith(OURS) and not name.startswith(UNUSED)
    })
    take_seanet(source, ours, "encoder", f"{ENCODEC}.encoder.model")
    take_codebooks(source, ours.quantizer.num_codebooks, f"{ENCODEC}.quantizer.vq.layers")
    _take_decoder(source, blocks, adaptive=backbone("adanorm_num_embeddings", 0) > 0)
    return source.codec(ours)


def _part(model: dict[str, Any], name: str) -> Settings:
    """The settings of a part, which must be of the class that is built here."""
    part = model.get(name)
    path, values = (part.get("class_path"), part.get("init_args")) if isinstance(part, dict) else (None, None)
    if not isinstance(path, str) or path.split(".")[-1] != CLASSES[name] or not isinstance(values, dict):
        raise ConfigError(f"WavTokenizer: {name} must be {CLASSES[name]} with its init_args, not {str(path)[:80]!r}")
    return Settings(f"WavTokenizer {name}", values)


def _take_decoder(source: Source, blocks: int, adaptive: bool) -> None:
    def layer(own: str, theirs: str) -> None:
        source.take(f"decoder.{own}.weight", f"{theirs}.weight")
        source.take(f"decoder.{own}.bias", f"{theirs}.bias")

    def norm(own: str, theirs: str) -> None:
        if not adaptive:
            return layer(own, theirs)
        source.take(f"decoder.{own}.weight", f"{theirs}.scale.weight", lambda rows: rows[0])
        source.take(f"decoder.{own}.bias", f"{theirs}.shift.weight", lambda rows: rows[0])

    layer("embed", "backbone.embed")
    for index in (0, 1, 3, 4):
        for name in ("norm1", "conv1", "norm2", "conv2"):
            layer(f"attention.{index}.{name}", f"backbone.pos_net.{index}.{name}")
    layer("attention.2.norm", "backbone.pos_net.2.norm")
    for kind in ("weight", "bias"):
        names = [f"backbone.pos_net.2.{name}.{kind}" for name in "qkv"]
        source.stack(f"decoder.attention.2.qkv.{kind}", names, [source.pop(name) for name in names],
                     lambda maps: torch.cat([one.squeeze(2) if one.dim() == 3 else one for one in maps]))
    source.take("decoder.attention.2.out.weight", "backbone.pos_net.2.proj_out.weight", lambda weight: weight.squeeze(2))
    source.take("decoder.attention.2.out.bias", "backbone.pos_net.2.proj_out.bias")
    layer("attention.5", "backbone.pos_net.5")
    norm("norm_in", "backbone.norm")
    for index in range(blocks):
        own, theirs = f"blocks.{index}", f"backbone.convnext.{index}"
        layer(f"{own}.depthwise", f"{theirs}.dwconv")
        norm(f"{own}.norm", f"{theirs}.norm")
        layer(f"{own}.expand", f"{theirs}.pwconv1")
        layer(f"{own}.project", f"{theirs}.pwconv2")
        source.take(f"decoder.{own}.scale", f"{theirs}.gamma")
    layer("norm_out", "backbone.final_layer_norm")
    layer("head", "head.out")
