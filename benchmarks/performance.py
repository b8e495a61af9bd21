"""One table of what codecs cost on a CPU: speed, steps of live coding, memory, arithmetic.

    python benchmarks/performance.py [--systems speech-16k,encodec,mimi,...] [--seconds 10] [--lyra DIR]

Every codec runs in a process of its own, with random weights where it is not ours (speed does not depend on them), on
one thread. docs/performance.md has the latest table and says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from typing import Any

STEPS = 300  # of live coding, after WARM more
WARM = 30
REPEATS = 5


@dataclass
class System:
    """A codec, loaded. encode(wav) gives what decode takes; `live` gives functions of no arguments that code one step of
    `step` seconds each, where the codec can be run live."""

    rate: int
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    make: Callable[[float], Any]  # seconds to a signal for encode
    step: float = 0.0
    live: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]] | None = None


def noise(rate: int, seconds: float, *shape: int):
    import torch

    return 0.1 * torch.randn(*shape, round(rate * seconds), generator=torch.Generator().manual_seed(0))


def ours(name: str) -> System:
    import codec

    model = codec.load(name)

    def live():
        stream = model.stream()
        chunk = noise(model.sample_rate, 1 / model.frame_rate, 1, 1)
        codes = stream.encode(chunk)
        return lambda: stream.encode(chunk), lambda: stream.decode(codes)

    return System(model.sample_rate, model.encode, model.decode, lambda s: noise(model.sample_rate, s), 1 / model.frame_rate, live)


def encodec(_: str) -> System:
    from encodec import EncodecModel

    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(6.0)
    return System(24_000, model.encode, model.decode, lambda s: noise(24_000, s, 1, 1))


def mimi_transformers(_: str) -> System:
    import transformers

    model = transformers.MimiModel(transformers.MimiConfig()).eval()

    def live():
        chunk = noise(24_000, 0.08, 1, 1)
        first = model.encode(chunk, use_streaming=True)
        state = {"encode": (first.encoder_past_key_values, first.padding_cache), "decode": None}

        def encode():
            past, padding = state["encode"]
            found = model.encode(chunk, encoder_past_key_values=past, padding_cache=padding, use_streaming=True)
            state["encode"] = found.encoder_past_key_values, found.padding_cache

        def decode():  # its decoder keeps no state of the convolutions: as fast, but not the same samples
            found = model.decode(first.audio_codes, decoder_past_key_values=state["decode"])
            state["decode"] = found.decoder_past_key_values

        return encode, decode

    return System(24_000, model.encode, lambda found: model.decode(found.audio_codes), lambda s: noise(24_000, s, 1, 1), 0.08, live)


def mimi_moshi(_: str) -> System:
    from moshi.models import loaders

    model = loaders.get_mimi(None, device="cpu").eval()

    def live():
        chunk = noise(24_000, 0.08, 1, 1)
        codes = model.encode(chunk)
        model.streaming_forever(1)
        return lambda: model.encode(chunk), lambda: model.decode(codes)

    return System(24_000, model.encode, model.decode, lambda s: noise(24_000, s, 1, 1), 0.08, live)


def dac(_: str) -> System:
    import transformers

    model = transformers.DacModel(transformers.DacConfig()).eval()  # 16 kHz
    return System(16_000, model.encode, lambda found: model.decode(audio_codes=found.audio_codes), lambda s: noise(16_000, s, 1, 1))


def snac(_: str) -> System:
    from snac import SNAC

    model = SNAC().eval()  # 24 kHz is what its defaults are
    return System(model.sampling_rate, model.encode, model.decode, lambda s: noise(model.sampling_rate, s, 1, 1))


def lyra(folder: str) -> System:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    def network(name: str):
        made = Interpreter(str(Path(folder) / f"{name}.tflite"), num_threads=1)
        made.allocate_tensors()
        return made

    def through(net, x):
        net.set_tensor(net.get_input_details()[0]["index"], x)
        net.invoke()
        return net.get_tensor(net.get_output_details()[0]["index"])

    encoder, quantizer, decoder = map(network, ("soundstream_encoder", "quantizer", "lyragan"))
    to_codes, to_features = (quantizer.get_signature_runner(name) for name in ("encode", "decode"))

    def encode(wav):
        return [to_codes(input_frames=through(encoder, frame), num_quantizers=np.int32(46))["output_0"]
                for frame in wav.reshape(-1, 1, 320)]

    def decode(codes):
        return [through(decoder, to_features(encoding_indices=code)["output_0"]) for code in codes]

    def make(seconds: float):
        return (0.1 * np.random.default_rng(0).standard_normal(round(50 * seconds) * 320)).astype(np.float32)

    chunk = make(0.02)
    codes = encode(chunk)
    return System(16_000, encode, decode, make, 0.02, lambda: (lambda: encode(chunk), lambda: decode(codes)))


def opus(_: str) -> System:
    """By its programs: their processor time, starting them included."""
    import soundfile

    folder = Path(tempfile.mkdtemp())

    def run(*command: Any) -> None:
        subprocess.run([str(part) for part in command], check=True, capture_output=True)

    def make(seconds: float) -> Path:
        soundfile.write(folder / "in.wav", noise(16_000, seconds).numpy(), 16_000)
        return folder / "in.wav"

    def encode(path: Path) -> Path:
        run("opusenc", "--bitrate", 12, "--framesize", 20, path, folder / "a.opus")
        return folder / "a.opus"

    return System(16_000, encode, lambda path: run("opusdec", path, folder / "out.wav"), make)


SYSTEMS: dict[str, tuple[str, Callable[[str], System], str]] = {  # name: title, how it is made, what installs it
    "speech-16k": ("speech-16k, 4 kbit/s", ours, ""),
    "speech-16k-semantic": ("speech-16k-semantic, 4 kbit/s", ours, ""),
    "encodec": ("EnCodec 24 kHz, 6 kbit/s (encodec)", encodec, "pip install encodec"),
    "mimi": ("Mimi, 4.4 kbit/s (transformers)", mimi_transformers, "pip install transformers"),
    "moshi": ("Mimi, 1.1 kbit/s (moshi)", mimi_moshi, "pip install moshi"),
    "dac": ("DAC 16 kHz, 6 kbit/s (transformers)", dac, "pip install transformers"),
    "snac": ("SNAC 24 kHz, 1 kbit/s (snac)", snac, "pip install snac"),
    "lyra": ("Lyra v2, 9.2 kbit/s (TFLite)", lyra, "pip install ai-edge-litert, and --lyra DIR with its .tflite files"),
    "opus": ("Opus, 12 kbit/s (opus-tools, with process start)", opus, "apt install opus-tools"),
}


def processor() -> float:
    """Seconds of this process and of those it waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(function: Callable, *arguments: Any) -> tuple[float, Any]:
    start = processor()
    result = function(*arguments)
    return processor() - start, result


