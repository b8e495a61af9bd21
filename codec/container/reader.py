"""Reading a .tok file block by block: whole, still being written, or what is left of a damaged one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO
from zlib import crc32

import numpy as np

from codec.container.layout import (
    BIT_PACKED, BLOCK, CRC, END, ENDING, ENTROPY, LOST_CODES, MAGIC, MAX_CODES, MAX_HEADER, MAX_PAYLOAD, MULTI_RATE,
    PREFIX, SYNC, TOTALS, VERSION, WRITE_CODES, Header, TokError, Totals,
)
from codec.container.source import Source
from codec.entropy import Prior, priors_in_the_box, unpack
from codec.tokens import frames_for, samples_for


class TokReader:
    """Reads a .tok file block by block, in constant memory, from a path, a pipe or an open binary file.

    `spec`, `num_codebooks`, `sample_rate` and `channels` are known at once, `num_samples`, `lost` and
    `complete` (its end block is there) after `blocks()`.

    Args:
        source: a path, `-`, or an open binary file; it need not be seekable.
        salvage: read what is left of a damaged file. Lost frames repeat the good frame before them (at the start: after
            them), and `lost` names their ranges.
        still_writing: the file is still being written: the end block may be missing, and the last block incomplete.
        prior: of the model, or several, for entropy-coded blocks; those of models in the box are found without.

    Raises TokError for all bytes that are not a whole .tok file, and for a path that cannot be read.
    """

    def __init__(
        self, source: str | os.PathLike[str] | BinaryIO, salvage: bool = False, still_writing: bool = False,
        prior: Prior | Sequence[Prior] | None = None,
    ):
        self.salvage, self.still_writing = salvage, still_writing
        self._priors: Sequence[Prior] = (prior,) if isinstance(prior, Prior) else prior or ()
        self._owned = False
        self._file = self._open(source)
        self._source = Source(self._file, self.name)
        self.num_samples: int | None = None
        self.complete = False  # whether the end block has been read
        self.payload_bytes = 0  # of the blocks that have been read
        self.prior_ids: set[bytes] = set()  # by which they were entropy-coded
        self._lost: list[tuple[int, int]] = []
        self._frames = self._blocks = 0
        try:
            self._json = self._read_header()
            self.header = self._parse_header(self._json)
        except BaseException:
            self.close()
            raise
        self._layout = self.header.layout
        self._coding = MULTI_RATE if self._layout.multi_rate else BIT_PACKED
        self._seed = self._running = crc32(PREFIX.pack(MAGIC, VERSION, len(self._json)) + self._json)
        self._budget = LOST_CODES // len(self._layout.sizes)
        self.spec, self.num_codebooks = self.header.spec, self.header.num_codebooks
        self.sample_rate, self.channels = self.header.sample_rate, self.header.channels

    def _open(self, source: str | os.PathLike[str] | BinaryIO) -> BinaryIO:
        if hasattr(source, "read"):
            self.name = str(getattr(source, "name", "the input"))
            return source
        if str(source) == "-":
            self.name = "standard input"
            return sys.stdin.buffer
        self.name, self._owned = str(source), True
        try:
            return open(source, "rb")
        except FileNotFoundError:
            raise TokError(f"{self.name}: no such file") from None
        except IsADirectoryError:
            raise TokError(f"{self.name}: is a folder, not a .tok file") from None
        except (OSError, ValueError) as error:
            raise TokError(f"{self.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def __enter__(self) -> TokReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes what was opened here; a file that was handed in stays open."""
        if self._owned:
            self._file.close()

    @property
    def lost(self) -> tuple[tuple[int, int], ...]:
        """Frame ranges (start, stop) that were not there to read, merged and ascending."""
        return tuple(self._lost)

    # Header

    def _read_header(self) -> bytes:
        """The header's JSON."""
        try:
            return self._read_header_at_start()
        except TokError as error:
            if not self.salvage:
                raise
            copy = self._read_header_copy()
            if copy is None:
                raise TokError(f"{error}; and no copy of its header can be read: there is nothing to salvage") from None
            self._source.find(SYNC, END)
            return copy

    def _read_header_at_start(self) -> bytes:
        start = self._source.peek(PREFIX.size)
        if not start:
            raise TokError(f"{self.name}: is empty")
        if not start.startswith(MAGIC[: len(start)]):
            raise TokError(f"{self.name}: is not a .tok file")
        if len(start) < PREFIX.size:
            raise TokError(f"{self.name}: is cut short in its header: fetch it again")
        _, version, size = PREFIX.unpack(start)
        if version != VERSION:
            raise TokError(
                f"{self.name}: has format version {version}, this program reads version {VERSION}: it needs a newer "
                "version of the program, or the file is damaged"
            )
        if size > MAX_HEADER:
            raise TokError(f"{self.name}: its header is damaged: fetch the file again")
        data = self._source.peek(PREFIX.size + size + CRC.size)
        if len(data) < PREFIX.size + size + CRC.size:
            raise TokError(f"{self.name}: is cut short in its header: fetch it again")
        if CRC.pack(crc32(data[: -CRC.size])) != data[-CRC.size :]:
            raise TokError(f"{self.name}: its header is damaged: fetch the file again, or try salvage")
        self._source.skip(len(data))
        return data[PREFIX.size : -CRC.size]

    def _parse_header(self, data: bytes) -> Header:
        try:
            return Header.from_json(data)
        except ValueError as error:
            raise TokError(f"{self.name}: its header cannot be understood: {error}") from None

    def _read_header_copy(self) -> bytes | None:
        """The header as the end block repeats it; None for a pipe, and when the end is missing or damaged as well."""
        try:
            return self._read_end()[ENDING.size : -TOTALS.size - CRC.size]
        except (OSError, AttributeError, TokError):
            return None

    # The end

    def totals(self) -> Totals:
        """What the end block says, without reading the blocks. Raises TokError for a pipe or a file without its end."""
        try:
            data = self._read_end()
        except (OSError, AttributeError):
            raise TokError(f"{self.name}: is a pipe; its totals are known only after reading it") from None
        return self._check_end(data)

    def _read_end(self) -> bytes:
        """The bytes of the end block, checked against their own checksum; the place in the file is kept."""
        place = self._file.tell()
        try:
            size = self._file.seek(0, os.SEEK_END)
            tail = min(size, ENDING.size + MAX_HEADER + TOTALS.size + CRC.size)
            self._file.seek(size - tail)
            data = self._file.read(tail)
        finally:
            self._file.seek(place)
        least = ENDING.size + TOTALS.size + CRC.size
        if len(data) >= least:
            length = TOTALS.unpack(data[-TOTALS.size - CRC.size : -CRC.size])[-1]
            if least <= length <= len(data):
                data = data[-length:]
                if data.startswith(END) and CRC.pack(crc32(data[: -CRC.size])) == data[-CRC.size :]:
                    return data
        raise TokError(f"{self.name}: is cut short or damaged: its end is missing")

    def _check_end(self, data: bytes) -> Totals:
        """The totals of an end block whose checksum is right; its numbers must fit each other and the header."""
        frames, samples, blocks, running, size = TOTALS.unpack(data[-TOTALS.size - CRC.size : -CRC.size])
        if data[ENDING.size : -TOTALS.size - CRC.size] != self._json or size != len(data):
            raise TokError(f"{self.name}: its end does not belong to its header: fetch the file again")
        if frames_for(samples, self.header.sample_rate, self.header.spec) != frames:
            raise TokError(f"{self.name}: its totals contradict each other ({frames} frames, {samples} samples)")
        return Totals(frames, samples, blocks, running)

    # Blocks

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first frame, codes (channels, K, T) int64) from start to end, without gaps. Once only."""
        before = None  # (channels, K, 1) the last good frame
        while True:
            found, skipped = self._next()
            if isinstance(found, _Block):
                codes = found.codes
                yield from self._fill(found.first, codes[..., :1] if before is None else before, skipped)
                yield found.first, codes
                self._blocks, self._frames, before = found.index + 1, found.first + codes.shape[2], codes[..., -1:]
                continue
            if self.salvage and before is None and (found is None or found.num_frames):
                raise TokError(f"{self.name}: not one of its blocks is whole: there is nothing to salvage")
            if found is not None:
                yield from self._fill(found.num_frames, before, skipped)
                self.num_samples, self.complete = found.num_samples, True
            else:
                whole = self._frames // self.spec.frame_multiple * self.spec.frame_multiple  # of a live file: may end anywhere
                self.num_samples = samples_for(whole, self.sample_rate, self.spec)
            return

    def _next(self) -> tuple[_Block | Totals | None, int]:
        """The next block or the end; None where a file that may lack its end stops. And the bytes skipped."""
        skipped = 0
        while True:
            try:
                return self._read_next(skipped), skipped
            except NoPrior:
                raise
            except TokError as error:
                if not self.salvage:
                    if self.still_writing and isinstance(error, _CutShort):
                        return None, 0
                    raise
            place = self._source.position
            self._source.skip(1)
            if not self._source.find(SYNC, END):
                return None, skipped
            skipped += self._source.position - place

    def _read_next(self, skipped: int) -> _Block | Totals:
        marker = self._source.peek(len(SYNC))
        if not marker and self._blocks:
            raise self._cut_short(f"after block {self._blocks}")
        if not marker:
            raise self._cut_short("before its first block")
        if END.startswith(marker) and not SYNC.startswith(marker):
            return self._read_totals(skipped)
        return self._read_block(skipped)

    def _read_block(self, skipped: int) -> _Block:
        head = self._source.peek(BLOCK.size)
        if not SYNC.startswith(head[: len(SYNC)]):
            raise self._damaged()
        if len(head) < BLOCK.size:
            raise self._cut_short(f"in block {self._blocks + 1}")
        _, index, first, frames, coding, size = BLOCK.unpack(head)
        if not self._follows(index, first, skipped) or not 1 <= frames * len(self._layout.sizes) <= MAX_CODES:
            raise self._damaged()
        if size > MAX_PAYLOAD or coding == self._coding and size != self._layout.num_bytes(first, frames):
            raise self._damaged()
        data = self._source.peek(BLOCK.size + size + CRC.size)
        if len(data) < BLOCK.size + size + CRC.size:
            raise self._cut_short(f"in block {self._blocks + 1}")
        crc = data[-CRC.size :]
        if CRC.pack(crc32(data[: -CRC.size], self._seed)) != crc:
            raise self._damaged(frames)
        payload = data[BLOCK.size : -CRC.size]
        if coding == self._coding:
            codes = self._layout.unpack(payload, first, frames)
        elif coding == ENTROPY and not self._layout.multi_rate:
            codes = self._decode(payload, index, frames)
        else:
            raise TokError(
                f"{self.name}: block {index + 1} uses coding {coding}: it needs a newer version of the program"
            )
        if (codes.max(axis=1) >= self._layout.sizes).any():
            raise TokError(f"{self.name}: block {index + 1} holds codes that its codebooks do not have: encode again")
        self._source.skip(len(data))
        self._running, self.payload_bytes = crc32(crc, self._running), self.payload_bytes + len(payload)
        return _Block(index, first, codes.reshape(self.channels, self.num_codebooks, frames))

    def _decode(self, payload: bytes, index: int, frames: int) -> np.ndarray:
        """Entropy-coded codes (channels * K, frames). Without the right prior nothing can be read, salvaging or not."""
        block = f"{self.name}: block {index + 1}"
        if frames * len(self._layout.sizes) > WRITE_CODES:
            raise TokError(f"{block} holds more than {WRITE_CODES} entropy-coded codes: encode again")
        prior = self._prior(payload[:4], block)
        try:
            shape = self.channels, self.num_codebooks, frames
            codes = unpack(payload, shape, self.spec.codebook_sizes, prior)
        except ValueError:
            raise TokError(f"{block} holds no codes that its prior can have made: encode again") from None
        return codes.reshape(-1, frames)

    def _prior(self, wanted: bytes, block: str) -> Prior:
        """The one that a block was coded with: of those that were given, or of the model in the box."""
        try:
            if all(prior.id != wanted for prior in self._priors):
                self._priors = *self._priors, *priors_in_the_box(self.spec.name)
            for prior in self._priors:
                if prior.id == wanted:
                    self.prior_ids.add(wanted)
                    prior.check(self.spec, self.num_codebooks)
                    return prior
        except ValueError as error:
            raise NoPrior(f"{block} is entropy-coded with prior {wanted.hex()}: {error}") from None
        own = " and ".join(prior.id.hex() for prior in self._priors)
        raise NoPrior(f"{block} is entropy-coded with prior {wanted.hex()}, and at hand is {own}: "
                      "name the folder of the model that has it, or give the prior by which it was encoded")

    def _read_totals(self, skipped: int) -> Totals:
        head = self._source.peek(ENDING.size)
        size = ENDING.size + len(self._json) + TOTALS.size + CRC.size
        data = self._source.peek(size)
        if len(data) < size:
            raise self._cut_short("in its end block")
        if ENDING.unpack(head)[1] > MAX_HEADER or CRC.pack(crc32(data[: -CRC.size])) != data[-CRC.size :]:
            raise TokError(f"{self.name}: its end block is damaged; all {self._blocks} blocks before it are whole: "
                           f"{_SALVAGE}")
        totals = self._check_end(data)
        if not self._follows(totals.num_blocks, totals.num_frames, skipped):
            raise TokError(
                f"{self.name}: holds {self._blocks} blocks and {self._frames} frames, its end says {totals.num_blocks} "
                f"and {totals.num_frames}: {_SALVAGE}"
            )
        if not self.salvage and totals.running_crc != self._running:
            raise TokError(f"{self.name}: its blocks are not those that its end counts: fetch the file again")
        self._source.skip(size)
        if not self.salvage and self._source.peek(1):
            raise TokError(f"{self.name}: goes on after its end: it may be several files in one; {_SALVAGE}")
        return totals

    def _follows(self, index: int, first: int, skipped: int) -> bool:
        """Whether block `index` starting at frame `first` can come next; when salvaging, after a gap of likely size."""
        blocks, frames = index - self._blocks, first - self._frames
        if not self.salvage or blocks <= 0:
            return blocks == frames == 0
        return blocks <= frames <= self._budget + self._frames_in(skipped)

    def _frames_in(self, num_bytes: int) -> int:
        return int(num_bytes * 8 // self._layout.bits_per_frame)

    def _fill(self, stop: int, frame: np.ndarray, skipped: int) -> Iterator[tuple[int, np.ndarray]]:
        """Repeats `frame` (channels, K, 1) over the lost frames up to `stop`, and notes that they are lost."""
        start = self._frames
        if start == stop:
            return
        self._budget -= max(0, stop - start - self._frames_in(skipped))
        self._lost.append((start, stop))
        step = max(1, MAX_CODES // len(self._layout.sizes))
        for at in range(start, stop, step):
            yield at, np.repeat(frame, min(step, stop - at), axis=2)

    # Errors: blocks are counted from 1

    def _damaged(self, frames: int | None = None) -> TokError:
        start = self._frames / self.header.spec.frame_rate
        end = "on" if frames is None else f"to {start + frames / self.header.spec.frame_rate:.2f} s"
        return TokError(f"{self.name}: block {self._blocks + 1}, from {start:.2f} s {end}, is damaged: {_SALVAGE}")

    def _cut_short(self, where: str) -> _CutShort:
        seconds = self._frames / self.header.spec.frame_rate
        return _CutShort(f"{self.name}: is cut short {where}; {seconds:.2f} s are whole: {_SALVAGE}")


_SALVAGE = "fetch the file again, or decode what is left with --salvage (in Python: salvage=True)"


class _CutShort(TokError):
    """The input ends where a block should go on or begin."""


class NoPrior(TokError):
    """Blocks are whole, but entropy-coded by a prior that is not here."""


@dataclass(frozen=True)
class _Block:
    index: int
    first: int  # frame
    codes: np.ndarray  # (channels, K, T)
