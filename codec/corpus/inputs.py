"""Which recordings a corpus is made of, with what is known of them, and their samples in blocks."""

from __future__ import annotations

import io
import json
import math
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from codec.audio import BLOCK, AudioError, AudioReader, check_layout
from codec.corpus import tables
from codec.training.listing import TAR, DataError, audio_suffixes, entry_of, place, rows_of

SIDECAR = 1 << 20  # bytes: of texts beside the audio in a tar file, larger ones are not read
KINDS = "a folder of audio, a .txt list, a .jsonl manifest, a .tar or a .parquet"
OF_THE_PLACE = ("path", "start", "seconds")  # keys of a manifest's row that are not kept as metadata


@dataclass(frozen=True, slots=True)
class Input:
    """One recording, or a part of one.

    name: what metadata calls it, relative to SRC where it can be, so that a corpus does not depend on where it was made.
    size: bytes, of a part its share, by which recordings are split into shards.
    member: first byte and bytes, in a tar file; None for a whole file.
    cell: audio column and row, in a Parquet or Arrow file.
    error: why it cannot be read, where that is known already.
    """

    name: str
    file: str
    size: int
    member: tuple[int, int] | None = None
    start: float = 0.0
    stop: float = math.inf
    meta: dict[str, Any] | None = None
    error: str = ""
    cell: tuple[str, int] | None = None

    @property
    def is_part(self) -> bool:
        return self.start > 0 or self.stop < math.inf


def list_inputs(source: str | os.PathLike[str], split: str | None = None) -> list[Input]:
    """The recordings of a corpus, in a fixed order. Raises DataError.

    A folder (through its manifest.json where it has one): audio files by name, and those in tar, Parquet and Arrow files.
    A tar file, as of WebDataset: .json and .txt of the same name are metadata and text.
    A list (.txt): a name a line, relative to the list; "a.flac#t=1,2.5" is a part in seconds, "a.tar!/b.flac" a member.
    A manifest (.jsonl, .json): `path`, relative to it, optionally `start` and `seconds`, and metadata, of which `text` has
    a place of its own.
    A dataset of `datasets`: Parquet files as on the hub, or what `save_to_disk` has made; see `codec.corpus.tables`.
    split: keep only its entries of a manifest, or its Parquet and Arrow files.
    """
    source = Path(source).expanduser()
    if source.is_dir() and (source / "manifest.json").is_file():
        source = source / "manifest.json"
    kind = source.suffix.lower()
    if split is not None and kind not in (".json", ".jsonl") and not (source.is_dir() and next(_tables(source), None)):
        raise DataError(f"{source} has no splits, only manifests and datasets have: leave split={split!r} out, or name one")
    if source.is_dir():
        inputs = list(_of_folder(source, split))
    elif not source.is_file():
        raise DataError(f"{source}: no such file or folder; name {KINDS}")
    elif kind == TAR:
        inputs = _of_tar(source, source.name)
    elif kind in tables.SUFFIXES:
        inputs = _of_table(source, source.name)
    elif kind == ".txt":
        inputs = list(_named((line, source.parent / line, None) for line in _lines(source)))
    elif kind in (".json", ".jsonl"):
        inputs = list(_of_manifest(source, split))
    else:
        raise DataError(f"{source}: is no corpus: name {KINDS}; for one file there is codec encode")
    if not inputs:
        raise DataError(f"{source} names no audio file{f' of split {split!r}' if split else ''}")
    return inputs


def _of_folder(source: Path, split: str | None) -> Iterator[Input]:
    """With a split, of its tables alone."""
    suffixes = audio_suffixes() | {TAR} if split is None else set()
    found = [path for path in source.rglob("*") if path.suffix.lower() in suffixes and path.is_file()]
    found += [path for path in _tables(source) if split is None or tables.is_of_split(path, source, split)]
    for path in sorted(found):
        name = path.relative_to(source).as_posix()
        if path.suffix.lower() == TAR:
            yield from _of_tar(path, name)
        elif path.suffix in tables.SUFFIXES:
            yield from _of_table(path, name)
        else:
            yield Input(name, str(path), path.stat().st_size)


def _tables(source: Path) -> Iterator[Path]:
    return (path for path in source.rglob("*") if path.suffix in tables.SUFFIXES and path.is_file() and tables.is_table(path))


def _of_table(path: Path, name: str) -> list[Input]:
    """None of a table without audio. A damaged file is one input, which says why."""
    try:
        column, rows = tables.read_rows(path)
    except DataError:
        raise
    except (OSError, ValueError) as error:
        return [Input(name, str(path), path.stat().st_size, error=f"it is no whole table ({' '.join(str(error).split())})")]
    return [
        Input(f"{name}!/{number}", str(path), row.size, meta=row.meta or None, cell=(column, number))
        for number, row in enumerate(rows)
    ]


