"""Probes with a choice among answers: the slots of spoken commands, and who speaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from codec.evaluation.probe_data import Recording
from codec.evaluation.probe_heads import classify, classify_bags
from codec.evaluation.probe_report import HIGHER, Missing, ProbeError, Score, bootstrap
from codec.evaluation.probe_view import View

FOLDS = 5
MIN_RECORDINGS = 50  # with labels
MIN_PER_VALUE = 10  # recordings; rarer values of a slot are left out of it
ABSENT = ""  # the answer where a recording does not fill a slot

MIN_SPEAKERS = 5
MIN_PER_SPEAKER = 4  # recordings, to be split by recording
PIECE_SECONDS, GAP_SECONDS, MIN_SECONDS = 2.0, 0.5, 6.5
HEADS = ("network", "bag of codes")
REMEDY = "add some, or leave the task out of --tasks"


class Slots:
    """What a spoken command asks for: for every slot its value, or that it is not mentioned. Five-fold cross-validation by
    speaker (by file where speakers are not known), so that every recording is answered once by a head that has not heard it.
    Chance: the most frequent answer, whatever is said."""

    name, steps = "slots", 300

    def __init__(self, found: Sequence[Recording]):
        labelled = [recording for recording in found if recording.slots is not None]
        if not labelled:
            raise Missing("no labels.json with slots lies beside the recordings")
        if len(labelled) < MIN_RECORDINGS:
            raise ProbeError(f"slots: {len(labelled)} labelled recordings are too few, {MIN_RECORDINGS} are needed: {REMEDY}")
        self.recordings = labelled
        self.folds = np.array([recording.fold(FOLDS) for recording in labelled])
        if len(set(self.folds)) < FOLDS:
            raise ProbeError(f"slots: too few speakers to keep {FOLDS} parts apart by speaker: {REMEDY}")
        self.slots: dict[str, list[str]] = {}
        for slot in sorted({slot for recording in labelled for slot in recording.slots}):
            counts = Counter(recording.slots.get(slot, ABSENT) for recording in labelled)
            values = sorted(value for value, number in counts.items() if number >= MIN_PER_VALUE)
            if len(values) > 1:
                self.slots[slot] = values
        if not self.slots:
            raise ProbeError(f"slots: no slot has two values with {MIN_PER_VALUE} recordings each: {REMEDY}")
        self.answers = np.array([
            [_place(values, recording.slots.get(slot, ABSENT)) for slot, values in self.slots.items()] for recording in labelled
        ])

    def measure(self, view: View) -> Iterator[Score]:
        codes, tables, sizes = view.codes(self.recordings), view.tables(), [len(values) for values in self.slots.values()]
        told = {head: np.zeros_like(self.answers) for head in HEADS}
        for fold in range(FOLDS):
            test = self.folds == fold
            heard, asked = [codes[row] for row in np.flatnonzero(~test)], self.answers[~test]
            unheard = [codes[row] for row in np.flatnonzero(test)]
            told["network"][test] = classify(
                tables, heard, asked, unheard, sizes, view.frame_rate, view.steps(self.steps), view.seed,
                progress=view.step(f"slots, part {fold + 1} of {FOLDS}"),
            )
            told["bag of codes"][test] = classify_bags(view.sizes, heard, asked, unheard, sizes, view.seed)
        trials = self.answers >= 0
        chance = _chance(self.answers)
        for head in HEADS:
            hits = (told[head] == self.answers) & trials
            mean = bootstrap(hits, trials, view.seed)
            yield view.score(self.name, "mean", head, "accuracy", HIGHER, mean, float(chance.mean()), len(hits), "recordings")
            for column, slot in enumerate(self.slots):
                asked = trials[:, column]
                estimate = bootstrap(hits[asked, column], asked[asked], view.seed)
                yield view.score(self.name, slot, head, "accuracy", HIGHER, estimate, float(chance[column]), int(asked.sum()),
                                 "recordings")


class Speaker:
    """Who speaks, in pieces of 2 s. Where at least 5 speakers have 4 recordings or more, a quarter of each one's recordings
    is for testing. Otherwise the last third of one recording of each is, which a head may know by the room and the
    microphone too."""

    name, steps = "speaker", 600

    def __init__(self, found: Sequence[Recording]):
        by_speaker: dict[str, list[Recording]] = {}
        for recording in found:
            if recording.speaker:
                by_speaker.setdefault(recording.speaker, []).append(recording)
        if not by_speaker:
            raise Missing("no speakers are known: they come from `speaker` in the manifest, or from names like LibriSpeech's")
        if len(by_speaker) < MIN_SPEAKERS:
            raise ProbeError(f"speaker: {len(by_speaker)} speakers are too few, {MIN_SPEAKERS} are needed: {REMEDY}")
        several = {name: group for name, group in by_speaker.items() if len(group) >= MIN_PER_SPEAKER}
        self.by_recording = len(several) >= MIN_SPEAKERS
        chosen = several if self.by_recording else {name: group[:1] for name, group in by_speaker.items()}
        self.speakers = sorted(chosen)
        self.recordings = [recording for name in self.speakers for recording in chosen[name]]
        self.answers = np.array([number for number, name in enumerate(self.speakers) for _ in chosen[name]])
        # recordings are in the order of their contents, so that the first quarter is as good as any
        self.tested = np.array([place < len(chosen[name]) // 4 for name in self.speakers for place in range(len(chosen[name]))])

    def measure(self, view: View) -> Iterator[Score]:
        codes, piece = view.codes(self.recordings), view.frames(PIECE_SECONDS)
        train, asked, test, truth, source = [], [], [], [], []
        for row, (code, answer) in enumerate(zip(codes, self.answers)):
            frames = code.shape[1]
            split = 0 if self.by_recording else frames * 2 // 3
            if not self.by_recording and frames < view.frames(MIN_SECONDS):
                continue
            if self.by_recording and not self.tested[row] or not self.by_recording:
                train.append(code if self.by_recording else code[:, :split])
                asked.append(answer)
            if self.by_recording and not self.tested[row]:
                continue
            start = split + (0 if self.by_recording else view.frames(GAP_SECONDS))
            for at in range(start, max(start + 1, frames - piece + 1), piece):
                test.append(code[:, at : at + piece])
                truth.append(answer)
                source.append(row)
        if len(set(asked)) < MIN_SPEAKERS:
            raise ProbeError(f"speaker: fewer than {MIN_SPEAKERS} speakers have a recording of {MIN_SECONDS:g} s or more: {REMEDY}")
        asked, truth = np.array(asked)[:, None], np.array(truth)
        told = {
            "network": classify(
                view.tables(), train, asked, test, [len(self.speakers)], view.frame_rate, view.steps(self.steps), view.seed,
                crop=piece, progress=view.step("speaker"),
            )[:, 0],
            "bag of codes": classify_bags(view.sizes, train, asked, test, [len(self.speakers)], view.seed)[:, 0],
        }
        _, group = np.unique(source, return_inverse=True)
        trials = np.bincount(group)
        chance = float(_chance(truth[:, None])[0])
        note = "other recordings of the speakers" if self.by_recording else "later parts of the same recordings"
        for head in HEADS:
            hits = np.bincount(group, weights=told[head] == truth)
            estimate = bootstrap(hits, trials, view.seed)
            yield view.score(self.name, "", head, "accuracy", HIGHER, estimate, chance, len(truth), "pieces", note)


def _place(values: list[str], value: str) -> int:
    return values.index(value) if value in values else -1


def _chance(answers: np.ndarray) -> np.ndarray:
    """(N, S) to (S,): of each question the share of its most frequent answer among those that have one."""
    counts = [np.bincount(column[column >= 0], minlength=1) for column in answers.T]
    return np.array([count.max() / max(1, count.sum()) for count in counts])