def peak_gflops() -> float:
    """Of a float32 product of 2048 x 2048 matrices by oneDNN, in 10^9 a second."""
    import torch

    a, b = torch.randn(2, 2048, 2048)
    times = [timed(torch.ops.mkldnn._linear_pointwise, a, b, None, "none", [], "")[0] for _ in range(6)]
    return 2 * 2048**3 / statistics.median(times[1:]) / 1e9


def gflop(function: Callable, argument: Any) -> float | None:
    """What torch counts of one call, in 10^9; None for what does not run in torch. Fourier transforms count nothing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    products = {  # of shapes
        torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0],
        torch.ops.quantized.linear_dynamic_fp16: lambda x, *_, out_shape, **__: 2 * math.prod(x) * out_shape[-1],
    }
    counting = FlopCounterMode(display=False, custom_mapping=products)
    seen = mock.patch("quantizers.half_weights._DIRECT", None)  # by ways that torch can count
    with torch.backends.mkldnn.flags(enabled=False), seen, counting as counter:
        function(argument)
    return counter.get_total_flops() / 1e9 or None


def megabytes(name: str) -> float:
    """A line of what Linux says of this process: VmHWM, the most memory so far, or VmRSS, that of now."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000


def measure(name: str, argument: str, seconds: float) -> dict[str, Any]:
    """In a process of its own."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, Any] = {}
    with torch.no_grad():
        before = megabytes("VmRSS")
        system = SYSTEMS[name][1](argument)
        wav = system.make(seconds)
        codes = system.encode(wav)
        system.decode(codes)
        result["memory"] = megabytes("VmHWM") - before
        result["peak"] = peak_gflops()
        encoding, decoding = [], []
        for _ in range(REPEATS):
            taken, codes = timed(system.encode, wav)
            encoding.append(taken)
            decoding.append(timed(system.decode, codes)[0])
        result["encode"], result["decode"] = (seconds / statistics.median(times) for times in (encoding, decoding))
        if name not in ("lyra", "opus"):
            result["encode_gflop"], result["decode_gflop"] = gflop(system.encode, wav), gflop(system.decode, codes)
            result = {k: v / seconds if "gflop" in k and v else v for k, v in result.items()}
        if system.live is not None:
            result["step"] = 1000 * system.step
            for side, function in zip(("encode_step", "decode_step"), system.live()):
                for _ in range(WARM):
                    function()
                times = []
                for _ in range(STEPS):
                    start = time.perf_counter()
                    function()
                    times.append(1000 * (time.perf_counter() - start))
                cuts = statistics.quantiles(times, n=100)
                result[side] = [cuts[49], cuts[94], cuts[98]]
    return result


def row(title: str, found: dict[str, Any]) -> str:
    def steps(side: str) -> str:
        return " / ".join(f"{value:.2f}" for value in found[side]) if side in found else "-"

    def arithmetic(side: str) -> str:
        work = found.get(f"{side}_gflop")
        return f"{work:.2f} ({work * found[side] / found['peak']:.0%})" if work else "-"

    step = f"{found['step']:g}" if "step" in found else "-"
    return (f"| {title} | {found['encode']:.1f} | {found['decode']:.1f} | {step} | {steps('encode_step')} | {steps('decode_step')} "
            f"| {found['memory']:.0f} | {arithmetic('encode')} | {arithmetic('decode')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="of " + ", ".join(SYSTEMS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio (%(default)s)")
    parser.add_argument("--lyra", default="", metavar="DIR", help="with the .tflite files of Lyra v2")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.lyra if args.one == "lyra" else args.one, args.seconds)))
        return
    print("| codec | encode, × real time | decode, × real time | step, ms | to encode one: p50 / p95 / p99, ms "
          "| to decode one, ms | memory, MB | encode, GFLOP per s (of peak) | decode |\n" + "|---" * 9 + "|")
    for name in args.systems.split(","):
        if name not in SYSTEMS:
            parser.error(f"there is no {name}: take of {', '.join(SYSTEMS)}")
        title, _, remedy = SYSTEMS[name]
        missing = name == "opus" and not shutil.which("opusenc") or name == "lyra" and not args.lyra
        command = [sys.executable, __file__, "--one", name, "--seconds", str(args.seconds), "--lyra", args.lyra]
        done = None if missing else subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done is None or done.returncode:
            why = "" if done is None else f" ({(done.stderr.strip().splitlines() or ['no reason given'])[-1]})"
            print(f"{name} is left out: {remedy}{why}", file=sys.stderr)
            continue
        print(row(title, json.loads(done.stdout.strip().splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
