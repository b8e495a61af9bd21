"""What happens beside the steps: resume checkpoints, validation with averaged weights, stopping on time."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from pathlib import Path

import lightning
import numpy as np
import soundfile
import torch
from torch import Tensor

from codec import hub
from codec.audio.mel import mel_filters
from codec.training.losses import MEL_FLOOR
from codec.training.module import CodecTraining
from codec.training.spectra import Spectrum

LAST = "last.ckpt"


class Checkpoints(lightning.Callback):
    """Writes `last.ckpt` (all that resuming needs) and `model/` (the averaged weights, loadable) every `every` steps, at
    the end, and when a run is interrupted; and every `keep` steps `checkpoints/STEP/`, a model of that step, which
    `codec sweep` compares.

    Lightning's own callback counts the steps of both optimisers, so it is not used. Files are written beside and renamed.
    """

    def __init__(self, directory: Path, every: int, keep: int = 0):
        self.directory, self.every, self.keep = directory, every, keep

    def on_train_batch_end(self, trainer, module: CodecTraining, *args) -> None:
        if module.step % self.every == 0:
            self.save(trainer, module)
        if self.keep and module.step % self.keep == 0 and trainer.is_global_zero:
            self.save_model(module, self.directory / "checkpoints" / f"{module.step:07d}")

    def on_train_end(self, trainer, module: CodecTraining) -> None:
        self.save(trainer, module)

    def on_exception(self, trainer, module: CodecTraining, exception: BaseException) -> None:
        if isinstance(exception, SystemExit):  # what Lightning makes of SIGTERM, between two steps
            self.save(trainer, module)

    def save(self, trainer, module: CodecTraining) -> None:
        temporary = self.directory / f".{LAST}.{os.getpid()}"
        trainer.save_checkpoint(temporary, weights_only=False)  # with the optimisers
        if trainer.is_global_zero:
            os.replace(temporary, self.directory / LAST)
            self.save_model(module, self.directory / "model")

    @staticmethod
    def save_model(module: CodecTraining, folder: Path) -> None:
        """The averaged weights, as soon as there are codebooks."""
        if module.model.quantizer.initialized:
            with module.ema.swapped(module.model):
                hub.save(module.model, folder)


class Validation(lightning.Callback):
    """Every `every` steps: encode and decode the validation items with the averaged weights at 1, 2, 4, ... codebooks.

    Writes `validation.csv` (PESQ-wb and STOI where the `[eval]` extra is installed, mel distance always), the audio of
    the first items, and as `best/` the loadable model with the best score so far (PESQ + 4 * STOI with all codebooks, or
    the lowest mel distance).
    """

    def __init__(self, directory: Path, every: int, items: list[np.ndarray]):
        self.directory, self.every, self.items = directory, every, items
        self.best = -float("inf")

    def on_train_batch_end(self, trainer, module: CodecTraining, *args) -> None:
        if module.step % self.every == 0:
            self.run(trainer, module)

    def on_train_end(self, trainer, module: CodecTraining) -> None:
        if module.step % self.every:
            self.run(trainer, module)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best = state["best"]

    def run(self, trainer, module: CodecTraining) -> None:
        if not trainer.is_global_zero or not module.model.quantizer.initialized:
            return
        model, started = module.model, time.monotonic()
        with module.ema.swapped(model), torch.autocast(module.device.type, enabled=False):
            model.eval()
            try:
                counts = [k for k in (1, 2, 4, 8, 16, 32) if k in model.quantizer.counts[:-1]] + [model.num_codebooks]
                rows = [{"step": module.step, "codebooks": k, **self.measure(module, model, k)} for k in counts]
                self.report(trainer, rows, time.monotonic() - started)
                score = rows[-1]["pesq"] + 4 * rows[-1]["stoi"] if rows[-1]["pesq"] else -rows[-1]["mel"]
                if score > self.best:
                    self.best = score
                    hub.save(model, self.directory / "best")
            finally:
                model.train()

    def measure(self, module: CodecTraining, model, k: int) -> dict[str, float | None]:
        """Means over the validation items at k codebooks."""
        pesq, stoi, distance = [], [], []
        rate = model.output_sample_rate
        for index, item in enumerate(self.items):
            decoded = model.decode(model.encode(item, rate, num_codebooks=k))[0, 0]
            distance.append(float(mel_distance(decoded, torch.from_numpy(item), rate)))
            scores = speech_scores(item, decoded.numpy(), rate)
            if scores:
                pesq.append(scores[0])
                stoi.append(scores[1])
            if index < 2:
                folder = self.directory / "audio"
                folder.mkdir(exist_ok=True)
                soundfile.write(folder / f"{index}_{k}.wav", decoded.clamp(-1, 1).numpy(), rate)
        return {
            "pesq": float(np.mean(pesq)) if pesq else None, "stoi": float(np.mean(stoi)) if stoi else None,
            "mel": float(np.mean(distance)),
        }

    def report(self, trainer, rows: list[dict], seconds: float) -> None:
        path = self.directory / "validation.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            if new:
                writer.writeheader()
            writer.writerows(rows)
        shown = "  ".join(
            f"k={row['codebooks']} " + (f"pesq {row['pesq']:.3f} stoi {row['stoi']:.3f}" if row["pesq"] else f"mel {row['mel']:.3f}")
            for row in rows
        )
        print(f"\nstep {rows[0]['step']}: {shown}  ({seconds:.0f} s)", flush=True)
        for logger in trainer.loggers:
            for row in rows:
                logger.log_metrics(
                    {f"valid/{name}_{row['codebooks']}": value for name, value in row.items()
                     if name in ("pesq", "stoi", "mel") and value is not None}, step=rows[0]["step"],
                )


class Interrupt(lightning.Callback):
    """The first Ctrl-C ends the run after its step, so that no checkpoint holds half of one; the second one kills it."""

    def on_train_start(self, trainer, module) -> None:
        def stop(*_: object) -> None:
            trainer.should_stop = True
            signal.signal(signal.SIGINT, self.previous)

        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, stop)

    def on_train_end(self, trainer, module) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.previous)


class Deadline(lightning.Callback):
    """Stops after so many minutes; the checkpoint that follows resumes the run."""

    def __init__(self, minutes: float):
        self.minutes, self.end = minutes, None

    def on_train_start(self, trainer, module) -> None:
        self.end = time.monotonic() + 60 * self.minutes

    def on_train_batch_end(self, trainer, module, *args) -> None:
        if trainer.strategy.reduce_boolean_decision(time.monotonic() > self.end, all=False):  # all processes at one step
            trainer.should_stop = True


def speech_scores(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> tuple[float, float] | None:
    """(PESQ-wb, STOI) at 16 kHz, or None when the packages are missing, the rate is another or PESQ finds no speech."""
    if sample_rate != 16_000:
        return None
    try:
        from pesq import PesqError, pesq
        from pystoi import stoi
    except ImportError:
        return None
    try:
        return pesq(sample_rate, reference, decoded, "wb"), float(stoi(reference, decoded, sample_rate))
    except PesqError:
        return None


def mel_distance(decoded: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute difference of log10 mel spectra (80 bands, windows of 64 ms), both (T,)."""
    size = 2 ** round(np.log2(0.064 * sample_rate))
    filters = torch.tensor(mel_filters(sample_rate, size, 80).T, dtype=torch.float32)  # (bins, bands)
    first, second = (
        (Spectrum(wav.float()[None], size, torch.hann_window(size)).magnitude(MEL_FLOOR) @ filters).log10() for wav in (decoded, reference)
    )
    return (first - second).abs().mean()
