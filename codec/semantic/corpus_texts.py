"""Texts that come with a corpus: in its manifest, or beside the recordings as in LibriSpeech."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codec.semantic.transcripts import TranscriptError


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
