"""Writing a .tok file live, block by block."""

from __future__ import annotations

import os
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from codec.atomic import Output
from codec.correction import Correction
from codec.container.layout import (
    BIT_PACKED, BLOCK, BLOCK_FRAMES, CRC, END, ENDING, ENTROPY, MAGIC, MULTI_RATE, PREFIX, SYNC, TOTALS, VERSION,
    WRITE_CODES, Header,
)
from codec.entropy import Prior, pack
from codec.tokens import TokenSpec, frames_for


class TokWriter:
    """Writes a .tok file block by block, in constant memory.

    Args:
        target: a path (written beside and renamed by `finish`), `-` for standard output, or an open binary file.
        spec: the model that makes the codes.
        num_codebooks: that are stored, 1 to those of the model.
        sample_rate: of the audio in Hz.
        channels: of the audio.
        prior: of the model, to entropy-code each block that gets smaller by it; readers need it too.
        bitrate: that was asked for, in bit/s of each channel, where it is a variable one; the header tells it.
        correction: what was done to each channel before, which decoding takes off.

    Use it as a context: leaving it by an exception removes what was written to a path.
    Raises ValueError for codes or numbers that do not fit, WriteError when the output cannot be written.
    """

    def __init__(
        self, target: str | os.PathLike[str] | BinaryIO, spec: TokenSpec, num_codebooks: int, sample_rate: int,
        channels: int = 1, prior: Prior | None = None, bitrate: float | None = None, correction: Correction = Correction(),
    ):
        self.header = Header(spec, num_codebooks, sample_rate, channels, bitrate, correction)
        self._json = self.header.to_json()
        self._layout, self._prior = self.header.layout, prior
        if prior is not None:
            prior.check(spec, num_codebooks)
        self._coding = MULTI_RATE if self._layout.multi_rate else BIT_PACKED
        self._block_frames = max(1, min(BLOCK_FRAMES, WRITE_CODES // len(self._layout.sizes)))
        self._waiting: list[np.ndarray] = []  # each (channels * K, T)
        self._num_waiting = self._num_frames = self._num_blocks = 0
        self._finished = False
        self._output = Output(target)
        try:
            prefix = PREFIX.pack(MAGIC, VERSION, len(self._json)) + self._json
            self._seed = self._running = crc32(prefix)
            self._output.write(prefix + CRC.pack(self._seed))
        except BaseException:
            self._output.discard()
            raise

    def __enter__(self) -> TokWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._finished:
            return
        self._output.discard()
        if kind is None:
            raise ValueError("call finish(num_samples) before leaving: without its end a .tok file counts as cut short")

    def write(self, codes: Any) -> None:
        """Append codes (channels, K, T), a tensor or an array of integers, T >= 0."""
        codes = np.asarray(codes.detach().cpu() if hasattr(codes, "detach") else codes)
        expected = (self.header.channels, self.header.num_codebooks)
        if codes.ndim != 3 or codes.shape[:2] != expected or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"codes of shape {codes.shape}, {codes.dtype}: this file takes integers (*{expected}, T)")
        codes = codes.reshape(len(self._layout.sizes), codes.shape[2])
        if codes.size and (codes.min() < 0 or (codes.max(1) >= self._layout.sizes).any()):
            raise ValueError(f"codes must lie within the codebooks, sizes {self.header.spec.codebook_sizes}")
        self._waiting.append(codes.astype(np.int64))
        self._num_waiting += codes.shape[1]
        if self._num_waiting >= self._block_frames:
            self._write_blocks(all_of_it=False)

    def flush(self) -> None:
        """Write what waits as a block now, so that a live reader gets it. Small blocks cost 29 bytes each."""
        self._write_blocks(all_of_it=True)
        self._output.flush()

    def finish(self, num_samples: int) -> None:
        """Write the end block and give the file its name. `num_samples` of the audio, at its own rate."""
        frames = self._num_frames + self._num_waiting
        needed = frames_for(num_samples, self.header.sample_rate, self.header.spec)
        if num_samples < 0 or needed != frames:
            raise ValueError(f"finish({num_samples}): so many samples make {needed} frames, but {frames} were written")
        self._write_blocks(all_of_it=True)
        size = ENDING.size + len(self._json) + TOTALS.size + CRC.size
        end = ENDING.pack(END, len(self._json)) + self._json
        end += TOTALS.pack(self._num_frames, num_samples, self._num_blocks, self._running, size)
        self._output.write(end + CRC.pack(crc32(end)))
        self._output.commit()
        self._finished = True

    def _write_blocks(self, all_of_it: bool) -> None:
        if not self._num_waiting:
            return
        codes = np.concatenate(self._waiting, axis=1)
        size = self._block_frames
        stop = codes.shape[1] if all_of_it else codes.shape[1] // size * size
        for start in range(0, stop, size):
            self._write_block(codes[:, start : min(start + size, stop)])
        self._waiting = [codes[:, stop:].copy()]
        self._num_waiting -= stop

    def _write_block(self, codes: np.ndarray) -> None:
        payload, coding, frames = self._layout.pack(codes, self._num_frames), self._coding, codes.shape[1]
        if self._prior is not None:
            shape = self.header.channels, self.header.num_codebooks, frames
            coded = pack(codes.reshape(shape), self.header.spec.codebook_sizes, self._prior)
            if len(coded) < len(payload):
                payload, coding = coded, ENTROPY
        block = BLOCK.pack(SYNC, self._num_blocks, self._num_frames, frames, coding, len(payload)) + payload
        crc = CRC.pack(crc32(block, self._seed))  # seeded by the header: a block of another file does not pass for ours
        self._output.write(block + crc)
        self._running = crc32(crc, self._running)
        self._num_frames += frames
        self._num_blocks += 1
