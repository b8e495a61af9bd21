"""Spectrograms as PNG and sounds as FLAC, in data that a page carries with it."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import soundfile

ROWS, COLUMNS = 96, 320
WINDOW = 384  # two bins a row
DECIBELS = 75.0  # from the loudest bin of the original down to black
LEVELS = 48
STOPS = ((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164))


def power(wav: np.ndarray) -> np.ndarray:
    """Samples (T,) to a spectrogram (ROWS, COLUMNS) of mean power, low frequencies in the last row."""
    wav = np.pad(wav.astype(np.float32), (WINDOW // 2, WINDOW // 2))
    hop = max(1, (len(wav) - WINDOW) // (2 * COLUMNS))
    frames = np.lib.stride_tricks.sliding_window_view(wav, WINDOW)[::hop]
    bins = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2  # (n, WINDOW // 2 + 1)
    columns = [part.mean(0) for part in np.array_split(bins[:, :-1], min(COLUMNS, len(bins)))]
    return np.stack(columns).T.reshape(ROWS, -1, len(columns)).mean(1)[::-1]


def spectrogram(wav: np.ndarray, loudest: float) -> str:
    """A data URI of the picture. loudest: the power that is brightest, so that pictures can be compared."""
    decibels = 10 * np.log10(np.maximum(power(wav), 1e-20) / max(loudest, 1e-20))
    levels = np.clip((decibels / DECIBELS + 1) * (LEVELS - 1), 0, LEVELS - 1)
    return "data:image/png;base64," + base64.b64encode(png(np.rint(levels).astype(np.uint8))).decode()


def png(levels: np.ndarray) -> bytes:
    """Levels (rows, columns) below LEVELS as a PNG with a palette (RFC 2083)."""
    rows, columns = levels.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    steps = np.linspace(0, len(STOPS) - 1, LEVELS)
    palette = np.stack([np.interp(steps, range(len(STOPS)), [stop[c] for stop in STOPS]) for c in range(3)], 1)
    lines = np.pad(levels, ((0, 0), (1, 0)))  # each line starts with its filter: none
    head = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", np.rint(palette).astype(np.uint8).tobytes()) + chunk(
        b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")


def read(path: Path) -> tuple[np.ndarray, int] | None:
    """Samples (T,) and rate of a kept sound, or None where it is not there."""
    try:
        return soundfile.read(path, dtype="float32")
    except (OSError, soundfile.LibsndfileError):
        return None


def sound(wav: np.ndarray, rate: int) -> str:
    """Base64 of the samples as FLAC of 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wav, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode()
