"""Codes as bits: how the payload of a .tok block is laid out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class Layout:
    """Bit-packing of columns of codes.

    Args:
        sizes (columns,): of the codebook of each column; a code takes ceil(log2(size)) bits.
        strides (columns,): frames for which each column holds one code, counted from the start of the file; all 1 but
            for codebooks of several frame rates. Every block stores the code that its first frame has, so that it can
            be read without the one before.

    Columns of one stride are written frame by frame, in each frame column by column, the highest bit first; zeros fill
    their last byte. Smaller strides come first.
    """

    def __init__(self, sizes: np.ndarray, strides: np.ndarray):
        self.sizes, self.strides = np.asarray(sizes), np.asarray(strides)
        self.widths = np.array([int(size - 1).bit_length() for size in self.sizes])
        self._rates = [(int(stride), np.flatnonzero(self.strides == stride)) for stride in np.unique(self.strides)]

    @property
    def multi_rate(self) -> bool:
        return bool((self.strides != 1).any())

    @property
    def bits_per_frame(self) -> float:
        return float((self.widths / self.strides).sum())

    def num_bytes(self, first: int, frames: int) -> int:
        """Bytes of a block of `frames` frames that starts at frame `first`."""
        return sum(-(-len(_starts(first, frames, stride)) * int(self.widths[columns].sum()) // 8)
                   for stride, columns in self._rates)

    def pack(self, codes: np.ndarray, first: int = 0) -> bytes:
        """Codes (columns, T) from frame `first` on to bits. Raises ValueError where a code changes within its stride."""
        parts = []
        for stride, columns in self._rates:
            starts = _starts(first, codes.shape[1], stride)
            stored = codes[columns][:, starts]
            if stride > 1 and not np.array_equal(_held(stored, starts, codes.shape[1]), codes[columns]):
                raise ValueError(f"codebooks of stride {stride} must hold each code for {stride} frames from the start on")
            parts.append(_pack(stored, self.widths[columns]))
        return b"".join(parts)

    def unpack(self, payload: bytes, first: int, frames: int) -> np.ndarray:
        """What `pack` wrote, as codes (columns, T) int64. The payload must have `num_bytes`."""
        codes, at = np.empty((len(self.widths), frames), dtype=np.int64), 0
        for stride, columns in self._rates:
            starts, widths = _starts(first, frames, stride), self.widths[columns]
            size = -(-len(starts) * int(widths.sum()) // 8)
            codes[columns] = _held(_unpack(payload[at : at + size], widths, len(starts)), starts, frames)
            at += size
        return codes


def _starts(first: int, frames: int, stride: int) -> np.ndarray:
    """Frames of a block, counted from its own first, at which a code is stored."""
    return np.unique(np.concatenate([[0], np.arange(-first % stride, frames, stride)])).astype(np.int64)


def _held(stored: np.ndarray, starts: np.ndarray, frames: int) -> np.ndarray:
    return np.repeat(stored, np.diff(np.append(starts, frames)), axis=1)


def _pack(codes: np.ndarray, widths: np.ndarray) -> bytes:
    bits = np.empty((codes.shape[1], int(widths.sum())), dtype=np.uint8)  # (T, bits of a frame)
    for width, columns, where in _bit_places(widths):
        shifts = np.arange(width - 1, -1, -1)
        bits[:, where] = (codes[columns].T[:, :, None] >> shifts & 1).reshape(len(bits), -1)
    return np.packbits(bits).tobytes()


def _unpack(payload: bytes, widths: np.ndarray, frames: int) -> np.ndarray:
    per_frame = int(widths.sum())
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), count=frames * per_frame).reshape(frames, per_frame)
    codes = np.zeros((len(widths), frames), dtype=np.int64)
    for width, columns, where in _bit_places(widths):
        places = bits[:, where].reshape(frames, len(columns), width)
        for bit in range(width):
            codes[columns] = codes[columns] << 1 | places[:, :, bit].T
    return codes


def _bit_places(widths: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each width: the columns that have it, and where in a frame their bits lie (columns * width,)."""
    starts = np.cumsum(widths) - widths
    for width in np.unique(widths):
        columns = np.flatnonzero(widths == width)
        yield int(width), columns, (starts[columns][:, None] + np.arange(width)).ravel()
