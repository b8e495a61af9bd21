"""Transcribing a corpus: given texts, or those of a speech recogniser, and the times of their words.

with Transcripts("transcripts.jsonl", write=True) as out:
    report = transcribe("corpus/", out, asr=FasterWhisper("base", ["en"]), languages=["en"])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from codec.semantic.alignment import SAMPLE_RATE, AlignmentError, Word, match_times
from codec.semantic.corpus_texts import Given, given_texts
from codec.semantic.features import content_key
from codec.semantic.transcripts import Skip, Transcript, Transcripts
from codec.training.data import SILENT_FILE, DataError, Entry, decode, list_audio


class Recogniser(Protocol):
    """16 kHz samples (T,) float32 to a transcript with word times. Raises Skip for what it hears no words in."""

    def __call__(self, wav: np.ndarray) -> Transcript: ...


class Aligner(Protocol):
    """A text and 16 kHz samples (T,) float32 to the words of the text with their times. Raises AlignmentError."""

    def __call__(self, text: str, wav: np.ndarray) -> tuple[Word, ...]: ...


@dataclass
class Report:
    """What became of the files of a corpus. skipped: reason -> how many; failed: lines on files that cannot be read."""

    transcribed: int = 0
    seconds: float = 0.0  # of the transcribed ones
    done_before: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


def transcribe(
    source: str | Path,
    out: Transcripts,
    asr: Recogniser | None = None,
    aligner: Aligner | None = None,
    languages: Sequence[str] = (),
    split: str = "train",
    part: tuple[int, int] = (1, 1),
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Add the transcripts of a corpus to `out`; what is there already is not done again.

    source     as in `codec.training.data.list_audio`: a folder or a manifest.
    asr        gives text and times where no text comes with the corpus, and times where one does: the given text is laid over
               the recognised words.
    aligner    gives the times in the place of `asr`, e.g. `codec.semantic.alignment.CtcAligner`.
    languages  what an entry of the manifest says is in another language is skipped (and what `asr` finds to be).
    part       (i, n): every n-th recording from the i-th on, counted from 1.
    progress   called with files done, files in all, and the path of the next one.

    Without `asr` and `aligner` texts are kept without times. Skipped and counted: "silent" (peak below -50 dBFS), "language",
    "no text" (none given and no `asr`), "no speech", "unsure" (by `asr`), "mismatch" (the text does not fit the sound).
    Files that cannot be read are in `failed`. Raises DataError where there are no files.
    """
    entries, report = list_audio(source, split)[part[0] - 1 :: part[1]], Report()
    given = given_texts(source)
    for index, entry in enumerate(entries):
        if progress is not None:
            progress(index, len(entries), entry.path)
        known = given.get(entry.path, Given())
        try:
            wav = decode(entry.path, SAMPLE_RATE)
        except DataError as error:
            report.failed.append(f"{entry.path}: {error}")
            continue
        key = content_key(wav)
        if _is_done(key, out, asr is not None or aligner is not None, languages):
            report.done_before += 1
            continue
        try:
            transcript = _transcript(wav, entry, known, asr, aligner, languages)
        except Skip as skip:
            report.skipped[skip.reason] += 1
            if skip.reason != "no text":
                out.skip(key, skip, entry.path)
            continue
        out.add(key, transcript)
        report.transcribed += 1
        report.seconds += transcript.seconds
    return report


def _is_done(key: str, out: Transcripts, timed: bool, languages: Sequence[str]) -> bool:
    if key in out.skipped:
        skip = out.skipped[key]
        return skip.reason != "language" or bool(languages) and skip.language not in languages
    transcript = out.get(key)
    return transcript is not None and (bool(transcript.words) or not timed)


def _transcript(
    wav: np.ndarray, entry: Entry, given: Given, asr: Recogniser | None, aligner: Aligner | None, languages: Sequence[str]
) -> Transcript:
    if languages and given.language and given.language not in languages:
        raise Skip("language", given.language)
    if int(np.abs(wav.astype(np.int32)).max()) < SILENT_FILE * 32767:
        raise Skip("silent")
    samples = wav.astype(np.float32) / 32767
    if given.text:
        language = given.language or (languages[0] if len(languages) == 1 else "")
        transcript = Transcript(given.text, (), language, "", "given")
    elif asr is None:
        raise Skip("no text")
    else:
        transcript = asr(samples)
    try:
        if aligner is not None:
            transcript = replace(transcript, words=aligner(transcript.text, samples), timing="ctc")
        elif given.text and asr is not None:
            heard = asr(samples)
            transcript = replace(
                transcript, words=match_times(given.text, heard.words, len(wav) / SAMPLE_RATE), timing="matched",
                language=given.language or heard.language,
            )
    except AlignmentError:
        raise Skip("mismatch", transcript.language) from None
    return replace(transcript, path=entry.path, seconds=round(len(wav) / SAMPLE_RATE, 3))
