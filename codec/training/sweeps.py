"""Quality against steps: a sweep over the models that training keeps, beside the training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lightning

from codec.training.module import CodecTraining

FOLDER, LOG = "sweep", "sweep.log"
JOBS = 1


class Sweeps(lightning.Callback):
    """After every model that `Checkpoints` keeps, `codec sweep` over all of them, in a process of its own: `sweep/report.html` shows
    quality against steps. Models that come while it runs are taken when it is done; what is measured is not measured again.

    directory: of the run; every: steps between models that are kept; data: recordings, as for `codec sweep`; limit: how many of them.
    A sweep that fails is told, and training goes on. A run that is stopped before its last step does not wait for it: the same command
    goes on with both.
    """

    def __init__(self, directory: Path, every: int, data: str, limit: int):
        self.directory, self.every, self.data, self.limit = directory, every, data, limit
        self._process: subprocess.Popen | None = None
        self._waiting = False

    def on_train_batch_end(self, trainer, module: CodecTraining, *args) -> None:
        if not trainer.is_global_zero:
            return
        self._waiting = self._waiting or module.step % self.every == 0
        if self._waiting and self._ended():
            self._start(module)

    def on_train_end(self, trainer, module: CodecTraining) -> None:
        if not trainer.is_global_zero:
            return
        if module.step < module.recipe.schedule.steps:
            self._stop()
            return
        self._wait()
        if self._waiting:
            self._start(module)
            self._wait()

    def on_exception(self, trainer, module: CodecTraining, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        """Every cell that it has measured is on disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _start(self, module: CodecTraining) -> None:
        model, self._waiting = module.model, False
        if not model.quantizer.initialized:  # no model is kept before there are codebooks
            return
        counts = [k for k in (1, 2, 4, 8, 16, 32) if k in model.quantizer.counts[:-1]] + [model.num_codebooks]
        command = [
            sys.executable, "-m", "codec", "sweep", self.data, "--models", f"{self.directory}@steps", "--limit", str(self.limit),
            "--bitrates", ",".join(f"{model.bitrate(k) / 1000:g}" for k in counts), "--jobs", str(JOBS),
            "--out", str(self.directory / FOLDER),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with open(self.directory / LOG, "wb") as log:
            self._process = subprocess.Popen(  # Ctrl-C is for the training
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )

    def _ended(self) -> bool:
        if self._process is None:
            return True
        if (code := self._process.poll()) is None:
            return False
        self._process = None
        if code:
            print(f"\nthe sweep failed (exit code {code}): see {self.directory / LOG}", flush=True)
        return True

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait()
        self._ended()
