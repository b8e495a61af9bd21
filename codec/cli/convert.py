"""Convert a published model (a `transformers` folder or hub id) into this project's layout.

SRC is a folder with config.json and model.safetensors, or a hub id (owner/name). OUT is a new folder, which appears whole or
not at all. Weights stay float32, unless they are of half precision already: rounding would change tokens.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
from pathlib import Path

from codec.cli.common import kbits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder, file of weights or hub id of the published model")
    parser.add_argument("output", metavar="OUT", help="folder to make")


def run(args: argparse.Namespace) -> None:
    from codec import hub
    from codec.convert import convert

    out = Path(args.output).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{args.output}: is there already: name a new folder")
    if not out.parent.is_dir():
        raise ValueError(f"cannot write {args.output}: {out.parent} does not exist: make it first")
    model = convert(hub.find(args.source), hub.fetch_for(args.source))
    dtype = hub.exact_dtype(model)
    beside = out.with_name(f".{out.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        hub.save(model, beside, dtype)
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(
        f"{args.output}: {model.config.name}, {model.sample_rate / 1000:g} kHz, {model.frame_rate:g} frames/s, "
        f"{model.num_codebooks} codebooks of {model.codebook_size}, up to {kbits(model.bitrate())}, {str(dtype)[6:]}"
    )
