"""What the SEANets of EnCodec and Mimi in `transformers` share: settings, and where the weights are."""

from __future__ import annotations

from typing import Any

from codec.config import ConfigError
from codec.convert.source import Settings, Source

PADDING = {"reflect": "reflect", "constant": "zeros", "zero": "zeros", "replicate": "replicate"}  # theirs to ours


def seanet_settings(values: Settings, channels: int, last_kernel_size: int, conv_shortcut: bool, pad_mode: str) -> dict[str, Any]:
    """Our settings of both halves, `strides` in the order of the decoder. The defaults that differ are given."""
    values.require("audio_channels", 1, "codecs here are mono")
    values.require("use_causal_conv", True, "convolutions that look ahead are not built")
    values.require("trim_right_ratio", 1.0, "only what is cut on the right alone can be streamed")
    mode = values("pad_mode", pad_mode)
    if mode not in PADDING:
        raise ConfigError(f"{values.family}: pad_mode={mode[:40]!r}: there is {', '.join(PADDING)}")
    return {
        "channels": values.whole("num_filters", channels),
        "strides": values.wholes("upsampling_ratios", (8, 5, 4, 2) if values.family == "EnCodec" else (8, 6, 5, 4)),
        "kernel_size": values.whole("kernel_size", 7),
        "last_kernel_size": values.whole("last_kernel_size", last_kernel_size),
        "residual_kernel_size": values.whole("residual_kernel_size", 3),
        "residual_layers": values("num_residual_layers", 1),
        "dilation_base": values.whole("dilation_growth_rate", 2),
        "compress": values.whole("compress", 2),
        "conv_shortcut": values("use_conv_shortcut", conv_shortcut),
        "padding": PADDING[mode],
    }


def take_seanet(source: Source, settings: dict[str, Any], half: str, own: str, theirs: str) -> None:
    """The layers of one half, "encoder" or "decoder", `theirs` at `theirs.N` and ours at `own.N`.

    They count every ELU as a layer; here it is a part of the one that follows.
    """
    ours = number = 0

    def conv(into: str, name: str) -> None:
        source.take_normed(f"{into}.conv.weight", f"{name}.conv")
        source.take(f"{into}.conv.bias", f"{name}.conv.bias")

    def units() -> None:
        nonlocal ours, number
        for _ in range(settings["residual_layers"]):
            conv(f"{own}.{ours}.layers.0.layer", f"{theirs}.{number}.block.1")
            conv(f"{own}.{ours}.layers.1.layer", f"{theirs}.{number}.block.3")
            if settings["conv_shortcut"]:
                source.take_normed(f"{own}.{ours}.shortcut.weight", f"{theirs}.{number}.shortcut.conv")
                source.take(f"{own}.{ours}.shortcut.bias", f"{theirs}.{number}.shortcut.conv.bias")
            ours, number = ours + 1, number + 1

    def lstm() -> None:
        nonlocal ours, number
        layers = settings.get("lstm_layers", 0)
        for layer in range(layers):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                source.take(f"{own}.{ours}.lstm.{name}_l{layer}", f"{theirs}.{number}.lstm.{name}_l{layer}")
        ours, number = ours + (layers > 0), number + (layers > 0)

    conv(f"{own}.{ours}", f"{theirs}.{number}")
    ours, number = 1, 1
    if half == "decoder":
        lstm()
    for _ in settings["strides"]:
        if half == "encoder":
            units()
            conv(f"{own}.{ours}.layer", f"{theirs}.{number + 1}")
        else:
            source.take_normed(f"{own}.{ours}.layer.conv.weight", f"{theirs}.{number + 1}.conv")
            source.take(f"{own}.{ours}.layer.bias", f"{theirs}.{number + 1}.conv.bias", lambda bias: bias[:, None])
        ours, number = ours + 1, number + 2
        if half == "decoder":
            units()
    if half == "encoder":
        lstm()
    conv(f"{own}.{ours}.layer", f"{theirs}.{number + 1}")
