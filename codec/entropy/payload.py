"""Codes of a block as an entropy-coded payload, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codec.entropy.ans import SCALE, Decoder, encode
from codec.entropy.prior import Prior

CHUNK = 1 << 18  # frequencies that are computed at once


def pack(codes: np.ndarray, sizes: Sequence[int], prior: Prior) -> bytes:
    """Codes (channels, K, T) of a block, the codebooks of which have `sizes`.

    Frame by frame, codebook by codebook, channel by channel. Where the prior does not know a codebook, all its codes are equally
    likely.
    """
    channels, count, frames = codes.shape
    starts, widths = np.empty((2, frames, count, channels), dtype=np.int64)
    rows, order = _rows(channels, count, frames, prior), prior.context.order
    rows[:count, order:] = codes.transpose(1, 2, 0)
    for k in range(count):
        if k >= len(prior.sizes):
            widths[:, k] = (1 << SCALE) // sizes[k]
            starts[:, k] = rows[k, order:] * widths[:, k]
            continue
        step = max(1, CHUNK // (channels * sizes[k]))
        for at in range(0, frames, step):
            stop = min(at + step, frames)
            before = [rows[:, order - o + at : order - o + stop].reshape(len(rows), -1) for o in range(1, order + 1)]
            now = rows[:, order + at : order + stop].reshape(len(rows), -1)  # (K, n * channels)
            table = prior.frequencies(k, before, now)
            place = np.arange(len(table)), now[k]
            starts[at:stop, k] = (np.cumsum(table, axis=1) - table)[place].reshape(-1, channels)
            widths[at:stop, k] = table[place].reshape(-1, channels)
    return prior.id + encode(starts.ravel().tolist(), widths.ravel().tolist())


def unpack(payload: bytes, shape: tuple[int, int, int], sizes: Sequence[int], prior: Prior) -> np.ndarray:
    """What `pack` wrote, as codes (channels, K, T) int64. Raises ValueError for what it cannot have written."""
    if payload[: len(prior.id)] != prior.id:
        raise ValueError("another prior")
    channels, count, frames = shape
    decoder = Decoder(payload[len(prior.id) :])
    rows, order = _rows(channels, count, frames, prior), prior.context.order
    for t in range(order, order + frames):
        before, now = [rows[:, t - o] for o in range(1, order + 1)], rows[:, t]
        for k in range(count):
            if k < len(prior.sizes):
                _take(decoder, np.cumsum(prior.frequencies(k, before, now), axis=1), now[k])
            else:
                _take_flat(decoder, sizes[k], now[k])
    if not decoder.at_end:
        raise ValueError("bytes are left over")
    return rows[:count, order:].transpose(2, 0, 1).copy()


def _rows(channels: int, count: int, frames: int, prior: Prior) -> np.ndarray:
    """(K, order + frames, channels) to be filled, with "none" in all of the prior's codebooks."""
    rows = np.zeros((max(count, len(prior.sizes)), prior.context.order + frames, channels), dtype=np.int64)
    rows[: len(prior.sizes)] = np.array(prior.sizes)[:, None, None]
    return rows


def _take(decoder: Decoder, ends: np.ndarray, codes: np.ndarray) -> None:
    """The next codes (channels,), with the sums of their frequencies (channels, size)."""
    for channel, end in enumerate(ends):
        code = int(end.searchsorted(decoder.place, side="right"))
        start = int(end[code - 1]) if code else 0
        decoder.take(start, int(end[code]) - start)
        codes[channel] = code


def _take_flat(decoder: Decoder, size: int, codes: np.ndarray) -> None:
    """The next codes (channels,) of a codebook that the prior does not know."""
    width = (1 << SCALE) // size
    for channel in range(len(codes)):
        code = decoder.place // width
        if code >= size:
            raise ValueError("a code beyond its codebook")
        decoder.take(code * width, width)
        codes[channel] = code
