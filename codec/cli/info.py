"""Say what a .tok file, an audio file or a model is.

A name is first looked for as a file, then as a folder with a model, then among the models in the box. What an entropy-coded file of a
model that is not in the box holds can be checked with --model alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codec.cli.common import duration, priors_of
from codec.cli.encode import AUDIO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="FILE|MODEL", help=".tok or audio file, or a model's name or folder")
    parser.add_argument("--model", metavar="NAME|DIR", help="of an entropy-coded .tok file (default: the one in the box that it names)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> None:
    if os.path.isfile(args.name):
        facts = _tok(args.name, args.model) if _is_tok(args.name) else _audio(args.name)
    elif args.name.lower().endswith((".tok", *AUDIO)) and not os.path.isdir(args.name):
        raise ValueError(f"{args.name}: no such file")
    else:
        facts = _model(args.name)
    if args.json:
        print(json.dumps(facts))
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"{key.replace('_', ' '):{width}}  {_words(key, value)}")


def _is_tok(name: str) -> bool:
    from codec.container import MAGIC

    with open(name, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC or name.endswith(".tok")


def _tok(name: str, model: str | None) -> dict[str, Any]:
    """Reads it all, salvaging, so that damage is told rather than an error; a bad header is one. Of a file whose prior is not here it
    tells what header and end say."""
    from codec.container import NoPrior, TokError, TokReader
    from codec.tokens import frames_for

    problem, priors, closed = None, () if model is None else priors_of(model), False
    try:
        with TokReader(name, prior=priors) as reader:
            for _ in reader.blocks():
                pass
    except NoPrior as error:
        problem, closed = f"{error}; name its model by --model to check it", True
    except TokError as error:
        problem = str(error)
    with TokReader(name, salvage=problem is not None, prior=priors) as reader:
        if closed:
            totals = reader.totals()
            blocks, samples = totals.num_blocks, totals.num_samples
        else:
            blocks, samples = sum(1 for _ in reader.blocks()), reader.num_samples
    spec = reader.spec
    bits, seconds = spec.frame_rate * spec.bits_per_frame(reader.num_codebooks), samples / reader.sample_rate
    asked = reader.header.bitrate
    return {
        "kind": "tok", "file": name, "model": spec.name, "fingerprint": spec.fingerprint,
        "decoder_fingerprint": spec.decoder_fingerprint, "seconds": seconds,
        "sample_rate": reader.sample_rate, "channels": reader.channels, "num_samples": samples,
        "num_frames": frames_for(samples, reader.sample_rate, spec), "frame_rate": spec.frame_rate,
        "num_codebooks": reader.num_codebooks, "codebook_sizes": list(spec.codebook_sizes),
        "model_sample_rate": spec.sample_rate, "bitrate": bits * reader.channels,
        **({} if asked is None else {"asked_bitrate": asked * reader.channels}),
        **{name: value for name, value in asdict(reader.header.correction).items() if value},
        "payload_bitrate": None if closed or reader.lost or not samples else 8 * reader.payload_bytes / seconds, "bytes": Path(name).stat().st_size,
        "blocks": blocks, "complete": problem is None or closed, "problem": problem,
        "lost_seconds": [[a / spec.frame_rate, b / spec.frame_rate] for a, b in reader.lost],
    }


def _audio(name: str) -> dict[str, Any]:
    from codec.audio import AudioReader

    with AudioReader(name) as reader:
        samples = reader.num_samples
        return {
            "kind": "audio", "file": name, "sample_rate": reader.sample_rate, "channels": reader.channels,
            "num_samples": samples, "seconds": None if samples is None else samples / reader.sample_rate,
            "bytes": Path(name).stat().st_size,
        }


def _model(name: str) -> dict[str, Any]:
    from codec import hub

    model = hub.load(name)
    place = hub.find(name)
    weights = place if place.is_file() else place / hub.WEIGHTS
    spec = model.spec
    return {
        "kind": "model", "name": model.config.name, "sample_rate": model.sample_rate, "frame_rate": model.frame_rate,
        "frame_size": model.frame_size, "output_sample_rate": model.output_sample_rate, "channels": model.channels,
        "num_codebooks": model.num_codebooks,
        "codebook_sizes": list(model.codebook_sizes),
        "bitrates": [model.bitrate(k) for k in model.quantizer.counts],
        "latency_ms": None if math.isnan(model.latency) else 1000 * model.latency,
        "fingerprint": spec.fingerprint, "decoder_fingerprint": spec.decoder_fingerprint,
        "encoder_parameters": sum(p.numel() for p in model.encoder.parameters()) or None,  # not known of a codec outside
        "decoder_parameters": sum(p.numel() for p in model.decoder.parameters()) or None,
        **{name: value for name in ("level", "spectrum") if (value := getattr(model.config, name)) is not None},
        "codebook_parameters": sum(value.numel() for value in model.quantizer.inference_state().values()),
        "bytes": weights.stat().st_size if weights.is_file() else None,
    }


def _words(key: str, value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "none" if key == "problem" else "not known"
    if key == "seconds":
        return duration(value)
    if key in ("sample_rate", "model_sample_rate", "output_sample_rate"):
        return f"{value} Hz"
    if key in ("bitrate", "bitrates", "asked_bitrate", "payload_bitrate"):
        rates = value if isinstance(value, list) else [value]
        return f"{', '.join(f'{rate / 1000:.4g}' for rate in rates)} kbit/s"
    if key == "gain_db":
        return f"{', '.join(f'{gain:+g}' for gain in value)} dB, taken off when decoded"
    if key == "eq_db":
        return f"{'; '.join(' '.join(f'{gain:+d}' for gain in row) for row in value)} dB in octaves from 125 Hz, taken off when decoded"
    if key == "spectrum":
        return f"{' '.join(f'{power:g}' for power in value)} dBFS in octaves from 125 Hz"
    if key == "level":
        return f"{value:g} dBFS"
    if key == "lost_seconds":
        return ", ".join(f"{a:.2f} to {b:.2f}" for a, b in value) or "none"
    if key == "codebook_sizes" and len(set(value)) == 1:
        return f"{len(value)} x {value[0]}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else value
