"""The .tok format: codes in checksummed blocks, written and read live, salvaged if need be. See docs/tok-format.md."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from codec.atomic import Output
from codec.packing import Layout
from codec.tokens import TokenSpec, frames_for, samples_for

MAGIC = b"\x93TOK\r\n\x1a\n"  # not text, not ASCII; shows line ends that a transfer has changed
VERSION = 1
SYNC = b"\xf5BLK"
END = b"\xf5END"
PREFIX = struct.Struct("<8sHI")  # magic, version, bytes of header
BLOCK = struct.Struct("<4sIQIBI")  # sync, index, first frame, frames, coding, bytes of payload
ENDING = struct.Struct("<4sI")  # sync, bytes of the header's copy, which follows
TOTALS = struct.Struct("<QQIII")  # frames, samples, blocks, CRC of all blocks, bytes of the whole end block
CRC = struct.Struct("<I")
BIT_PACKED, MULTI_RATE = 0, 1

MAX_HEADER = 16384  # bytes
MAX_CHANNELS = 256
MAX_CODES = 1 << 20  # in a block that is read
WRITE_CODES = 1 << 17  # in a block that is written
MAX_PAYLOAD = 2 * MAX_CODES  # bytes: 16 bits a code
BLOCK_FRAMES = 500  # 10 s at 50 frames a second
LOST_CODES = 1 << 20  # salvage fills gaps up to this many codes beyond what the damaged bytes can have held


class TokError(ValueError):
    """A .tok file that cannot be read, and what to do about it, on one line."""


# Header


@dataclass(frozen=True)
class Header:
    """What the file says of itself before its first block."""

    spec: TokenSpec
    num_codebooks: int
    sample_rate: int
    channels: int

    def __post_init__(self) -> None:
        if self.num_codebooks not in self.spec.counts:
            has = ", ".join(map(str, self.spec.counts))
            raise ValueError(f"num_codebooks={self.num_codebooks}: codebooks of this model decode as the first {has}")
        if not 1 <= self.sample_rate < 2**31:
            raise ValueError(f"sample_rate={self.sample_rate} must be positive, in Hz")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels={self.channels}: a .tok file holds 1 to {MAX_CHANNELS}")

    @property
    def layout(self) -> Layout:
        """Of the channels * K columns of codes."""
        spec, k = self.spec, self.num_codebooks
        return Layout(np.tile(spec.codebook_sizes[:k], self.channels), np.tile(spec.strides[:k], self.channels))

    def to_json(self) -> bytes:
        spec = self.spec
        fields = {
            "model": spec.name, "fingerprint": spec.fingerprint, "decoder_fingerprint": spec.decoder_fingerprint,
            "model_sample_rate": spec.sample_rate, "frame_size": spec.frame_size,
            "codebook_sizes": list(spec.codebook_sizes), "num_codebooks": self.num_codebooks,
            "sample_rate": self.sample_rate, "channels": self.channels,
        }
        if spec.counts != tuple(range(1, len(spec.codebook_sizes) + 1)):
            fields["codebook_counts"] = list(spec.counts)
        if max(spec.strides) > 1:
            fields["codebook_strides"] = list(spec.strides)
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Header:
        """Raises ValueError for anything that `to_json` does not write."""
        try:
            fields = json.loads(data)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")

        def get(name: str, kind: type) -> Any:
            value = fields.get(name)
            if type(value) is not kind:
                raise ValueError(f"{name} is missing or of the wrong type")
            return value

        def numbers(name: str) -> tuple[int, ...]:
            values = get(name, list)
            if not all(type(value) is int for value in values):
                raise ValueError(f"{name} are not whole numbers")
            return tuple(values)

        spec = TokenSpec(
            name=get("model", str), sample_rate=get("model_sample_rate", int), frame_size=get("frame_size", int),
            codebook_sizes=numbers("codebook_sizes"), fingerprint=get("fingerprint", str),
            decoder_fingerprint=get("decoder_fingerprint", str),
            counts=numbers("codebook_counts") if "codebook_counts" in fields else (),
            strides=numbers("codebook_strides") if "codebook_strides" in fields else (),
        )
        return cls(spec, get("num_codebooks", int), get("sample_rate", int), get("channels", int))


@dataclass(frozen=True)
class Totals:
    """What the end block says of the whole file."""

    num_frames: int
    num_samples: int
    num_blocks: int
    running_crc: int


# Writing


class TokWriter:
    """Writes a .tok file block by block, in constant memory.

    Args:
        target: a path (written beside and renamed by `finish`), `-` for standard output, or an open binary file.
        spec: the model that makes the codes.
        num_codebooks: that are stored, 1 to those of the model.
        sample_rate: of the audio in Hz.
        channels: of the audio.

    Use it as a context: leaving it by an exception removes what was written to a path.
    Raises ValueError for codes or numbers that do not fit, WriteError when the output cannot be written.
    """

    def __init__(
        self, target: str | os.PathLike[str] | BinaryIO, spec: TokenSpec, num_codebooks: int, sample_rate: int,
        channels: int = 1,
    ):
        self.header = Header(spec, num_codebooks, sample_rate, channels)
        self._json = self.header.to_json()
        self._layout = self.header.layout
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
        payload = self._layout.pack(codes, self._num_frames)
        frames = codes.shape[1]
        block = BLOCK.pack(SYNC, self._num_blocks, self._num_frames, frames, self._coding, len(payload)) + payload
        crc = CRC.pack(crc32(block, self._seed))  # seeded by the header: a block of another file does not pass for ours
        self._output.write(block + crc)
        self._running = crc32(crc, self._running)
        self._num_frames += frames
        self._num_blocks += 1


# Reading


class _Source:
    """A binary input with a look ahead. Reads in pieces: no number in a file allocates more than the file holds."""

    PIECE = 1 << 16

    def __init__(self, file: BinaryIO, name: str):
        self._file, self._name, self._buffer, self.position, self._ended = file, name, bytearray(), 0, False

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end of the input."""
        while len(self._buffer) < size and not self._ended:
            try:
                piece = self._file.read(min(self.PIECE, size - len(self._buffer)))
            except OSError as error:
                raise TokError(f"{self._name}: cannot be read: {error.strerror or error}") from error
            self._ended = not piece
            self._buffer += piece or b""
        return bytes(self._buffer[:size])

    def skip(self, size: int) -> None:
        del self._buffer[:size]
        self.position += size

    def find(self, marker: bytes, *others: bytes) -> bool:
        """Skip to the next of the markers; False at the end of the input."""
        while True:
            window = self.peek(self.PIECE)
            hits = [at for at in (window.find(m) for m in (marker, *others)) if at >= 0]
            if hits:
                self.skip(min(hits))
                return True
            if len(window) < self.PIECE:
                self.skip(len(window))
                return False
            self.skip(len(window) - len(marker) + 1)


