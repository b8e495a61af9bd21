"""What a metric says of itself, and what computes it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from codec.evaluation.sound import Sound

HIGHER, LOWER = "higher", "lower"
EXTRA = 'pip install "neural-codec-toolkit[eval]"'


class MetricError(ValueError):
    """Metrics that cannot be had as they are asked for; one line that says why and how to mend it."""


class Unjudged(Exception):
    """A metric has no value for this recording; one line that says why. The others go on."""


@dataclass(frozen=True)
class Metric:
    """Facts of one figure.

    name: in `--metrics` and tables; title: for people; unit: of the values; better: "higher" or "lower"; source: where it
    is defined; licence: of the program that computes it; install: the command that brings that; modules: what the command
    brings; level: "pair" compares original and decoded speech, "alone" hears the decoded speech only, "codes" is of the codes
    of one recording, "set" of all recordings of a cell together, "task" is of probes that are trained on them; weighted: a mean
    over recordings counts each by its weight; option: the one of `Options` that decides what the values are.
    """

    name: str
    title: str
    unit: str
    better: str
    source: str
    licence: str
    install: str = ""
    modules: tuple[str, ...] = ()
    level: str = "pair"
    weighted: bool = False
    digits: int = 3
    option: str = ""

    def missing(self) -> str:
        """The command that installs what is not there, empty where all is."""
        return self.install if any(importlib.util.find_spec(module) is None for module in self.modules) else ""


@dataclass(frozen=True)
class Options:
    """What some metrics must be told, empty where nothing is said. asr: Whisper, a size or a folder of CTranslate2; ecapa: folder with
    model.safetensors; embedding: of the Fréchet distance, "mel" if not said."""

    asr: str = ""
    ecapa: str = ""
    embedding: str = ""


@dataclass(frozen=True)
class Coded:
    """What a system made of one recording.

    wav (T,) at the original's rate, as long as that; bits: that it took; encoding, decoding: seconds of processor time;
    codes (K, frames) or None: of systems with tokens; recode: samples (T,) at `rate` to codes (K, frames), for robustness;
    blocks: gives the bits of the blocks of its .tok file, entropy-coded (with the model's prior, where it has one) and bit-packed.
    """

    sound: Sound
    bits: float
    encoding: float
    decoding: float
    codes: np.ndarray | None = None
    sizes: tuple[int, ...] = ()
    frame_seconds: float = 0.0
    recode: Any = field(default=None, repr=False)
    blocks: Any = field(default=None, repr=False)


class Judge(Protocol):
    """Computes one metric, or several that share their work.

    A judge is built once in each process, as `judge(options)`, and raises MetricError when it lacks files.
    """

    metrics: Sequence[Metric]

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float | tuple[float, float]]:
        """Name -> value, or (value, weight). Raises Unjudged."""
        ...


def folder_with(folder: str, file: str, option: str) -> Path:
    """Raises MetricError unless there is such a file."""
    if not folder:
        raise MetricError(f"{option} DIR is not given: a folder with {file}")
    if not (Path(folder) / file).is_file():
        raise MetricError(f"{folder} holds no {file}, which {option} needs")
    return Path(folder)
