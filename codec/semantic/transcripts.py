"""Texts of recordings, with the times of their words, in one file of JSON lines.

Transcripts("transcripts.jsonl").get(content_key(decode("a.flac", 16_000))).words     # (Word("hello", 0.32, 0.71), ...)
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.atomic import WriteError
from codec.semantic.alignment import Word


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
