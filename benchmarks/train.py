"""How fast a recipe trains: seconds of audio a second, where the time of a step goes, and the share of the processor's peak.

    python benchmarks/train.py [speech_16k] [data.train=FOLDER] [key=value ...] [--steps 20]

Takes any recipe and overrides as `codec train` does, on whatever accelerator they say; noise is the data where none is given.
docs/performance.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

from codec.training import recipe as recipes
from codec.training.module import CodecTraining
from codec.training.run import train
from speed import cpu_name, positive

WARM = 3  # steps before the first that counts


class Clock(lightning.Callback):
    """Seconds of each step and of the wait for its data, after WARM steps; the arithmetic of one step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.waits: list[float] = []
        self.flops = 0.0
        self._ended: float | None = None
        self._counter = contextlib.nullcontext()

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self._started = _now()
        if self._ended is not None and batch_idx >= WARM:
            self.waits.append(self._started - self._ended)
        if batch_idx == WARM - 1:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if batch_idx == WARM - 1:
            self._counter.__exit__(None, None, None)
            self.flops = self._counter.get_total_flops()
        self._ended = _now()
        if batch_idx >= WARM:
            self.steps.append(self._ended - self._started)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(recipe: recipes.Recipe, steps: int, judged: bool, folder: Path) -> Clock:
    """Train for some steps, each with or each without the discriminators."""
    adversary = replace(recipe.adversary, start=0 if judged else steps + WARM + 1, every=1)
    schedule = replace(recipe.schedule, steps=steps + WARM)
    run = replace(recipe.run, out=str(folder), checkpoint_every=10**9, valid_every=10**9)
    clock, callbacks = Clock(), CodecTraining.configure_callbacks
    CodecTraining.configure_callbacks = lambda self: [clock]  # as a module may bring its own
    try:
        train(replace(recipe, adversary=adversary, schedule=schedule, run=run), progress=False)
    finally:
        CodecTraining.configure_callbacks = callbacks
    return clock


def peak(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a product of 4096 x 4096 matrices there (2048 on a CPU)."""
    size = 4096 if device == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    times = []
    for _ in range(8):
        start = _now()
        a @ b
        times.append(_now() - start)
    return 2 * size**3 / statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="speech_16k", help="a name or a file (%(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for codec train")
    parser.add_argument("--steps", type=positive(int), default=20, help="that are timed (%(default)s)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    name, overrides = args.recipe, args.overrides
    if "=" in name:
        name, overrides = "speech_16k", [name, *overrides]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not any(one.startswith("data.train=") for one in overrides):
            (folder / "noise").mkdir()
            for number in range(8):
                samples = 0.1 * np.random.default_rng(number).standard_normal(16_000 * 10)
                soundfile.write(folder / "noise" / f"{number}.wav", samples, 16_000)
            overrides = [*overrides, f"data.train={folder / 'noise'}"]
        recipe = recipes.load(name, overrides)
        alone, judged = (timed(recipe, args.steps, also, folder / str(also)) for also in (False, True))
    device = "cuda" if torch.cuda.is_available() and recipe.run.accelerator in ("auto", "gpu", "cuda") else "cpu"
    dtype = torch.float32 if recipe.run.precision in ("32", "32-true") else torch.bfloat16
    generator, both, wait = (statistics.median(times) for times in (alone.steps, judged.steps, judged.waits))
    audio, whole = recipe.data.batch_size * recipe.data.crop_seconds, both + wait
    where = torch.cuda.get_device_name() if device == "cuda" else f"{cpu_name()}, {torch.get_num_threads()} threads"
    print(f"{recipe.model.name} on {where}, {recipe.data.batch_size} x {recipe.data.crop_seconds:g} s a step, the discriminators in "
          f"every step, medians of {args.steps}\n")
    print("| s of audio a second | step, s | data | codec and losses | discriminators | GFLOP a step | of peak |\n" + "|---" * 7 + "|")
    print(f"| {audio / whole:.1f} | {whole:.3f} | {wait / whole:.1%} | {generator / whole:.1%} | {(both - generator) / whole:.1%} "
          f"| {judged.flops / 1e9:.0f} | {judged.flops / both / peak(device, dtype):.1%} |")


if __name__ == "__main__":
    main()
