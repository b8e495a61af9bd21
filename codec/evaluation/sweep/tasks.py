"""Machines in place of ears: probes that are trained on what a system makes of labelled recordings, and asked about others of them.

What each recording is like after coding is on disk when all cells are measured: spectra for probes of audio, codes for those of tokens.
The probes of one metric of one system at one setting are then a task of a process, whose answers are kept in OUT/tasks/.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codec.atomic import put
from codec.evaluation.datasets import Item
from codec.evaluation.metrics import Metric
from codec.evaluation.metrics.tasks import AUDIO, HEARD, HOP, RATE
from codec.evaluation.probe_report import Missing, ProbeError
from codec.evaluation.sweep import keep
from codec.evaluation.sweep.cells import Cell
from codec.evaluation.sweep.choose import Left
from codec.evaluation.sweep.labelled import Labelled, labelled
from codec.evaluation.systems import ORIGINAL, Setting, System

VERSION = 1  # of the probes: change it whenever they give other answers
FOLDER = "tasks"
ALL = "all recordings: "  # of the cell that stands for them
STEPS = 300  # of training, as in `codec probe`
PIECE_SECONDS = 2.0  # of which speakers are told
NOTHING = "no recording of it is left to train on"


@dataclass(frozen=True, eq=False)
class Probing:
    """One metric of one system at one setting. coded: the cells of its recordings; number: of the system among those of the plan;
    cells: as of a `worker.Task`, one that stands for all."""

    metric: str
    labelled: Labelled
    coded: tuple[Cell, ...]
    number: int
    setting: Setting
    cells: tuple[tuple[int, Setting, Cell, tuple[str, ...]], ...]

    def path(self, out: str | Path) -> Path:
        """Of its answers: other recordings, labels, codecs or probes have another one."""
        one, rows = self.labelled, sorted(cell.place for cell in self.coded)
        what = [VERSION, self.metric, self.setting.name, rows, one.files, one.answers.tolist(), one.classes, one.folds.tolist()]
        return Path(out) / FOLDER / f"{self.metric}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}.json"


def asked(wanted: Sequence[Metric], items: Sequence[Item], left: list[Left]) -> dict[str, Labelled]:
    """Metric -> what its recordings are asked. Metrics of tasks that recordings have no labels for are noted."""
    found: dict[str, Labelled | str] = {}
    for metric in wanted:
        task = metric.name.rpartition("-")[0]
        if metric.level == "task" and task not in found:
            try:
                found[task] = labelled(task, items)
            except (Missing, ProbeError) as error:
                found[task] = str(error)
    mine = {metric.name: found[metric.name.rpartition("-")[0]] for metric in wanted if metric.level == "task"}
    left += [Left(name, one) for name, one in mine.items() if isinstance(one, str)]
    return {name: one for name, one in mine.items() if not isinstance(one, str)}


def probing(metric: str, one: Labelled, cells: Sequence[Cell], number: int, setting: Setting) -> Probing:
    """cells: of a system at a setting."""
    files = set(one.files)
    coded = tuple(cell for cell in cells if not cell.error and cell.file in files)
    blank = Cell(ALL + metric, "", cells[0].system, cells[0].key, setting.name, setting.bitrate)
    return Probing(metric, one, coded, number, setting, ((number, setting, blank, (metric,)),))


def answers(path: Path) -> dict[str, Any] | None:
    """What `probe` has written: {"answers": {recording: [right, asked]}, "chance": share}; None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found["answers"], dict) and isinstance(found["chance"], float) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def probe(task: Probing, out: str, system: System) -> None:
    """Train and ask the probes of a task, and keep their answers. Raises ValueError where there is nothing to train on."""
    one = task.labelled
    frames, rate, front = (_audio if task.metric.endswith(AUDIO) else _tokens)(task, out, system)
    rows = [row for row, file in enumerate(one.files) if file in frames]
    inputs = [frames[one.files[row]] for row in rows]
    right, asked = _answers(one, np.array(rows, dtype=np.int64), inputs, rate, front)
    if not asked.sum():
        raise ValueError(NOTHING)
    there = {one.files[row]: [float(r), float(a)] for row, r, a in zip(rows, right, asked) if a}
    content = {"answers": there, "chance": _chance(one.answers[rows], asked)}
    (Path(out) / FOLDER).mkdir(exist_ok=True)
    put(task.path(out), (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def _audio(task: Probing, out: str, system: System):
    import torch

    from codec.evaluation.probe_heads import Bands

    found = {cell.file: keep.read(keep.vectors_path(out, cell, HEARD)) for cell in task.coded}
    frames = {file: torch.from_numpy(bands.astype(np.float32)) for file, bands in found.items() if bands is not None}

    def front(train):
        every = torch.cat(train, 1)
        return Bands(every.mean(1), every.std(1))

    return frames, RATE / HOP, front


def _tokens(task: Probing, out: str, system: System):
    import torch

    from codec.evaluation.probe_heads import start_tables
    from codec.evaluation.probe_tokens import code_vectors

    if not task.setting.name.startswith("k="):
        raise ValueError("frames of a variable bitrate have few codes or many, and no probe is made for that: take MODEL+30")
    model, k = system.model, int(task.setting.name.removeprefix("k="))
    found = {cell.file: keep.read(keep.codes_path(out, cell)) for cell in task.coded}
    frames = {file: torch.from_numpy(codes[:k].astype(np.int64)) for file, codes in found.items() if codes is not None and len(codes) >= k}
    tables = start_tables([code_vectors(model.quantizer, book) for book in range(1, k + 1)], model.codebook_sizes[:k], 0)
    return frames, model.frame_rate, lambda train: tables


def _answers(one: Labelled, rows: np.ndarray, inputs: Sequence[Any], rate: float, front: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Right answers (N,) and questions (N,) of each recording: rows of `one`."""
    from codec.evaluation.probe_heads import classify

    piece = round(PIECE_SECONDS * rate) if one.task == "speaker" else None
    right, asked = np.zeros(len(rows)), np.zeros(len(rows))
    for fold in np.unique(one.folds[rows]):
        taught, tested = np.flatnonzero(one.folds[rows] != fold), np.flatnonzero(one.folds[rows] == fold)
        if not len(taught):
            raise ValueError(NOTHING)
        train = [inputs[row] for row in taught]
        parts = [(row, part) for row in tested for part in _pieces(inputs[row], piece)]
        told = classify(front(train), train, one.answers[rows[taught]], [part for _, part in parts], one.classes, rate,
                        STEPS, seed=0, crop=piece)
        for (row, _), answer in zip(parts, told):
            truth = one.answers[rows[row]]
            right[row] += ((answer == truth) & (truth >= 0)).sum()
            asked[row] += (truth >= 0).sum()
    return right, asked


def _pieces(frames: Any, size: int | None) -> list[Any]:
    """Of (K, T): all of it, or pieces of `size` frames, without a shorter rest."""
    if size is None or frames.shape[1] <= size:
        return [frames]
    return [frames[:, at : at + size] for at in range(0, frames.shape[1] - size + 1, size)]


def _chance(truth: np.ndarray, asked: np.ndarray) -> float:
    """The share of right answers of who gives the most frequent one to each question (N, S), recordings counted as often as asked."""
    often, there = asked / np.maximum(1, (truth >= 0).sum(1)), 0.0
    for column in truth.T:
        there += np.bincount(column[column >= 0], often[column >= 0]).max() if (column >= 0).any() else 0.0
    return float(there / asked.sum())


@dataclass(frozen=True)
class Reference:
    """What figures of a task are held against. chance: share of right answers of who hears nothing; original: {recording: [share of
    right answers, questions]} of probes on the recordings themselves, {} for metrics of tokens."""

    metric: str
    note: str
    chance: float
    original: dict[str, list[float]]


def told(out: str | Path, probings: Sequence[Probing], table: Sequence[Cell]) -> list[Reference]:
    """Bring the answers of probes, as shares of the right ones, into the cells of `table`; those of the recordings themselves, which have
    no cells there, come back as references."""
    cells = {(cell.system, cell.setting, cell.file): cell for cell in table}
    found: dict[str, Reference] = {}
    for one in probings:
        there = answers(one.path(out))
        if there is None:
            continue
        shares = {file: [right / asked, asked] for file, (right, asked) in there["answers"].items()}
        found.setdefault(one.metric, Reference(one.metric, one.labelled.note, there["chance"], {}))
        for file, share in shares.items():
            if one.coded[0].system == ORIGINAL:
                found[one.metric].original[file] = share
            else:
                cells[one.coded[0].system, one.setting.name, file].values[one.metric] = share
    return list(found.values())
