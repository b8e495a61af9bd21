"""Write a model for other runtimes: ONNX files, or packages of torch.export.

OUT is a new folder with `encoder` and `decoder` for whole signals and, where the model streams, `encoder_step` and
`decoder_step`, which take a frame and a state. Each is compared with the live model before it is kept.
"""

from __future__ import annotations

import argparse

from codec.cli.common import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name or folder of a model")
    parser.add_argument("output", metavar="OUT", help="folder to make")
    parser.add_argument("--format", choices=["onnx", "torch"], default="onnx", help="of the files (default: onnx)")
    parser.add_argument("--codebooks", type=int, metavar="K", help="that are coded (default: all)")


def run(args: argparse.Namespace) -> None:
    from codec.export import export

    out = export(load_model(args.model, "cpu"), args.output, args.format, args.codebooks)
    for path in sorted(path for path in out.iterdir() if path.suffix != ".json"):
        print(f"{args.output}/{path.name}: {path.stat().st_size / 1e6:.1f} MB, checked")
