"""What the recordings of a sweep are asked about, and which of them answer while the others teach."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec.evaluation.datasets import Item
from codec.evaluation.probe_report import Missing, ProbeError

FOLDS = 5
LEAST = 5  # recordings of a speaker or label; rarer ones are left out


@dataclass(frozen=True, eq=False)
class Labelled:
    """A task and its answers.

    files: names of the recordings; answers (N, S) int, -1 where a question has none; classes: answers that each question has; folds (N,)
    int: each recording is answered by a probe that was trained on those of the other folds; note: what keeps them apart.
    """

    task: str
    files: tuple[str, ...]
    answers: np.ndarray
    classes: tuple[int, ...]
    folds: np.ndarray
    note: str


def labelled(task: str, items: Sequence[Item]) -> Labelled:
    """Of "slots", "speaker" or "label". Raises Missing where nothing is labelled, ProbeError where too little is."""
    return {"slots": _slots, "speaker": _speakers, "label": _labels}[task](items)


def _slots(items: Sequence[Item]) -> Labelled:
    """As `codec probe` asks: labels.json beside the recordings, parts by speaker, or by content where those are not known."""
    from codec.evaluation.probe_classify import Slots
    from codec.evaluation.probe_data import Recording, digest_of, slots_in

    folders = {Path(item.path).parent for item in items}
    slots = {folder: slots_in(folder) or slots_in(folder.parent) for folder in folders}
    told = {item.path: slots[Path(item.path).parent].get(Path(item.path).stem) for item in items}
    found = Slots([
        Recording(item.path, digest_of(Path(item.path)), _speaker(item), told[item.path]) for item in items if told[item.path] is not None
    ])
    names = {item.path: item.name for item in items}
    classes = tuple(len(values) for values in found.slots.values())
    apart = "speaker" if any(recording.speaker for recording in found.recordings) else "recording"
    files = tuple(names[recording.path] for recording in found.recordings)
    return Labelled("slots", files, found.answers, classes, found.folds, f"{len(classes)} slots; parts by {apart}")


def _speakers(items: Sequence[Item]) -> Labelled:
    known = {item.name: _speaker(item) for item in items if _speaker(item)}
    if not known:
        raise Missing("no speakers are known: they come from the layout, `speaker` in a manifest, or names like LibriSpeech's")
    return _classes("speaker", "speakers", items, known)


def _labels(items: Sequence[Item]) -> Labelled:
    known = {item.name: item.label or Path(item.path).parent.name for item in items}
    if len(set(known.values())) < 2:
        raise Missing("no labels are known: they come from the layout, `label` in a manifest, or the folder that a recording is in")
    return _classes("label", "labels", items, known)


def _classes(task: str, what: str, items: Sequence[Item], known: dict[str, str]) -> Labelled:
    """One question, in the parts of the corpus, or such that each part has a fifth of each class."""
    often = Counter(known.values())
    values = sorted(value for value, number in often.items() if number >= LEAST)
    if len(values) < 2:
        raise ProbeError(f"{task}: fewer than two {what} have {LEAST} recordings: add some, or leave the task out")
    chosen = [item for item in items if known.get(item.name) in values]
    answers = np.array([[values.index(known[item.name])] for item in chosen])
    if all(item.fold for item in chosen) and len({item.fold for item in chosen}) > 1:
        parts = sorted({item.fold for item in chosen})
        folds, note = np.array([parts.index(item.fold) for item in chosen]), f"{len(parts)} parts of the corpus's own"
    else:
        folds, note = _dealt(chosen, answers[:, 0]), "parts by recording"
    return Labelled(task, tuple(item.name for item in chosen), answers, (len(values),), folds, f"{len(values)} {what}; {note}")


def _dealt(items: Sequence[Item], answers: np.ndarray) -> np.ndarray:
    """Of each class every fifth recording in each fold, in an order that follows from their names alone."""
    folds = np.zeros(len(items), dtype=np.int64)
    places = [hashlib.sha256(item.name.encode()).hexdigest() for item in items]
    for answer in np.unique(answers):
        for rank, row in enumerate(sorted(np.flatnonzero(answers == answer), key=lambda row: places[row])):
            folds[row] = rank % FOLDS
    return folds


def _speaker(item: Item) -> str:
    from codec.evaluation.probe_data import speaker_of  # imports torch

    return item.speaker or speaker_of(Path(item.path))