class TokReader:
    """Reads a .tok file block by block, in constant memory, from a path, a pipe or an open binary file.

    `spec`, `num_codebooks`, `sample_rate` and `channels` are known at once, `num_samples`, `lost` and
    `complete` (its end block is there) after `blocks()`.

    Args:
        source: a path, `-`, or an open binary file; it need not be seekable.
        salvage: read what is left of a damaged file. Lost frames repeat the good frame before them (at the start: after
            them), and `lost` names their ranges.
        still_writing: the file is still being written: the end block may be missing, and the last block incomplete.

    Raises TokError for all bytes that are not a whole .tok file, and for a path that cannot be read.
    """

    def __init__(
        self, source: str | os.PathLike[str] | BinaryIO, salvage: bool = False, still_writing: bool = False
    ):
        self.salvage, self.still_writing = salvage, still_writing
        self._owned = False
        self._file = self._open(source)
        self._source = _Source(self._file, self.name)
        self.num_samples: int | None = None
        self.complete = False  # whether the end block has been read
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
        if coding != self._coding:
            raise TokError(
                f"{self.name}: block {index + 1} uses coding {coding}: it needs a newer version of the program"
            )
        codes = self._layout.unpack(data[BLOCK.size : -CRC.size], first, frames)
        if (codes.max(axis=1) >= self._layout.sizes).any():
            raise TokError(f"{self.name}: block {index + 1} holds codes that its codebooks do not have: encode again")
        self._source.skip(len(data))
        self._running = crc32(crc, self._running)
        return _Block(index, first, codes.reshape(self.channels, self.num_codebooks, frames))

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


@dataclass(frozen=True)
class _Block:
    index: int
    first: int  # frame
    codes: np.ndarray  # (channels, K, T)