def _of_tar(path: Path, name: str) -> list[Input]:
    """One pass over the headers: workers go straight to a member. A damaged file is one input, which says why."""
    suffixes, audio, beside = audio_suffixes(), [], {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                suffix = Path(member.name).suffix.lower()
                if member.isfile() and suffix in suffixes:
                    audio.append((member.name, member.offset_data, member.size))
                elif member.isfile() and suffix in (".txt", ".json") and member.size <= SIDECAR:
                    beside.setdefault(_key(member.name), {}).update(_sidecar(tar.extractfile(member).read(), suffix))
    except (OSError, tarfile.TarError) as error:
        return [Input(name, str(path), path.stat().st_size, error=f"it is no plain, whole tar file ({error})")]
    return [
        Input(f"{name}!/{member}", str(path), size, (offset, size), meta=beside.get(_key(member)))
        for member, offset, size in sorted(audio)
    ]


def _key(member: str) -> str:
    """WebDataset's: up to the first dot of the file's name."""
    folder, _, name = member.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


def _sidecar(content: bytes, suffix: str) -> dict[str, Any]:
    try:
        text = content.decode()
        value = json.loads(text) if suffix == ".json" else {"text": text.strip()}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _lines(source: Path) -> list[str]:
    try:
        return [line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"the list {source} cannot be read ({error}); it must hold one name a line, in UTF-8") from error


def _of_manifest(source: Path, split: str | None) -> Iterator[Input]:
    def named() -> Iterator[tuple[str, str, dict[str, Any] | None]]:
        for number, row in enumerate(rows_of(source), 1):
            entry = entry_of(row, number, source)
            if split is None or row.get("split") == split:
                name = row["path"] + entry.path[len(str(source.parent / row["path"])) :]
                yield name, entry.path, {k: v for k, v in row.items() if k not in OF_THE_PLACE} or None

    return _named(named())


def _named(names: Any) -> Iterator[Input]:
    """Inputs of (name, path, metadata), each of which may be a part or a member of a tar file."""
    tars: dict[str, dict[str, Input]] = {}
    for name, path, meta in names:
        where = place(path)
        if where.member and where.file not in tars:
            known = _of_tar(Path(where.file), "") if os.path.isfile(where.file) else []
            tars[where.file] = {found.name[2:]: found for found in known}
        found = tars[where.file].get(where.member) if where.member else None
        error = f"{where.file} has no audio file {where.member}" if where.member and found is None else ""
        size = found.size if found else os.path.getsize(where.file) if os.path.isfile(where.file) else 0
        if where.start > 0 or where.stop < math.inf:
            size = min(size, 32_000 * math.ceil(min(where.stop - where.start, 1e6)))  # a guess will do
        yield Input(
            name, where.file, size, found.member if found else None, where.start, where.stop,
            {**(found.meta or {} if found else {}), **(meta or {})} or None, error,
        )


@dataclass
class Audio:
    """sample_rate, channels, and blocks (channels, n) float32."""

    sample_rate: int
    channels: int
    blocks: Iterator[np.ndarray]


@contextmanager
def opened(item: Input) -> Iterator[Audio]:
    """The samples of a recording. Raises AudioError, where damage may show only in its blocks."""
    if item.error:
        raise AudioError(item.error)
    source: str | BinaryIO = item.file
    if item.member is not None:
        source = io.BufferedReader(_Slice(item.file, *item.member), BLOCK)
    elif item.cell is not None:
        source = _cell(item)
    if isinstance(source, str) and _utf8(source) != source:  # libsndfile takes no other names
        source = open(source, "rb")
    try:
        if item.is_part:
            with _part(item, source) as audio:
                yield audio
        else:
            with AudioReader(source) as reader:
                yield Audio(reader.sample_rate, reader.channels, reader.blocks())
    finally:
        if not isinstance(source, str):
            source.close()


@contextmanager
def _part(item: Input, source: Any) -> Iterator[Audio]:
    """From one second to another: the rest of the file is not read."""
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise AudioError(f"it is not audio that can be read ({error})") from None
    with file:
        check_layout(file.samplerate, file.channels, item.name)
        first = round(item.start * file.samplerate)
        last = file.frames if item.stop == math.inf else min(file.frames, round(item.stop * file.samplerate))
        if first >= last:
            seconds = file.frames / file.samplerate
            raise AudioError(f"it has no sound from {item.start:g} to {item.stop:g} s: it is {seconds:g} s long")

        def blocks() -> Iterator[np.ndarray]:
            done = 0
            try:
                file.seek(first)
                for block in file.blocks(BLOCK, frames=last - first, dtype="float32", always_2d=True):  # (n, channels)
                    if not np.isfinite(block).all():
                        raise AudioError("it holds NaN or infinite samples")
                    done += len(block)
                    yield np.ascontiguousarray(block.T)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise AudioError(f"it is damaged ({error})") from None
            if done != last - first:
                raise AudioError(f"it is cut short: {done} of {last - first} samples are there")

        yield Audio(file.samplerate, file.channels, blocks())


def _cell(item: Input) -> str | BinaryIO:
    found = tables.audio(item.file, *item.cell)
    if not found:
        raise AudioError("the row holds no audio" if found is None else "is empty")
    return found if isinstance(found, str) else _Bytes(found, item.file)


class _Bytes(io.BytesIO):
    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class _Slice(io.RawIOBase):
    """Some bytes of a file as a file: a member of a tar file, without a copy of it."""

    def __init__(self, path: str, offset: int, size: int):
        self._file, self._offset, self._size, self._at = open(path, "rb"), offset, size, 0
        self.name = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise ValueError(f"seek to {at}")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
