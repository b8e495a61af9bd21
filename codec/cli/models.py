"""List the models in the box."""

from __future__ import annotations

import argparse

from codec.cli.common import kbits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    from codec import hub

    names = hub.models()
    if not names:
        raise ValueError("there is no model in the box: give --model DIR, or train one")
    for name in names:
        model = hub.load(name)
        mark = " (default)" if name == hub.DEFAULT else ""
        print(
            f"{name}{mark}: {model.sample_rate / 1000:g} kHz mono, {model.frame_rate:g} frames/s, "
            f"{model.num_codebooks} codebooks of {model.codebook_size}, {kbits(model.bitrate(model.quantizer.counts[0]))} to "
            f"{kbits(model.bitrate())}, latency {1000 * model.latency:g} ms"
        )
