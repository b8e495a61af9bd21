"""What the discriminators cost: parameters, operations and CPU time, at our sizes and at the published ones.

    python benchmarks/discriminator_costs.py [--names mpd,msstft] [--teacher FOLDER] [--rate 16000] [--seconds 1] [--repeats 5] [--no-step]

Prints the tables of docs/discriminators.md; "whisper" is there with --teacher, the folder of a Whisper. Times are those of the processor, one thread: another program beside it
slows the clock on the wall, not this.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from speed import cpu_name, gflop
from torch import Tensor, nn

import discriminators
from discriminators.losses import discriminator_loss, feature_matching_loss, generator_loss
from discriminators.registry import FAMILIES

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
REFERENCE = ("msstft", "ours")  # what ratios are relative to


@dataclass
class Entry:
    """A discriminator at the size of a system, and noise (1, 1, T) for it to judge."""

    name: str
    system: str
    rate: int
    judge: nn.Module
    wav: Tensor


def entries(names: list[str], rate: int, seconds: float, teacher: str = "") -> Iterator[Entry]:
    """Every family at its defaults and as published; one that is published for a rate of its own has that. teacher: of "whisper"."""
    for name in names:
        for system, options in [("ours", {}), *FAMILIES[name].PUBLISHED.items()]:
            asks = "sample_rate" in inspect.signature(FAMILIES[name]).parameters
            options = ({"sample_rate": rate} if asks else {}) | ({"teacher": teacher} if name == "whisper" else {}) | dict(options)
            own = options.get("sample_rate", rate)
            judge = discriminators.build(name, **options).requires_grad_(False)
            wav = 0.1 * torch.randn(1, 1, max(round(own * seconds), judge.min_samples))
            yield Entry(name, system, own, judge, wav)


def cpu_ms(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return 1000 * (time.process_time() - start)


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def forward_time(entry: Entry, precision: str, repeats: int) -> float:
    """Median in ms per second of audio, over runs in a row."""
    with autocast(precision):
        taken = [cpu_ms(lambda: entry.judge(entry.wav)) for _ in range(repeats + 1)][1:]  # the first warms up
    return statistics.median(taken) / (entry.wav.shape[-1] / entry.rate)


def print_forward(listed: list[Entry], repeats: int) -> None:
    times = [{precision: forward_time(entry, precision, repeats) for precision in PRECISIONS} for entry in listed]
    base = next((t for e, t in zip(listed, times) if (e.name, e.system) == REFERENCE), None)
    print("| name | size | kHz | parameters, M | GFLOP per s | ms per s, fp32 | bf16 | × our `msstft`, fp32 | bf16 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for entry, taken in zip(listed, times):
        parameters = sum(p.numel() for p in entry.judge.parameters()) / 1e6
        flops = gflop(entry.judge, entry.wav) / (entry.wav.shape[-1] / entry.rate)
        ratios = [f"{taken[precision] / base[precision]:.2f}" if base else "-" for precision in PRECISIONS]
        row = [f"`{entry.name}`", entry.system, f"{entry.rate / 1000:g}", f"{parameters:.2f}", f"{flops:.2f}"]
        print("|", " | ".join([*row, *(f"{milliseconds:.0f}" for milliseconds in taken.values()), *ratios]), "|")


# A training step


def print_steps(seconds: float, repeats: int) -> None:
    """What a step of recipes/speech_16k.yaml takes for one crop, and with published discriminators for its own."""
    from codec.model import Codec
    from codec.training import recipe
    from codec.training.losses import SpectralLosses

    settings = recipe.load("speech_16k")
    torch.manual_seed(0)
    model = Codec(settings.model).train()
    losses = SpectralLosses(settings.model.sample_rate, settings.loss.spectral)
    wav = 0.1 * torch.randn(1, 1, round(seconds * settings.model.sample_rate))
    published = {
        "EnCodec's: `msstft`": [("msstft", "EnCodec")],
        "DAC's: `mpd`, `mrd`": [("mpd", "HiFi-GAN"), ("mrd", "DAC")],
        "X-Codec's: `mfd`": [("mfd", "X-Codec")],
    }
    adversaries = {"speech_16k's: `msstft`, `mpd`": settings.adversary.discriminators} | {
        name: [{"name": family, "options": FAMILIES[family].PUBLISHED[system]} for family, system in members]
        for name, members in published.items()
    }

    def codec_step() -> None:
        losses(model(wav, None, False).audio, wav).total.backward()

    print("| adversary | precision | codec and spectral losses, ms | discriminators, ms | their share of the step |")
    print("|---|---|---|---|---|")
    for name, members in adversaries.items():
        judge = discriminators.build_all(members)
        for precision in PRECISIONS:
            with autocast(precision):
                taken = [
                    (cpu_ms(codec_step), cpu_ms(lambda: adversarial_step(judge, wav, settings.adversary.kind)))
                    for _ in range(repeats + 1)
                ][1:]
            own, theirs = (statistics.median(values) for values in zip(*taken))
            print(f"| {name} | {precision} | {own:.0f} | {theirs:.0f} | {100 * theirs / (own + theirs):.0f} % |")


def adversarial_step(judge: nn.Module, wav: Tensor, kind: str) -> None:
    """The discriminator learns from a real and a decoded crop; then it judges both for the codec."""
    judge.requires_grad_(True)
    decoded = (wav + 0.01 * torch.randn_like(wav)).requires_grad_()
    discriminator_loss(judge(wav), judge(decoded.detach()), kind).backward()
    judge.requires_grad_(False)
    fake = judge(decoded)
    with torch.no_grad():
        real = judge(wav)
    (generator_loss(fake, kind) + feature_matching_loss(real, fake)).backward()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", help="of families (all; whisper with --teacher alone)")
    parser.add_argument("--teacher", default="", help="folder of a Whisper, for whisper")
    parser.add_argument("--rate", type=int, default=16_000, help="of the audio, Hz (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of audio (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of which the medians count (%(default)s)")
    parser.add_argument("--no-step", action="store_true", help="leave out the training step")
    args = parser.parse_args(argv)
    every = [name for name in discriminators.available() if name != "whisper" or args.teacher]
    args.names = every if args.names is None else args.names.split(",")
    unknown = [name for name in args.names if name not in FAMILIES]
    if unknown:
        known = ", ".join(discriminators.available())
        parser.error(f"no discriminator is called {', '.join(unknown)}; there is {known}")
    if "whisper" in args.names and not args.teacher:
        parser.error("whisper needs --teacher, the folder of a Whisper")
    if args.rate < 1 or args.repeats < 1 or not 0 < args.seconds < 3600:
        parser.error("--rate, --repeats and --seconds must be above 0")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{cpu_name()}, 1 thread, torch {torch.__version__}, {args.seconds:g} s of audio, medians of {args.repeats}")
    print()
    print_forward(list(entries(args.names, args.rate, args.seconds, args.teacher)), args.repeats)
    if not args.no_step:
        print()
        print_steps(args.seconds, args.repeats)


if __name__ == "__main__":
    main()
