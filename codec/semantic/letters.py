"""Texts as letters: what a recording spells, and which of its letters lie in a crop.

stored = Letters("transcripts.jsonl", frame_rate=50.0)
letters, valid = stored.crop(content_key(samples), start=100, frames=100)    # (n,) int64 from 1, (100,) bool
"""

from __future__ import annotations

import math
import os
import re
import unicodedata

import torch
from torch import Tensor

from codec.semantic.transcripts import Transcript, Transcripts

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
SYMBOLS = len(LETTERS) + 1  # and the blank, 0
PLACES = 40.0  # for symbols a second, at least: fast speech has 20 letters, and equal ones need a blank between them
ROUNDING = 1e-6  # of a frame


def spelled(text: str) -> str | None:
    """A text in small letters from a to z, apostrophes and single spaces. None where something is said that they cannot
    spell: digits, other alphabets."""
    text = unicodedata.normalize("NFKD", text.casefold()).replace("\u2019", "'")
    text = "".join(" " if unicodedata.category(letter)[0] in "PSZ" and letter != "'" else letter for letter in text)
    text = re.sub(r"\s+", " ", "".join(letter for letter in text if unicodedata.category(letter) != "Mn")).strip()
    return text if text and set(text) <= set(LETTERS) else None


def numbered(text: str) -> list[int]:
    """A spelled text as numbers from 1; 0 is CTC's blank."""
    return [LETTERS.index(letter) + 1 for letter in text]


class Letters:
    """Which letters are said in a crop, for CTC.

    path: a file of `codec transcribe`, with times of words; frame_rate: of the codec whose frames are counted.
    Recordings without a transcript, without times or without a word that can be spelled are not in it; `lacks` tells why.

    dim      of what predicts the letters of a frame: SYMBOLS for each of its places. A codec of 50 frames a second has one
             place in a frame, one of 12.5 four.

    Raises TranscriptError for a file that is not there or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str], frame_rate: float) -> None:
        self.path, self.frame_rate = os.fspath(path), frame_rate
        self.dim = SYMBOLS * math.ceil(PLACES / frame_rate)
        self._untimed = 0
        self._words: dict[str, list[tuple[float, float, str | None]]] = {}  # start, end, in letters
        self._seconds: dict[str, float] = {}
        for key, transcript in Transcripts(path).items():
            self._take(key, transcript)

    def _take(self, key: str, transcript: Transcript) -> None:
        words = [(word.start, word.end, spelled(word.text)) for word in transcript.words]
        if transcript.text.strip() and not words:
            self._untimed += 1
        if any(text for _, _, text in words):
            self._words[key] = words
            self._seconds[key] = transcript.seconds or math.inf

    def __contains__(self, key: str) -> bool:
        return key in self._words

    def lacks(self) -> str:
        """What to do about recordings that are not in it."""
        if self._untimed:
            return (f"{self._untimed} texts in {self.path} have no times: run codec transcribe with --asr or --align over the "
                    "same files")
        return f"{self.path} has no text with words in letters for them: run codec transcribe over the same files"

    def crop(self, key: str, start: int, frames: int) -> tuple[Tensor, Tensor]:
        """What is said in the frames from `start` (may be negative) on: letters (n,) int64 from 1, and in which frames, bool
        (frames,), without a gap.

        Only whole words: of the words that lie in the crop, without one between that cannot be spelled, those with most
        letters; frames from the end of the word before to the start of the word behind. Nothing where there are none.
        """
        begin, end = start / self.frame_rate, (start + frames) / self.frame_rate
        valid = torch.zeros(frames, dtype=torch.bool)
        texts, low, high = self._longest(key, begin, end)
        if texts:
            first = math.ceil(low * self.frame_rate - ROUNDING) - start
            last = math.floor(high * self.frame_rate + ROUNDING) - start
            valid[max(0, first) : max(0, last)] = True
        return torch.tensor(numbered(" ".join(texts)), dtype=torch.int64), valid

    def _longest(self, key: str, begin: float, end: float) -> tuple[list[str], float, float]:
        """The words of the longest run, and from which to which second nothing else is said."""
        best: tuple[list[str], float, float] = ([], begin, begin)
        texts: list[str] = []
        low, stop = max(begin, 0.0), min(end, self._seconds.get(key, 0.0))
        for word_start, word_end, text in [*self._words.get(key, ()), (stop, math.inf, None)]:
            if text is not None and word_start >= low - ROUNDING and word_end <= stop + ROUNDING:
                texts.append(text)
                continue
            if sum(map(len, texts)) > sum(map(len, best[0])):
                best = (texts, low, min(word_start, stop))
            texts, low = [], max(low, word_end)
        return best
