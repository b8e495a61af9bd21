"""How fast this project's codec is, against EnCodec 24 kHz of the `encodec` package, on the same CPU in the same run.

    python benchmarks/speed.py [--model NAME_OR_DIR | --config RECIPE] [--seconds 10] [--repeats 7] [--threads 1]

docs/benchmarks.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

import codec
from codec import hub
from codec.training import recipe


@dataclass
class Contestant:
    """A codec, noise for it to code, and how: encode(wav) gives what decode takes."""

    name: str
    wav: Any
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def ours(model: codec.Codec, seconds: float) -> Contestant:
    """All codebooks, through the public face of the model."""
    wav = noise(seconds, model.sample_rate)[0, 0]  # (T,)
    return Contestant(f"{model.config.name}, {model.bitrate() / 1000:g} kbit/s", wav, model.encode, model.decode)


def encodec(seconds: float) -> Contestant:
    """EnCodec 24 kHz at 6 kbit/s with random weights: speed does not depend on them."""
    try:
        from encodec import EncodecModel
    except ImportError as error:
        sys.exit(f"the comparison needs the encodec package ({error}): pip install encodec torchaudio")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its weight_norm is of the old kind
        model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(6.0)
    return Contestant("EnCodec 24 kHz, 6 kbit/s", noise(seconds, model.sample_rate), model.encode, model.decode)


def noise(seconds: float, rate: int) -> torch.Tensor:
    """(1, 1, T) at -20 dBFS."""
    return 0.1 * torch.randn(1, 1, round(seconds * rate), generator=torch.Generator().manual_seed(0))


def timed(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(argument)
    return time.perf_counter() - start, result


def gflop(function: Callable[[Any], Any], argument: Any) -> float:
    """Multiplications and additions, in 10^9. Without oneDNN an LSTM is made of products that are counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the TF32 of other hardware
        products = {  # of shapes
            torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0],
            torch.ops.quantized.linear_dynamic_fp16: lambda x, *_, out_shape, **__: 2 * math.prod(x) * out_shape[-1],
        }
        counting = FlopCounterMode(display=False, custom_mapping=products)
        seen = mock.patch("quantizers.half_weights._DIRECT", None)  # by ways that torch can count
        with torch.backends.mkldnn.flags(enabled=False), seen, counting as counter:
            function(argument)
    return counter.get_total_flops() / 1e9


@torch.no_grad()
def measure(contestants: list[Contestant], seconds: float, repeats: int) -> list[tuple[float, float, float, float]]:
    """For each: seconds of audio a second, encoding and decoding (medians), and GFLOP per second of audio of both."""
    flops = []
    for one in contestants:  # also warms up
        codes = one.encode(one.wav)
        one.decode(codes)
        flops.append((gflop(one.encode, one.wav) / seconds, gflop(one.decode, codes) / seconds))
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in contestants]
    for _ in range(repeats):
        for one, (encoding, decoding) in zip(contestants, times):
            taken, codes = timed(one.encode, one.wav)
            encoding.append(taken)
            decoding.append(timed(one.decode, codes)[0])
    return [
        (seconds / statistics.median(encoding), seconds / statistics.median(decoding), *counts)
        for (encoding, decoding), counts in zip(times, flops)
    ]


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def positive(kind: type) -> Callable[[str], Any]:
    """For argparse: numbers above 0."""

    def convert(text: str) -> Any:
        if not 0 < kind(text) < float("inf"):
            raise argparse.ArgumentTypeError("must be above 0")
        return kind(text)

    return convert


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default=hub.DEFAULT, help="name or directory of a model (%(default)s)")
    which.add_argument("--config", help="a recipe, by name or path: its model with random weights, which is as fast")
    parser.add_argument("--seconds", type=positive(float), default=10.0, help="of audio (%(default)s)")
    parser.add_argument("--repeats", type=positive(int), default=7, help="of which the medians count (%(default)s)")
    parser.add_argument("--threads", type=positive(int), default=1, help="of the CPU (%(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        model = codec.Codec(recipe.load(args.config).model).eval() if args.config else codec.load(args.model)
    except ValueError as error:
        sys.exit(str(error))
    contestants = [ours(model, args.seconds), encodec(args.seconds)]
    results = measure(contestants, args.seconds, args.repeats)
    print(f"{cpu_name()}, {args.threads} thread{'s'[: args.threads > 1]}, torch {torch.__version__}, "
          f"{args.seconds:g} s of audio, medians of {args.repeats}\n")
    print("| codec | encode, × real time | decode, × real time | encode, GFLOP per s | decode, GFLOP per s |")
    print("|---|---|---|---|---|")
    for one, (encode, decode, encode_flop, decode_flop) in zip(contestants, results):
        print(f"| {one.name} | {encode:.1f} | {decode:.1f} | {encode_flop:.2f} | {decode_flop:.2f} |")
    ratios = [a / b for a, b in zip(*results)]
    print(f"| ratio | **{ratios[0]:.1f}** | **{ratios[1]:.1f}** | {ratios[2]:.3f} | {ratios[3]:.3f} |")


if __name__ == "__main__":
    main()
