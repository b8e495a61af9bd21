"""Which recordings a corpus has, and their samples.

A recording is named by a string: the path of a file; "long.flac#t=12.5,15" for a part of it, in seconds (as in W3C Media
Fragments); "shard.tar!/a/1.flac" for a member of a tar file, with or without a part.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TAR = ".tar"
MEMBER = ".tar!/"
PART = re.compile(r"#t=([0-9.]+)(?:,([0-9.]+))?$")


class DataError(ValueError):
    """The training data cannot be used; one line that says why and how to mend it."""


@dataclass(frozen=True)
class Entry:
    """One recording of a corpus. group: what sampling balances (source, speaker set, ...); weight: of it inside its group."""

    path: str
    group: str = ""
    weight: float = 1.0


class Place(NamedTuple):
    """Where a recording is: its file, the member of it if that is a tar file, and from which to which second."""

    file: str
    member: str = ""
    start: float = 0.0
    stop: float = math.inf


def place(path: str | Path) -> Place:
    """What a recording's name says. A file that exists is taken at its name."""
    text = str(path)
    if os.path.exists(text):
        return Place(text)
    start, stop, found = 0.0, math.inf, PART.search(text)
    if found:
        text, start, stop = text[: found.start()], float(found[1]), float(found[2]) if found[2] else math.inf
    file, bang, member = text.partition(MEMBER)
    return Place(file + TAR if bang else file, member, start, stop)


def list_audio(source: str | Path, split: str = "train") -> list[Entry]:
    """The files of a corpus, in a fixed order. Raises DataError.

    A folder: every file with the suffix of a format that soundfile reads, and those in tar files (shards); its group is the
    first folder below ``source``. A folder that holds a manifest.json is read through it, so that what the manifest keeps apart
    stays apart.
    A tar file: the audio files in it.
    A manifest: .jsonl (an object a line) or .json (a list of objects) with ``path`` (relative to the manifest)
    and, optionally, ``start`` and ``seconds`` (a part of the file), ``source`` (the group), ``weight``, and ``split``: where that
    is there, only entries of ``split`` are kept.
    """
    source = Path(source).expanduser()
    if source.is_dir() and (source / "manifest.json").is_file():
        source = source / "manifest.json"
    if source.is_dir():
        suffixes = audio_suffixes() | {TAR}
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        entries = [
            Entry(name, path.relative_to(source).parts[0] if path.parent != source else "")
            for path in paths
            for name in (_members(path) if path.suffix.lower() == TAR else [str(path)])
        ]
    elif source.is_file() and source.suffix.lower() == TAR:
        entries = [Entry(name) for name in _members(source)]
    elif source.is_file():
        entries = [
            entry_of(row, number, source)
            for number, row in enumerate(rows_of(source), 1)
            if not isinstance(row, dict) or row.get("split", split) == split
        ]
    else:
        raise DataError(f"there is no training data at {source}; name a folder of audio files or a manifest")
    if not entries:
        raise DataError(f"{source} names no audio file to train on (split {split!r}); check the folder or the manifest")
    return entries


def _members(path: Path) -> list[str]:
    """The names of the audio files of a tar file, sorted. Links and devices are left out."""
    suffixes = audio_suffixes()
    try:
        with tarfile.open(path, "r:") as tar:
            names = sorted(m.name for m in tar if m.isfile() and Path(m.name).suffix.lower() in suffixes)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path} is no plain tar file ({error}); make shards without compression, audio is compressed already") from None
    return [f"{path}!/{name}" for name in names]


def decode(path: str | Path, sample_rate: int) -> np.ndarray:
    """A recording (see the top of this file) as mono int16 (T,) at ``sample_rate``; channels are averaged. Raises DataError for
    what cannot be read or holds no sample."""
    import soundfile
    import soxr

    parts = []
    try:
        with _opened(place(path)) as (file, frames):
            resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32", quality="HQ")
            for block in file.blocks(2**18, frames=frames, dtype="float32", always_2d=True):
                if not np.isfinite(block).all():
                    raise DataError("it holds NaN or infinite samples")
                parts.append(_int16(resampler.resample_chunk(np.ascontiguousarray(block.mean(axis=1)))))
            parts.append(_int16(resampler.resample_chunk(np.zeros(0, np.float32), last=True)))
    except (soundfile.SoundFileError, tarfile.TarError, OSError, RuntimeError) as error:
        raise DataError(str(error)) from error
    wav = np.concatenate(parts)
    if not wav.size:
        raise DataError("it holds no samples")
    return wav


@contextmanager
def _opened(where: Place) -> Iterator[tuple[Any, int]]:
    """A soundfile at the first frame of the recording, and how many frames it has."""
    import soundfile

    with soundfile.SoundFile(_bytes_of(where) if where.member else where.file) as file:
        first = round(where.start * file.samplerate)
        last = file.frames if where.stop == math.inf else min(file.frames, round(where.stop * file.samplerate))
        if first >= last:
            raise DataError(f"it has no sound from {where.start:g} to {where.stop:g} s: it is {file.frames / file.samplerate:g} s long")
        if first:
            file.seek(first)
        yield file, last - first if first or last < file.frames else -1


def _bytes_of(where: Place) -> io.BytesIO:
    with tarfile.open(where.file, "r:") as tar:
        try:
            return io.BytesIO(tar.extractfile(where.member).read())
        except (KeyError, AttributeError):
            raise DataError(f"{where.file} has no file {where.member}") from None


def rows_of(manifest: Path) -> Iterable[Any]:
    """The rows of a manifest as they are. Raises DataError."""
    try:
        text = manifest.read_text(encoding="utf-8")
        if manifest.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        rows = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the manifest {manifest} cannot be read ({error}); it must be a JSON list or one JSON object a line"
        ) from error
    if not isinstance(rows, list):
        raise DataError(f"the manifest {manifest} must be a JSON list of objects with a 'path'")
    return rows


def entry_of(row: Any, number: int, manifest: Path) -> Entry:
    """What row `number`, counted from 1, of a manifest names. Raises DataError."""
    if not isinstance(row, dict) or not isinstance(row.get("path"), str):
        raise DataError(f"entry {number} of {manifest} has no 'path'; give each entry the path of its audio file")
    weight = row.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
        raise DataError(f"entry {number} of {manifest} has the weight {weight!r}; a weight is a number from 0 up")
    return Entry(str(manifest.parent / row["path"]) + _part(row, number, manifest), str(row.get("source", "")), float(weight))


def _part(row: dict[str, Any], number: int, manifest: Path) -> str:
    """Of a file, as the end of its name. ``seconds`` alone is a note of how long the file is."""
    if "start" not in row:
        return ""
    start, seconds = row["start"], row.get("seconds", math.inf)
    for value in (start, seconds):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise DataError(f"entry {number} of {manifest} has the start {start!r} and {seconds!r} seconds; both are numbers from 0 up")
    return f"#t={start:.6f}" + ("" if seconds == math.inf else f",{start + seconds:.6f}")


def audio_suffixes() -> set[str]:
    """Of the files that soundfile reads: ".flac" and so on."""
    import soundfile

    return {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | {
        ".aif",
        ".aifc",
        ".oga",
        ".opus",
    }


def _int16(wav: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(wav * 32767), -32767, 32767).astype("<i2")
