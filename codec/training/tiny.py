"""Any recipe, made small enough for a laptop: the same parts in the same order, but narrow, on short crops, for 20 steps.

What a recipe is made of stays: backbones, strides, quantizer and its number of codebooks, kinds of discriminators, losses and
their weights, and when in the run quantizer and discriminators join. For trying out a recipe, one's data or one's changes
before a machine is paid for; what such a run learns is of no use.
"""

from __future__ import annotations

import math
from typing import Any

STEPS = 20
SUFFIX = "-tiny"  # of the model's name, and so of the run's folder: no run of the whole recipe goes on from here

# The most of each width and depth of encoders and decoders. Numbers are halved until they fit, so what divides them still does.
WIDTHS = {
    "hidden": 64, "heads": 4, "head_dim": 16, "fine_channels": 32, "fine_hidden": 64, "sound_dim": 32, "semantic_channels": 32,
    "upsample_groups": 32, "teacher_dim": 32, "teacher_heads": 4, "teacher_hidden": 64, "teacher_conv_channels": 8,
    "teacher_position_kernel": 32, "teacher_position_groups": 8, "content_channels": 32, "content_hidden": 64,
}
DEPTHS = {"blocks": 2, "fine_blocks": 2, "content_blocks": 2, "layers": 2, "transformer_layers": 2, "teacher_layers": 2}
LATENTS = 32
CHANNELS = {"rate": 4, "frames": 96, "stft": 32}  # counted at the sample rate, at the frame rate, between transforms
CODES, CODE_WIDTH = 64, 16

# Options of discriminators; those of "msd" and "mfd" come in steps of 256 and 32.
JUDGES = {
    "mpd": {"channels": 4, "max_channels": 16}, "mrd": {"channels": 4}, "msstft": {"channels": 4}, "mssbcqt": {"channels": 4},
    "logmel": {"channels": 8}, "whisper": {"channels": 8},
    "msd": {"channels": 256}, "mfd": {"channels": 32},
}


def shrink(values: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a whole recipe (`codec.training.recipe.to_dict`), made small."""
    model, data, adversary, schedule, run = (values[key] for key in ("model", "data", "adversary", "schedule", "run"))
    semantic = values["semantic"]
    small = {
        "semantic": semantic | {
            "student_first": _scaled(semantic["student_first"], schedule["steps"]),
            "teacher": "random" if "teacher_dim" in model["encoder"] else "",  # no published one is as small
        },
        "model": _model(model),
        "data": data | {
            "batch_size": min(2, data["batch_size"]), "crop_seconds": min(0.5, data["crop_seconds"]), "workers": 0,
            "valid_items": min(2, data["valid_items"]),
        },
        "adversary": adversary | {
            "discriminators": [_judge(entry) for entry in adversary["discriminators"]],
            "start": _scaled(adversary["start"], schedule["steps"]), "crop_seconds": min(0.5, adversary["crop_seconds"]),
        },
        "schedule": schedule | {
            "steps": STEPS, "warmup": _scaled(schedule["warmup"], schedule["steps"]),
            "quantize_from": _scaled(schedule["quantize_from"], schedule["steps"]),
        },
        "run": run | {"checkpoint_every": STEPS // 2, "valid_every": STEPS, "log_every": 1},
    }
    return values | small


def _model(model: dict[str, Any]) -> dict[str, Any]:
    encoder, decoder, quantizer = (dict(model[part]) for part in ("encoder", "decoder", "quantizer"))
    for part, counted in ((encoder, "rate"), (decoder, "frames")):
        counted = "rate" if part["name"].startswith("seanet") else counted
        counted = "stft" if part["name"] in ("convnext_stft", "fused") else counted
        for key, value in part.items():
            if key == "channels":
                part[key] = _halved(value, CHANNELS[counted])
            elif key in WIDTHS and value is not None:
                part[key] = _halved(value, WIDTHS[key])
            elif key in DEPTHS:
                part[key] = min(value, DEPTHS[key])
    if "levels" not in quantizer:
        quantizer["codebook_size"] = _halved(quantizer["codebook_size"], CODES)
    if quantizer.get("codebook_dim") is not None:
        quantizer["codebook_dim"] = _halved(quantizer["codebook_dim"], CODE_WIDTH)
    small = {"name": model["name"] + SUFFIX, "encoder": encoder, "decoder": decoder, "quantizer": quantizer}
    return model | small | {"dim": _latents(model["dim"], encoder)}


def _latents(dim: int, encoder: dict[str, Any]) -> int:
    """Width of the latents: where an encoder's other numbers say it, what they say now."""
    if "levels" in encoder:
        return dim
    if encoder["name"] == "xcodec":
        return encoder["sound_dim"] + encoder["semantic_channels"][-1]
    if encoder["name"] == "snac":
        return encoder["channels"] * 2 ** len(encoder["strides"])
    return _halved(dim, LATENTS)


def _judge(entry: dict[str, Any]) -> dict[str, Any]:
    options = dict(entry.get("options") or {})
    small = dict(JUDGES.get(entry.get("name"), {}))
    if entry.get("name") == "mfd":
        small["channels"] = [32] * len(options.get("hops", range(6)))
    return entry | {"options": options | small}


def _halved(value: Any, most: int) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_halved(one, most) for one in value)
    while value > most:
        value = value // 2
    return value


def _scaled(step: int, steps: int) -> int:
    """The step in a run of `STEPS` that is as far in it as `step` is in one of `steps`, rounded up."""
    return min(STEPS, math.ceil(step * STEPS / steps))
