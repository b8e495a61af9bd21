"""Which recordings of a corpus are measured: layouts that datasets have on disk, and a fixed list.

    recordings("LibriSpeech/test-clean")            # any folder: by what it looks like
    recordings("DAPS", limit=20)                    # spread evenly over what there is, always the same ones
    recordings("list.txt")                          # one path a line, relative to the list
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

AUDIO = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64", ".m4a"}


class DatasetError(ValueError):
    """There is nothing to measure; one line that says why and how to mend it."""


@dataclass(frozen=True)
class Item:
    """One recording. name: its path below the corpus, with `/`, the same on every machine; speaker and label where the layout
    tells them; fold: which part of a cross-validation it is in, where the corpus has its own."""

    path: str
    name: str
    speaker: str = ""
    label: str = ""
    fold: str = ""


def recordings(source: str | Path, layout: str = "", limit: int | None = None) -> list[Item]:
    """The recordings of a corpus, sorted by name.

    source: a folder, a list (.txt, one path a line), a manifest (.json, .jsonl: its entries of split eval), or one file.
    layout: one of `LAYOUTS`; found out by default.
    limit: at most so many, spread evenly.
    Raises DatasetError where there are none.
    """
    source = Path(source).expanduser()
    if layout and layout not in LAYOUTS:
        raise DatasetError(f"no layout is called {layout!r}: there is {', '.join(LAYOUTS)}")
    if not source.exists():
        raise DatasetError(f"{source}: no such file or folder")
    if source.is_dir():
        read = LAYOUTS[layout] if layout else next(read for name, read in LAYOUTS.items() if _looks_like(name, source))
        items = sorted(read(source), key=lambda item: item.name)
    elif source.suffix.lower() == ".txt":
        items = _listed(source)
    elif source.suffix.lower() in (".json", ".jsonl"):
        items = _manifest(source)
    else:
        items = [Item(str(source), readable(source.name))]
    if not items:
        raise DatasetError(f"{source} holds no audio files: name a folder with recordings ({', '.join(sorted(AUDIO))})")
    if limit is not None and limit < len(items):
        items = [items[number * len(items) // limit] for number in range(limit)]
    return items


def _librispeech(folder: Path) -> Iterator[Item]:
    """SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac, as in LibriSpeech and LibriTTS."""
    for item in _folder(folder):
        yield Item(item.path, item.name, Path(item.name).name.replace("_", "-").split("-")[0])


def _vctk(folder: Path) -> Iterator[Item]:
    """wav48_silence_trimmed/p225/p225_001_mic1.flac (of two microphones the first) or wav48/p225/p225_001.wav."""
    for item in _folder(folder):
        path = Path(item.name)
        if path.parts[0].startswith("wav") and not path.stem.endswith("_mic2"):
            yield Item(item.path, item.name, path.parent.name)


def _daps(folder: Path) -> Iterator[Item]:
    """clean/f1_script1_clean.wav and the folders of rooms; the clean ones, without the breaths of `cleanraw`."""
    for item in _folder(folder):
        path = Path(item.name)
        if path.parts[0] == "clean" and not path.name.startswith("._"):
            yield Item(item.path, item.name, path.name.split("_")[0])


def _esc50(folder: Path) -> Iterator[Item]:
    """audio/1-100032-A-0.wav with meta/esc50.csv, which tells the classes."""
    with open(folder / "meta" / "esc50.csv", newline="", encoding="utf-8") as file:
        labels = {row["filename"]: (row["category"], row.get("fold") or "") for row in csv.DictReader(file)}
    for item in _folder(folder):
        name = Path(item.name).name
        if name in labels:
            yield Item(item.path, item.name, "", *labels[name])


def _musdb(folder: Path) -> Iterator[Item]:
    """test/ARTIST - TITLE/mixture.wav (MUSDB18-HQ): the mixtures of the test set, or of all where there is none."""
    found = [item for item in _folder(folder) if Path(item.name).stem == "mixture"]
    test = [item for item in found if Path(item.name).parts[0] == "test"]
    for item in test or found:
        yield Item(item.path, item.name, "", Path(item.name).parent.name)


def _folder(folder: Path) -> Iterator[Item]:
    """Every audio file, by its suffix; hidden ones left out, and the samples of sweeps that were written there."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix.lower() in AUDIO and path.is_file() and not any(part.startswith(".") for part in name.parts) and not (
            path.parent.name == "samples" and (path.parent.parent / "cells").is_dir() and (path.parent.parent / "settings.json").is_file()
        ):
            yield Item(str(path), readable(name.as_posix()))


LAYOUTS: dict[str, Callable[[Path], Iterator[Item]]] = {
    "esc50": _esc50, "musdb": _musdb, "vctk": _vctk, "daps": _daps, "librispeech": _librispeech, "folder": _folder,
}


def readable(text: str) -> str:
    """Names of files may hold bytes that are no UTF-8, which tables and pages cannot: they become \\udcXX."""
    return text.encode("utf-8", "backslashreplace").decode()


def _looks_like(layout: str, folder: Path) -> bool:
    if layout == "esc50":
        return (folder / "meta" / "esc50.csv").is_file()
    if layout == "musdb":
        return next(folder.glob("*/*/mixture.wav"), None) is not None
    if layout == "vctk":
        return (folder / "wav48_silence_trimmed").is_dir() or (folder / "wav48").is_dir()
    if layout == "daps":
        return (folder / "clean").is_dir() and next((folder / "clean").glob("*_script*_clean.*"), None) is not None
    if layout == "librispeech":
        return next(folder.glob("*/*/*.trans.txt"), None) is not None or next(folder.glob("*/*/*.normalized.txt"), None) is not None
    return True


def _listed(source: Path) -> list[Item]:
    lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    return _unique([Item(str(source.parent / line), line) for line in lines if line and not line.startswith("#")], source)


def _manifest(source: Path) -> list[Item]:
    from codec.training.listing import DataError, list_audio, rows_of

    try:
        entries = list_audio(source, split="eval")
    except DataError as error:
        raise DatasetError(str(error)) from None
    told = {str(source.parent / row["path"]): [str(row.get(key) or "") for key in ("speaker", "label", "fold")]
            for row in rows_of(source) if isinstance(row, dict) and "path" in row}
    paths = [Path(entry.path) for entry in entries]
    names = [path.relative_to(source.parent).as_posix() if path.is_relative_to(source.parent) else str(path) for path in paths]
    return _unique([Item(entry.path, name, *told.get(entry.path, ())) for entry, name in zip(entries, names)], source)


def _unique(items: Sequence[Item], source: Path) -> list[Item]:
    names = [item.name for item in items]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise DatasetError(f"{source} names {twice[0]} twice: name each recording once")
    return list(items)
