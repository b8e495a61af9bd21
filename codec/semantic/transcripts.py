"""Texts of recordings: given ones, or those of a speech recogniser, kept in one file of JSON lines.

with Transcripts("transcripts.jsonl", write=True) as out:
    counts = transcribe("corpus/", out, asr=FasterWhisper("base", ["en"]), languages=["en"])
Transcripts("transcripts.jsonl").get(content_key(decode("a.flac", 16_000))).words     # (Word("hello", 0.32, 0.71), ...)
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from codec.atomic import WriteError
from codec.semantic.alignment import SAMPLE_RATE, AlignmentError, Word, match_times
from codec.semantic.features import content_key
from codec.training.data import SILENT_FILE, DataError, Entry, decode, list_audio

UNSURE = -1.0  # mean log probability of a segment's tokens below which it is dropped; Whisper's own limit
REPEATING = 2.4  # length over compressed length of a segment above which it is dropped; Whisper's own limit


class TranscriptError(ValueError):
    """A transcript or a file of them cannot be used; one line that says why and how to mend it."""


class Skip(Exception):
    """A recording gets no transcript. reason: a word or two that are counted and written down."""

    def __init__(self, reason: str, language: str = ""):
        super().__init__(reason)
        self.reason, self.language = reason, language


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording.

    words     with their times, in order; none where no times are known.
    timing    where the times come from: "asr" (the recogniser's own), "matched" (a given text laid over the recogniser's
              words), "ctc" (forced alignment), "spread" (in proportion to characters); empty without times.
    source    where the text comes from: "given", or the recogniser's name.
    language  a code like "en"; empty if it is not known.
    path, seconds  of the recording, for people who read the file.

    Raises TranscriptError for words that run backwards.
    """

    text: str
    words: tuple[Word, ...] = ()
    language: str = ""
    timing: str = ""
    source: str = ""
    path: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        last = 0.0
        for word in self.words:
            if not (last <= word.start <= word.end < math.inf):
                raise TranscriptError(
                    f"the word {word.text!r} from {word.start} to {word.end} s does not follow the one that starts at {last} s; "
                    "words must be in order and end after they start"
                )
            last = word.start


