"""What a sweep keeps besides figures: the codes of every recording, and some decoded recordings to listen to."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import soundfile

from codec.atomic import put
from codec.evaluation.metrics import Coded
from codec.evaluation.sound import Sound
from codec.evaluation.sweep.cells import Cell

CODES, SAMPLES, VECTORS = "codes", "samples", "vectors"
HEARD = 6.0  # seconds of a recording


def codes(out: str, cell: Cell, coded: Coded) -> None:
    """Keep the codes of a recording, (K, frames) uint16, unless as many codebooks are there already."""
    path = codes_path(out, cell)
    if (there := read(path)) is not None and len(there) >= len(coded.codes):
        return
    _save(path, coded.codes.astype(np.uint16))  # no codebook has more than 65536


def codes_path(out: str | Path, cell: Cell) -> Path:
    return Path(out) / CODES / f"{_digest(cell.system, cell.key)}-{_digest(cell.file, cell.stamp)}.npy"


def vectors(out: str, cell: Cell, metric: str, both: np.ndarray) -> None:
    """Keep embeddings of a recording, (2, n, d): of the original and of what was decoded."""
    _save(vectors_path(out, cell, metric), both)


def vectors_path(out: str | Path, cell: Cell, metric: str) -> Path:
    return Path(out) / VECTORS / f"{metric}-{_digest(*cell.place, cell.made.get(metric, ''))}.npy"


def read(path: Path) -> np.ndarray | None:
    """What was kept, or None where there is no such file, or a torn one."""
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        return None


def sample(out: str, cell: Cell, original: Sound, decoded: Sound) -> None:
    """Keep the first seconds of a decoded recording, and of the original, as FLAC of 16 bits."""
    first = original_path(out, cell.file, cell.stamp)
    for path, sound in ((first, original), (sample_path(out, cell), decoded)):
        if not path.is_file():
            buffer = io.BytesIO()
            wav = np.clip(sound.wav[: round(HEARD * sound.rate)], -1, 1)
            soundfile.write(buffer, wav, sound.rate, format="FLAC", subtype="PCM_16")
            put(path, buffer.getvalue())


def original_path(out: str | Path, file: str, stamp: str) -> Path:
    return Path(out) / SAMPLES / f"{_digest(file, stamp)}.flac"


def sample_path(out: str | Path, cell: Cell) -> Path:
    return Path(out) / SAMPLES / f"{_digest(*cell.place)}.flac"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _save(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    put(path, buffer.getvalue())
