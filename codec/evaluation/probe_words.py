"""A probe without training: is a word nearer to itself in another mouth than to another word?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from codec.evaluation.probe_data import Recording
from codec.evaluation.probe_report import LOWER, Estimate, Missing, ProbeError, Score, bootstrap
from codec.evaluation.probe_texts import Texts
from codec.evaluation.probe_view import View
from codec.semantic.letters import spelled

SECONDS = (0.2, 1.0)  # of the words
LETTERS = 3  # or more
ALIKE = 1.25  # B lasts at most so many times as long as A, and the other way round
TRIPLETS, MIN_TRIPLETS = 2000, 100
CHANCE = 0.5


@dataclass(frozen=True)
class Spoken:
    """A word in a recording, by its number; seconds from start to end."""

    word: str
    recording: int
    start: float
    end: float


class Words:
    """ABX discrimination of words (Schatz et al. 2013): X is the word that A is, B another word about as long as A. X is of
    another speaker than A and B (of another recording, where speakers are not known), and B is of the speaker of A where there
    is such a word. Wrong where X is nearer to B, half wrong where it is as near to both; chance is 50 %.

    Words are the vectors of their codes (`code_vectors`, summed over the codebooks, less their mean over all words), compared by
    the cosine of frames along the best dynamic time warping (Sakoe and Chiba 1978, symmetric, divided by both lengths).
    The interval is over the recordings of X.
    """

    name, steps = "words", 0

    def __init__(self, found: Sequence[Recording], texts: Texts):
        spoken = [
            Spoken(word, number, each.start, each.end)
            for number, recording in enumerate(found) for each in texts.words(recording)
            if (word := spelled(each.text)) and len(word) >= LETTERS and SECONDS[0] <= each.end - each.start <= SECONDS[1]
        ]
        if not spoken:
            raise Missing("no times of words are known: give --transcripts a file of `codec transcribe --asr`")
        self.recordings = list(found)
        self.triplets = _triplets(spoken, [recording.speaker or recording.digest for recording in found])
        if len(self.triplets) < MIN_TRIPLETS:
            raise ProbeError(f"words: {len(self.triplets)} comparisons of words that several speakers say are too few, {MIN_TRIPLETS} "
                             "are needed: add recordings, or leave the task out of --tasks")
        used = sorted({word.recording for triplet in self.triplets for word in triplet})
        place = {number: index for index, number in enumerate(used)}
        self.recordings = [found[number] for number in used]
        self.triplets = [[Spoken(w.word, place[w.recording], w.start, w.end) for w in triplet] for triplet in self.triplets]

    def measure(self, view: View) -> Iterator[Score]:
        vectors = view.vectors()
        if any(table is None for table in vectors):
            raise Missing("the quantizer makes labels alone, there are no vectors to compare")
        codes = view.codes(self.recordings)
        frames = [sum(table[row] for table, row in zip(vectors, each)) for each in codes]
        estimate = self.errors(frames, view.frame_rate, view.seed)
        yield view.score(self.name, "", "none", "ABX error", LOWER, estimate, CHANCE, len(self.triplets), "comparisons")

    def errors(self, frames: Sequence[Tensor], frame_rate: float, seed: int = 0) -> Estimate:
        """The share of wrong answers. frames: of each of `recordings`, (T, dim), whatever they are made of."""
        words = {word: _part(frames[word.recording], word, frame_rate) for triplet in self.triplets for word in triplet}
        mean = torch.cat(list(words.values())).mean(0)
        words = {word: F.normalize(each - mean, dim=1, eps=1e-8) for word, each in words.items()}
        a, b, x = ([words[triplet[n]] for triplet in self.triplets] for n in range(3))
        same, other = warped(a, x), warped(b, x)
        wrong = (same > other) + 0.5 * (same == other)
        _, group = np.unique([triplet[2].recording for triplet in self.triplets], return_inverse=True)
        return bootstrap(np.bincount(group, weights=wrong), np.bincount(group), seed)


def _triplets(spoken: Sequence[Spoken], speakers: Sequence[str]) -> list[list[Spoken]]:
    """[A, B, X] each, at most TRIPLETS, every word in turn. speakers: of each recording. Drawn the same way each time."""
    rng = np.random.default_rng(0)
    by_word: dict[str, list[Spoken]] = defaultdict(list)
    by_speaker: dict[str, list[Spoken]] = defaultdict(list)
    for each in spoken:
        by_word[each.word].append(each)
        by_speaker[speakers[each.recording]].append(each)
    several = [word for word in sorted(by_word) if len({speakers[each.recording] for each in by_word[word]}) > 1]
    triplets = []
    for turn in range(TRIPLETS if len(several) > 1 else 0):
        if turn % len(several) == 0:
            order = rng.permutation(len(several))
        group = by_word[several[order[turn % len(several)]]]
        a = group[rng.integers(len(group))]
        others = [each for each in group if speakers[each.recording] != speakers[a.recording]]
        x = others[rng.integers(len(others))]
        close = [each for each in by_speaker[speakers[a.recording]] if _alike(each, a)]
        close = close or [each for each in spoken if _alike(each, a) and speakers[each.recording] != speakers[x.recording]]
        if close:
            triplets.append([a, close[rng.integers(len(close))], x])
    return triplets


def _alike(b: Spoken, a: Spoken) -> bool:
    """Another word, about as long."""
    return b.word != a.word and 1 / ALIKE <= (b.end - b.start) / (a.end - a.start) <= ALIKE


def _part(frames: Tensor, word: Spoken, frame_rate: float) -> Tensor:
    """Frames (T, dim) of a recording to those (n, dim) of a word, at least one."""
    start = min(int(word.start * frame_rate), len(frames) - 1)
    return frames[start : max(start + 1, round(word.end * frame_rate))]


def warped(first: Sequence[Tensor], second: Sequence[Tensor]) -> np.ndarray:
    """Distances (P,) of P pairs of (n, dim) and (m, dim), rows of unit length: 1 - cosine, along the best warping."""
    n, m = ([len(each) for each in side] for side in (first, second))
    cost = np.full((max(n), max(m), len(first)), 2.0)
    for pair, (a, b) in enumerate(zip(first, second)):
        cost[: len(a), : len(b), pair] = 1 - (a @ b.T).numpy()
    total = np.full((max(n) + 1, max(m) + 1, len(first)), np.inf)
    total[0, 0] = 0
    for i in range(max(n)):
        for j in range(max(m)):
            here = cost[i, j]
            straight = np.minimum(total[i, j + 1], total[i + 1, j]) + here
            total[i + 1, j + 1] = np.minimum(straight, total[i, j] + 2 * here)
    return total[n, m, np.arange(len(first))] / (np.array(n) + np.array(m))
