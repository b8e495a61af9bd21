"""What probes are made on: recordings with their speakers, labels and transcripts, and fixed parts to train and test on.

The parts follow from the content of the files alone, or from who speaks in them: they are the same on every machine, in every
order and beside whatever other files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from codec.evaluation.probe_report import ProbeError
from codec.training.data import DataError, list_audio

LABELS = "labels.json"
LIBRISPEECH = re.compile(r"(\d+)-\d+-\d+")  # SPEAKER-CHAPTER-UTTERANCE


@dataclass(frozen=True)
class Recording:
    """One file. digest: sha256 of its bytes; speaker: empty if not known; slots: name -> value, as labels.json says, None
    where it says nothing about this file."""

    path: str
    digest: str
    speaker: str = ""
    slots: Mapping[str, str] | None = field(default=None, hash=False)

    def fold(self, folds: int) -> int:
        """0 to folds - 1. All recordings of one speaker share theirs."""
        name = f"speaker {self.speaker}" if self.speaker else f"file {self.digest}"
        return int(hashlib.sha256(name.encode()).hexdigest(), 16) % folds


def recordings(source: str | Path, split: str = "train") -> list[Recording]:
    """The recordings of a folder or a manifest (as `codec.training.data.list_audio` finds them), sorted by content; of files
    with the same bytes the first.

    Speakers come from `speaker` in the manifest, or from names like LibriSpeech's. Slots come from labels.json, beside the
    recordings or in the folder itself: an object of {file name without suffix: {"slots": {name: value}}}.
    Raises ProbeError where there is nothing to read.
    """
    source = Path(source).expanduser()
    try:
        entries = list_audio(source, split)
    except DataError as error:
        raise ProbeError(str(error)) from None
    speakers = _speakers(source)
    labels: dict[Path, Mapping[str, Mapping[str, str]]] = {}
    found: dict[str, Recording] = {}
    for entry in entries:
        path = Path(entry.path)
        if path.parent not in labels:
            labels[path.parent] = slots_in(path.parent) or slots_in(source if source.is_dir() else source.parent)
        digest = digest_of(path)
        found.setdefault(digest, Recording(str(path), digest, speakers.get(entry.path, "") or speaker_of(path),
                                           labels[path.parent].get(path.stem)))
    return sorted(found.values(), key=lambda recording: recording.digest)


def _speakers(source: Path) -> dict[str, str]:
    """Path -> speaker, of a manifest; `list_audio` has checked it."""
    manifest = source / "manifest.json" if source.is_dir() else source
    if not manifest.is_file():
        return {}
    text = manifest.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()] if manifest.suffix == ".jsonl" else json.loads(text)
    rows = [row for row in rows if isinstance(row, dict) and "path" in row]
    return {str(manifest.parent / row["path"]): str(row.get("speaker") or "") for row in rows}


def speaker_of(path: Path) -> str:
    """By a name like LibriSpeech's, empty for others."""
    match = LIBRISPEECH.fullmatch(path.stem)
    return match[1] if match else ""


def slots_in(folder: Path) -> dict[str, dict[str, str]]:
    """File name without suffix -> {slot: value}; empty without a labels.json. Raises ProbeError for another layout."""
    path = folder / LABELS
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {name: {slot: str(value).strip() for slot, value in row["slots"].items()} for name, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ProbeError(
            f'{path} cannot be read as labels: it must be an object of {{file name without suffix: {{"slots": {{name: value}}}}}}'
        ) from None


def digest_of(path: Path) -> str:
    """sha256 of the bytes of a file. Raises ProbeError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise ProbeError(f"{path} cannot be read ({error.strerror}): take it out of the data") from None
    return digest.hexdigest()