class Transcripts:
    """A file of transcripts, one JSON object a line, keyed by the content of the recordings.

    write   True: `add` and `skip` append to the file, which is made if need be. Lines are written whole, one after the
            other; what a killed process left of a line is passed over with a warning, and the next one starts on a line of
            its own. The last line of a key counts.

    skipped  key -> Skip, of recordings that were found to have no transcript.

    Raises TranscriptError for a file that is not there or holds something else, WriteError where it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], write: bool = False):
        self.path = Path(path)
        self._rows: dict[str, Transcript] = {}
        self.skipped: dict[str, Skip] = {}
        if self.path.exists() and not self.path.is_file():
            raise TranscriptError(f"{self.path} is no plain file: name a file for the transcripts")
        if self.path.exists() or not write:
            self._read()
        self._file = self._open() if write else None

    def _open(self):
        try:
            whole = not self.path.exists() or self.path.stat().st_size == 0 or _last_byte(self.path) == b"\n"
            file = open(self.path, "ab", buffering=0)  # append: every line goes to the end, whoever else writes
            if not whole:
                file.write(b"\n")
            return file
        except OSError as error:
            raise WriteError(str(self.path), error) from error

    def _read(self) -> None:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise TranscriptError(
                f"{self.path} cannot be read: {error.strerror or error}; `codec transcribe` makes a file of transcripts"
            ) from error
        torn = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                torn.append(number)
                continue
            self._take(row, number)
        if torn and not self._rows and not self.skipped:
            raise TranscriptError(f"{self.path} holds no transcripts; name the file that `codec transcribe` made")
        if torn:
            warnings.warn(f"{self.path}: passed over {len(torn)} torn lines, the first being line {torn[0]}", stacklevel=4)

    def _take(self, row: Any, number: int) -> None:
        try:
            key = row["key"]
            if not isinstance(key, str):
                raise TypeError
            if "skipped" in row:
                self.skipped[key] = Skip(str(row["skipped"]), str(row.get("language", "")))
                self._rows.pop(key, None)
            else:
                self._rows[key] = _from_row(row)
                self.skipped.pop(key, None)
        except TranscriptError as error:
            raise TranscriptError(f"line {number} of {self.path}: {error}") from None
        except (KeyError, TypeError, ValueError):
            raise TranscriptError(
                f"line {number} of {self.path} is no transcript: it needs a key, a text, and words as [text, start, end]"
            ) from None

    def get(self, key: str) -> Transcript | None:
        return self._rows.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def items(self) -> Iterator[tuple[str, Transcript]]:
        yield from self._rows.items()

    def add(self, key: str, transcript: Transcript) -> None:
        self._append(_to_row(key, transcript))
        self._rows[key] = transcript
        self.skipped.pop(key, None)

    def skip(self, key: str, skip: Skip, path: str = "") -> None:
        """Note that a recording has no transcript, so that it is not tried again."""
        self._append({"key": key, "skipped": skip.reason, "language": skip.language, "path": path})
        self.skipped[key] = skip
        self._rows.pop(key, None)

    def _append(self, row: dict[str, Any]) -> None:
        if self._file is None:
            raise TranscriptError(f"{self.path} was opened for reading; open it with write=True")
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        try:
            written = self._file.write(line)
        except OSError as error:
            raise WriteError(str(self.path), error) from error
        if written < len(line):
            raise TranscriptError(f"{self.path}: a line was written in part: free some space on the disk and run again")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Transcripts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Recogniser(Protocol):
    """16 kHz samples (T,) float32 to a transcript with word times. Raises Skip for what it hears no words in."""

    def __call__(self, wav: np.ndarray) -> Transcript: ...


class Aligner(Protocol):
    """A text and 16 kHz samples (T,) float32 to the words of the text with their times. Raises AlignmentError."""

    def __call__(self, text: str, wav: np.ndarray) -> tuple[Word, ...]: ...


class FasterWhisper:
    """Whisper (Radford et al. 2022, https://arxiv.org/abs/2212.04356) through the package `faster-whisper`.

    Args:
        name_or_dir: a size ("base", "large-v3", ...) or hub id, which are downloaded, or a folder of CTranslate2.
        languages: codes like "en". The most probable one of them is taken; a recording that is more probably in another
            language than in all of these is skipped. Empty: whatever is detected.
        device: cpu (int8 products) or cuda (float16).

    Words get their times from Whisper's attention to the sound. Decoding is a beam search without chance. Segments that
    Whisper is unsure of or that repeat themselves are left out. Raises TranscriptError without the package or the model.
    """

    def __init__(self, name_or_dir: str | Path, languages: Sequence[str] = (), device: str = "cpu"):
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise TranscriptError(
                'transcribing needs faster-whisper: pip install "neural-codec-toolkit[eval]"'
            ) from None
        self.name = f"faster-whisper {Path(name_or_dir).name}"
        self.languages = tuple(languages)
        kind, _, index = device.partition(":")
        try:
            self._model = WhisperModel(
                str(name_or_dir), device=kind, device_index=int(index or 0), compute_type="int8" if kind == "cpu" else "float16"
            )
        except Exception as error:  # of the hub, of CTranslate2, of the file system
            raise TranscriptError(
                f"the recogniser {name_or_dir} cannot be loaded ({error}); name a size such as base, or a folder of CTranslate2"
            ) from error
        unknown = [language for language in self.languages if language not in self._model.supported_languages]
        if unknown:
            raise TranscriptError(f"{self.name} knows no language {unknown[0]!r}; languages are codes like en, de, zh")
        self._encode, self._model.encode = self._model.encode, self._listen
        self._language: str | None = None  # that is being decoded, until it is known to be the right one
        self._encoded: Any = None  # what the encoder gave when it was not

    def __call__(self, wav: np.ndarray) -> Transcript:
        """16 kHz samples (T,) float32 to a transcript. Raises Skip for another language and where no words are heard."""
        language = (self.languages or self._model.supported_languages)[0]
        self._language, self._encoded = language, None
        try:
            segments = self._segments(wav, language)
        except _OtherLanguage as other:
            self._language, language = None, other.language
            segments = self._segments(wav, language)
        seconds = len(wav) / SAMPLE_RATE
        sure = [s for s in segments if s.avg_logprob >= UNSURE and s.compression_ratio <= REPEATING]
        words = _whole_words((word for segment in sure for word in segment.words or []), seconds)
        if not words:
            raise Skip("unsure" if any(segment.words for segment in segments) else "no speech", language)
        return Transcript(" ".join(word.text for word in words), words, language, "asr", self.name, seconds=seconds)

    def _segments(self, wav: np.ndarray, language: str) -> list[Any]:
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(wav, dtype=np.float32), language=language, beam_size=5, temperature=0.0, word_timestamps=True,
            condition_on_previous_text=False,
        )
        return list(segments)

    def _listen(self, features: np.ndarray) -> Any:
        """The encoder, in the place of the model's. The language is found in what it gives for the first 30 s; the package
        would run it twice."""
        if self._encoded is not None:
            encoded, self._encoded = self._encoded, None
            return encoded
        encoded = self._encode(features)
        if self._language is not None and self._model.model.is_multilingual:
            decoded, self._language = self._language, None
            shares = {token[2:-2]: share for token, share in self._model.model.detect_language(encoded)[0]}  # <|en|>
            language = max(shares, key=shares.get)
            if self.languages and language not in self.languages:
                wanted = {code: shares.get(code, 0.0) for code in self.languages}
                if sum(wanted.values()) < 0.5:
                    raise Skip("language", language)
                language = max(wanted, key=wanted.get)
            if language != decoded:
                self._encoded = encoded
                raise _OtherLanguage(language)
        return encoded


class _OtherLanguage(Exception):
    def __init__(self, language: str):
        self.language = language


def _whole_words(pieces: Iterable[Any], seconds: float) -> tuple[Word, ...]:
    """Whisper's words, those that go on from the one before without a space ("-roast") joined to it."""
    words: list[Word] = []
    for piece in pieces:
        text = piece.word.strip()
        start = min(max(float(piece.start), words[-1].start if words else 0.0), seconds)
        end = min(max(float(piece.end), start), seconds)
        if not text:
            continue
        if words and not piece.word[0].isspace():
            words[-1] = replace(words[-1], text=words[-1].text + text, end=max(end, words[-1].end))
        else:
            words.append(Word(text, start, end))
    return tuple(words)


@dataclass(frozen=True)
class Given:
    """What a manifest says of a recording."""

    text: str = ""
    language: str = ""


def given_texts(source: str | Path) -> dict[str, Given]:
    """Path of a recording -> what comes with the corpus: `text` and `language` of a manifest's entries, or in a folder the
    *.trans.txt files of LibriSpeech (a line is a file's name without suffix, and its text)."""
    source = Path(source).expanduser()
    if source.is_dir() and (source / "manifest.json").is_file():
        source = source / "manifest.json"
    if source.is_dir():
        return {path: Given(text) for path, text in _librispeech_texts(source)}
    text = source.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()] if source.suffix.lower() == ".jsonl" else json.loads(text)
    given = {}
    for row in rows:
        if any(not isinstance(row.get(name, ""), str) for name in ("text", "language")):
            raise TranscriptError(f"{source}: text and language of {row['path']} must be words in quotes")
        given[str(source.parent / row["path"])] = Given(row.get("text", "").strip(), row.get("language", ""))
    return given


def _librispeech_texts(folder: Path) -> Iterator[tuple[str, str]]:
    for listing in sorted(folder.rglob("*.trans.txt")):
        for line in listing.read_text(encoding="utf-8").splitlines():
            name, _, text = line.strip().partition(" ")
            if text:
                yield str(listing.parent / f"{name}.flac"), text.strip()


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


def _to_row(key: str, transcript: Transcript) -> dict[str, Any]:
    words = [[word.text, round(word.start, 3), round(word.end, 3)] for word in transcript.words]
    row = {name: getattr(transcript, name) for name in ("path", "seconds", "language", "source", "timing", "text")}
    return {"key": key} | row | {"words": words}


def _from_row(row: dict[str, Any]) -> Transcript:
    words = tuple(Word(str(text), float(start), float(end)) for text, start, end in row.get("words", []))
    if not isinstance(row["text"], str):
        raise TypeError
    names = ("language", "timing", "source", "path")
    return Transcript(
        row["text"], words, seconds=float(row.get("seconds", 0.0)), **{name: str(row.get(name, "")) for name in names}
    )


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
