"""Every sample enters and leaves here: files, pipes, resampling; in blocks, so that length costs no memory."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from codec.atomic import Output, WriteError

MIN_RATE, MAX_RATE = 1000, 768_000  # Hz
MAX_CHANNELS = 64
BLOCK = 1 << 16  # samples of each channel
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's length of files that do not say theirs lies above this


class AudioError(ValueError):
    """Audio that cannot be read or written, and what to do about it, on one line."""


def check_layout(sample_rate: int, channels: int, name: str) -> None:
    """Raises AudioError for a sample rate or a number of channels that this toolkit does not take."""
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise AudioError(f"{name}: sample rate {sample_rate} Hz is outside {MIN_RATE} to {MAX_RATE}: resample it first")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: {channels} channels; 1 to {MAX_CHANNELS} are taken: split it first")


# Reading


class _Sequential(soundfile.SoundFile):
    """Reads from start to end. Without this, soundfile seeks after each block, which fails for unknown lengths."""

    def seekable(self) -> bool:
        return False


class AudioReader:
    """Reads audio of any format that soundfile knows, in blocks.

    Args:
        source: a path, `-` for standard input, or an open binary file. What cannot seek is first copied to a temporary
            file on disk, since most formats need it.

    `sample_rate` and `channels` are known at once; `num_samples` too where the format counts exactly. It is None for
    Ogg, MP3 without its tag and FLAC from a pipe: count what `blocks()` gives.

    Raises AudioError for anything that is not whole, finite audio; some damage shows only while reading `blocks()`.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO):
        self._closing = contextlib.ExitStack()
        try:
            self._raw, opened = self._open(source)
            try:
                self._sound = self._open_sound(opened, _check_whole(self._raw, self.name))
            except (soundfile.LibsndfileError, TypeError, RuntimeError) as error:  # TypeError: headerless .raw
                raise AudioError(
                    f"{self.name}: is not audio that can be read ({_reason(error)}): convert it first, e.g. "
                    "ffmpeg -i FILE fixed.wav"
                ) from None
            except OSError as error:
                raise AudioError(f"{self.name}: cannot be read: {error.strerror or error}") from error
            self.sample_rate: int = self._sound.samplerate
            self.channels: int = self._sound.channels
            check_layout(self.sample_rate, self.channels, self.name)
            frames = self._sound.frames
            self._promised = frames if frames < _UNKNOWN_FRAMES else None
            # Some Ogg files count time that no packet fills, so that they hold slightly fewer samples than they say.
            self._slack = self.sample_rate // 10 if self._sound.format == "OGG" else 0
            self.num_samples: int | None = None if self._slack else self._promised
            if self._promised == 0:
                raise AudioError(f"{self.name}: holds no samples")
        except BaseException:
            self.close()
            raise

    def _open(self, source: str | os.PathLike[str] | BinaryIO) -> tuple[BinaryIO, str | BinaryIO]:
        """The bytes, seekable, and what to hand to libsndfile: the path of plain files, which is fastest."""
        if hasattr(source, "read"):
            self.name = str(getattr(source, "name", "the input"))
            raw = self._seekable(source)
            return raw, raw
        if str(source) == "-":
            self.name = "standard input"
            raw = self._seekable(sys.stdin.buffer)
            return raw, raw
        self.name = str(source)
        try:
            raw = self._closing.enter_context(open(source, "rb"))
            if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
                raw = self._seekable(raw)
                return raw, raw
        except FileNotFoundError:
            raise AudioError(f"{self.name}: no such file") from None
        except IsADirectoryError:
            raise AudioError(f"{self.name}: is a folder, not an audio file") from None
        except (OSError, ValueError) as error:
            raise AudioError(f"{self.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return raw, str(Path(source))

    def _seekable(self, file: BinaryIO) -> BinaryIO:
        try:
            if file.seekable() and file.tell() == 0:
                return file
        except (AttributeError, OSError):
            pass
        spool = self._closing.enter_context(tempfile.TemporaryFile())
        try:
            shutil.copyfileobj(file, spool, 1 << 20)
        except OSError as error:
            raise AudioError(
                f"{self.name}: cannot be copied to a temporary file ({error.strerror or error}): set TMPDIR to a "
                "folder with room for it"
            ) from error
        spool.seek(0)
        return spool

    def _open_sound(self, opened: str | BinaryIO | _View, repaired: _View | None) -> soundfile.SoundFile:
        if repaired is not None:
            opened = repaired
        elif opened is self._raw:
            opened = _View(self._raw)
        self._raw.seek(0)
        sound = self._closing.enter_context(_Sequential(opened))
        place = self._raw.tell()  # libsndfile's, where it reads through this object
        if sound.format != "MP3" or _mp3_says_its_length(self._raw):
            self._raw.seek(place)
            return sound
        # libsndfile estimates their length from the first bit rate and reads no further; from a pipe it reads all
        sound.close()
        return self._closing.enter_context(_Sequential(self._pipe(), closefd=False))

    def _pipe(self) -> int:
        """A pipe from which the whole file can be read."""
        out, into = os.pipe()
        self._raw.seek(0)

        def feed() -> None:
            try:
                with open(into, "wb") as pipe:
                    shutil.copyfileobj(self._raw, pipe, 1 << 16)
            except BrokenPipeError:
                pass  # closed before its end

        feeder = threading.Thread(target=feed, daemon=True)
        self._closing.callback(feeder.join)
        self._closing.callback(os.close, out)  # first: it ends the feeder
        feeder.start()
        return out

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes what was opened here; a file that was handed in stays open."""
        self._closing.close()

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Yields float32 (C, n), full scale at 1; n is `size` but for the last. Once only."""
        done = 0
        while True:
            try:
                block = self._sound.read(size, dtype="float32", always_2d=True)  # (n, C)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise self._broken(done, _reason(error)) from None
            if not np.isfinite(block).all():
                at = done + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                raise AudioError(
                    f"{self.name}: holds NaN or infinite samples, the first at {at / self.sample_rate:.3f} s: "
                    "export it again from its source"
                )
            done += len(block)
            if len(block):
                yield np.ascontiguousarray(block.T)
            if len(block) < size:
                break
        if self._promised is not None and not self._promised - self._slack <= done <= self._promised:
            raise self._broken(done, f"{done} of {self._promised} samples are there")
        if done == 0:
            raise AudioError(f"{self.name}: holds no samples")

    def _broken(self, done: int, reason: str) -> AudioError:
        return AudioError(
            f"{self.name}: is cut short or damaged after {done / self.sample_rate:.2f} s ({reason}): fetch it again, "
            "or convert what can be read with ffmpeg -i FILE fixed.wav"
        )


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".:")


# libsndfile reads a file that was cut short as if it had been shorter from the start. So its header is read here too.


class _View:
    """A binary file for libsndfile: some bytes may read differently, and wild seeks of damaged files raise nothing."""

    def __init__(self, file: BinaryIO, at: int = 0, data: bytes = b""):
        self._file, self._at, self._data = file, at, data

    def read(self, size: int) -> bytes:
        start = self._file.tell()
        piece = bytearray(self._file.read(size))
        for i, byte in enumerate(self._data, self._at - start):
            if 0 <= i < len(piece):
                piece[i] = byte
        return bytes(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # libsndfile notices that the place is another
            return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()


def _check_whole(file: BinaryIO, name: str) -> _View | None:
    """Raises AudioError for an empty file and where the header promises more than the file holds.

    Returns a repaired view of a WAV file whose sizes were never filled in.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size == 0:
        raise AudioError(f"{name}: is empty")
    magic = file.read(16)
    if magic.startswith(b"OggS"):
        _check_ogg(file, size, name)
        return None
    data = _find_data(file, magic, size)
    if data is None:
        return None
    start, promised, open_ended = data
    if not open_ended and start + promised > size:
        raise AudioError(
            f"{name}: is cut short: {size - start} of {promised} bytes of sound are there; fetch it again, or keep "
            "what is there with ffmpeg -i FILE fixed.wav"
        )
    riff_size = struct.unpack("<I", magic[4:8])[0]
    if magic.startswith(b"RIFF") and promised == 0 and size > start and riff_size + 8 != size:
        return _View(file, 4, struct.pack("<I", 8))  # libsndfile's mark of a recording that was not closed
    return None


def _find_data(file: BinaryIO, magic: bytes, size: int) -> tuple[int, int, bool] | None:
    """Where the samples of a WAV, RF64, AIFF, W64, CAF or AU file begin, their bytes, whether that is a stand-in."""
    if magic[:4] == b".snd" and len(magic) >= 12:
        start, promised = struct.unpack(">II", magic[4:12])
        return start, promised, promised >= 0xFFFFFF00
    if magic[:4] == b"caff":
        at, head, order, wanted = 8, 12, ">4sq", b"data"
    elif magic[:4] == b"riff":
        at, head, order, wanted = 40, 24, "<4s12xQ", b"data"
    elif magic[:4] in (b"RIFF", b"RF64", b"BW64") and magic[8:12] == b"WAVE":
        at, head, order, wanted = 12, 8, "<4sI", b"data"
    elif magic[:4] == b"RIFX" and magic[8:12] == b"WAVE":
        at, head, order, wanted = 12, 8, ">4sI", b"data"
    elif magic[:4] == b"FORM" and magic[8:12] in (b"AIFF", b"AIFC"):
        at, head, order, wanted = 12, 8, ">4sI", b"SSND"
    else:
        return None
    wide = head > 8  # 64-bit sizes
    long_size = None  # of RF64's data, from its ds64 chunk
    for _ in range(10_000):
        file.seek(at)
        chunk = file.read(head)
        if len(chunk) < head:
            return None
        kind, length = struct.unpack(order, chunk)
        if kind == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if magic[:4] == b"riff":
            length -= head  # W64 counts the chunk's head
        if kind == wanted:
            if long_size is not None and length == 0xFFFFFFFF:
                return at + head, long_size, long_size == 0
            open_ended = not 0 <= length < 1 << 62 if wide else length >= 0xFFFFF000 or length in _PIPED
            return at + head, length, open_ended or length == 0
        if length < 0:
            return None
        padding = -length % 8 if magic[:4] == b"riff" else 0 if magic[:4] == b"caff" else length % 2
        at += head + length + padding
        if at >= size:
            return None
    return None


_PIPED = frozenset([0x7F000000 + 8, *range(2**31 - 4096, 2**31 + 4097)])  # sizes that sox and arecord write to a pipe


def _check_ogg(file: BinaryIO, size: int, name: str) -> None:
    """The last page of an Ogg file must be whole and marked as the last of its stream."""
    tail_size = min(size, 2 * 65536)  # a page has at most 65307 bytes
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"OggS")
    page = tail[at:] if at >= 0 else b""
    body = 27 + page[26] if len(page) >= 27 else 0  # behind the page's header and its table of segments
    whole = body and len(page) >= body + sum(page[27:body]) and len(page) >= body
    if not whole or not page[5] & 4:
        raise AudioError(
            f"{name}: is cut short: the last page of its Ogg stream is missing; fetch it again, or keep what is there "
            "with ffmpeg -i FILE fixed.wav"
        )


def _mp3_says_its_length(file: BinaryIO) -> bool:
    """Whether the first frame of an MP3 carries a Xing or Info tag with a number of frames."""
    file.seek(0)
    start, head = 0, file.read(10)
    while head[:3] == b"ID3" and len(head) == 10:
        length = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
        start += 10 + length + (10 if head[5] & 16 else 0)
        file.seek(start)
        head = file.read(10)
    file.seek(start)
    first = file.read(2048)
    at = max(first.find(b"Xing"), first.find(b"Info"))
    return at >= 0 and len(first) >= at + 8 and bool(first[at + 7] & 1)


# Writing

_FORMATS = {  # extension: libsndfile's container and default coding
    "wav": ("WAV", "PCM_16"), "rf64": ("RF64", "PCM_16"), "w64": ("W64", "PCM_16"), "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"), "oga": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"), "aif": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16"),
}
_VORBIS_MAX_RATE = 200_000
_WAV_TAGS = {"PCM_16": (1, 2), "PCM_24": (1, 3), "FLOAT": (3, 4)}  # format tag, bytes a sample


class AudioWriter:
    """Writes audio block by block; the file appears under its name when `close` has all of it.

    Args:
        target: a path, `-` for standard output, or an open binary file. Pipes take WAV, which is written as it comes,
            with the sizes that mean "until the end".
        sample_rate: in Hz.
        channels: 1 to 64; many formats take fewer.
        format: `wav`, `flac`, `ogg`, `opus`, `mp3`, `aiff`, `au`, `caf`, `w64` or `rf64`; by default the extension
            says, and WAV where there is none to look at. WAV files over 4 GB turn into RF64 by themselves.
        subtype: a coding of soundfile, e.g. FLOAT or PCM_24; 16-bit PCM by default where the format has it.

    Samples beyond full scale are clipped, except in float files. Use it as a context: leaving it by an exception
    removes what was written to a path. Raises AudioError for what the format cannot hold and when
    the output cannot be written.
    """

    def __init__(
        self, target: str | os.PathLike[str] | BinaryIO, sample_rate: int, channels: int, format: str | None = None,
        subtype: str | None = None,
    ):
        self.name = str(getattr(target, "name", "the output")) if hasattr(target, "write") else str(target)
        self.sample_rate, self.channels = sample_rate, channels
        check_layout(sample_rate, channels, self.name)
        self._container, default = self._format(target, format)
        self._subtype = (subtype or default).upper()
        self._closed, self._sound = False, None
        self._bytes = 0
        try:
            self._output = Output(target)
        except WriteError as error:
            raise AudioError(str(error)) from error
        try:
            self._start()
        except BaseException:
            self._output.discard()
            raise

    def _format(self, target: str | os.PathLike[str] | BinaryIO, format: str | None) -> tuple[str, str]:
        extension = "" if hasattr(target, "write") else Path(target).suffix.lower().lstrip(".")
        wanted = (format or extension or "wav").lower()
        if format is None and not hasattr(target, "write") and os.path.exists(target) and not os.path.isfile(target):
            wanted = extension if extension in _FORMATS else "wav"  # a device or a named pipe
        if wanted not in _FORMATS:
            raise AudioError(f"{self.name}: audio is not written as {wanted!r}: choose one of {', '.join(_FORMATS)}")
        return _FORMATS[wanted]

    def _start(self) -> None:
        if self._container == "WAV" and self._subtype in _WAV_TAGS:
            self._put(self._wav_header(None))
            return
        if not self._output.seekable:
            raise AudioError(f"{self.name}: a pipe takes WAV (PCM_16, PCM_24, FLOAT); {self._container} needs a file")
        if self._subtype == "VORBIS" and self.sample_rate > _VORBIS_MAX_RATE:  # libsndfile crashes
            raise self._unfit(ValueError("the sample rate is too high"))
        self._guard = _Guard(self._output)
        try:
            self._sound = soundfile.SoundFile(
                self._guard, "w", self.sample_rate, self.channels, self._subtype, format=self._container
            )
        except (soundfile.LibsndfileError, ValueError, TypeError) as error:
            raise self._unfit(error) from None

    def _unfit(self, error: Exception) -> AudioError:
        kind = "Opus" if self._subtype == "OPUS" else self._container
        return AudioError(
            f"{self.name}: {kind} as {self._subtype} cannot hold {self.channels} channels at {self.sample_rate} Hz "
            f"({_reason(error)}): write .wav instead"
        )

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, wav: np.ndarray) -> None:
        """Append float samples (C, n), n >= 0, full scale at 1."""
        wav = np.asarray(wav)
        if wav.ndim != 2 or wav.shape[0] != self.channels:
            raise AudioError(f"{self.name}: takes samples of shape ({self.channels}, n), got {wav.shape}")
        for start in range(0, wav.shape[1], BLOCK):
            block = np.asarray(wav[:, start : start + BLOCK].T, dtype=np.float32, order="C")  # (n, C)
            if np.isnan(block).any():
                raise AudioError(f"{self.name}: NaN samples cannot be written")
            if self._sound is None:
                self._put(_to_bytes(block, self._subtype))
            else:
                self._sound_write(block)

    def _sound_write(self, block: np.ndarray) -> None:
        if self._subtype == "PCM_16":
            block = _to_int(block, 16).astype(np.int16)
        elif self._subtype not in ("FLOAT", "DOUBLE"):
            block = np.clip(block, -1, 1)
        try:
            self._sound.write(block)
        except (soundfile.LibsndfileError, AssertionError) as error:  # AssertionError: a part was written
            self._guard.check()
            raise self._unfit(error) from None
        self._guard.check()

    def _put(self, data: bytes) -> None:
        try:
            self._output.write(data)
        except WriteError as error:
            raise AudioError(str(error)) from error
        self._bytes += len(data)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._closed:
            return
        try:
            if self._sound is not None:
                self._sound.close()
                self._guard.check()
            else:
                self._finish_wav()
            self._output.commit()
            self._closed = True
        except WriteError as error:
            raise AudioError(str(error)) from error
        except soundfile.LibsndfileError as error:
            raise self._unfit(error) from None
        finally:
            if not self._closed:
                self.discard()

    def discard(self) -> None:
        """Leave the target as it was."""
        if self._closed:
            return
        self._closed = True
        if self._sound is not None:
            try:
                self._sound.close()
            except soundfile.LibsndfileError:
                pass  # it is thrown away
        self._output.discard()

    def _finish_wav(self) -> None:
        data = self._bytes - _WAV_HEADER
        if data % 2:
            self._put(b"\0")
        if self._output.seekable:
            self._output.seek(0)
            self._output.write(self._wav_header(data))
            self._output.seek(0, os.SEEK_END)

    def _wav_header(self, data: int | None) -> bytes:
        """Header of a WAV file with `data` bytes of samples, RF64 above 4 GB; None: sizes that mean until the end."""
        tag, width = _WAV_TAGS[self._subtype]
        frame = width * self.channels
        fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, self.channels, self.sample_rate,
                          min(self.sample_rate * frame, 0xFFFFFFFF), frame, 8 * width)
        riff = None if data is None else _WAV_HEADER - 8 + data + data % 2
        if riff is not None and riff >= 0xFFFFF000:  # https://tech.ebu.ch/docs/tech/tech3306v1_1.pdf
            head = struct.pack("<4sI4s", b"RF64", 0xFFFFFFFF, b"WAVE")
            room = struct.pack("<4sIQQQI", b"ds64", 28, riff, data, data // frame, 0)
            return head + room + fmt + struct.pack("<4sI", b"data", 0xFFFFFFFF)
        size, length = (0xFFFFFFFF, 0xFFFFFFFF) if data is None else (riff, data)
        room = struct.pack("<4sI28x", b"JUNK", 28)  # where ds64 goes
        return struct.pack("<4sI4s", b"RIFF", size, b"WAVE") + room + fmt + struct.pack("<4sI", b"data", length)


_WAV_HEADER = 12 + 36 + 24 + 8  # bytes


class _Guard:
    """Keeps the error of a failed write, which libsndfile's callbacks would print and swallow."""

    def __init__(self, output: Output):
        self._output, self._error = output, None
        self.read, self.tell = output.read, output.tell

    def write(self, data: bytes) -> int:
        if self._error is not None:
            return 0
        try:
            return self._output.write(bytes(data))
        except WriteError as error:
            self._error = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._output.seek(offset, whence)
        except WriteError as error:
            self._error = self._error or error
            return self._output.tell()

    def check(self) -> None:
        if self._error is not None:
            raise AudioError(str(self._error)) from self._error


def _to_int(block: np.ndarray, bits: int) -> np.ndarray:
    """Float samples to integers, rounded and clipped; the inverse of how libsndfile reads them."""
    scale = 1 << (bits - 1)
    return np.clip(np.rint(block.astype(np.float64) * scale), -scale, scale - 1).astype(np.int32)


def _to_bytes(block: np.ndarray, subtype: str) -> bytes:
    if subtype == "FLOAT":
        return block.astype("<f4").tobytes()
    if subtype == "PCM_16":
        return _to_int(block, 16).astype("<i2").tobytes()
    return np.ascontiguousarray(_to_int(block, 24).astype("<i4")).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


# Resampling


class Resampler:
    """Streaming conversion of the sample rate by soxr, "HQ" quality; chunking changes nothing, bit for bit.

    n samples become ceil(n * to_rate / from_rate) once flushed. Equal rates pass through untouched.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int):
        check_layout(from_rate, channels, "resampling")
        check_layout(to_rate, channels, "resampling")
        self.from_rate, self.to_rate, self.channels = from_rate, to_rate, channels
        self._taken = self._given = 0
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")

    def process(self, wav: np.ndarray) -> np.ndarray:
        """Samples (C, n) to those that are ready, (C, m) float32."""
        wav = np.asarray(wav, dtype=np.float32)
        if wav.ndim != 2 or wav.shape[0] != self.channels:
            raise AudioError(f"resampling takes samples of shape ({self.channels}, n), got {wav.shape}")
        self._taken += wav.shape[1]
        return wav if self._stream is None else self._run(wav, last=False)

    def flush(self) -> np.ndarray:
        """The last samples (C, m). Nothing may follow."""
        if self._stream is None or self._taken == 0:
            return np.zeros((self.channels, 0), np.float32)
        silence = 2 * math.ceil(self.from_rate / self.to_rate)  # soxr rounds the length; this makes it enough
        return self._run(np.zeros((self.channels, silence), np.float32), last=True)

    def _run(self, wav: np.ndarray, last: bool) -> np.ndarray:
        out = self._stream.resample_chunk(np.ascontiguousarray(wav.T), last=last).T
        due = -(-self._taken * self.to_rate // self.from_rate)
        out = np.ascontiguousarray(out[:, : due - self._given])
        self._given += out.shape[1]
        return out


def resample(wav: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """A whole array (C, n) at `from_rate` Hz to (C, ceil(n * to / from)) at `to_rate`; bitwise what Resampler gives."""
    resampler = Resampler(from_rate, to_rate, wav.shape[0])
    return np.concatenate([resampler.process(wav), resampler.flush()], axis=1)


class LostBand:
    """Measures, while encoding, how much of the energy lies above the band that a model codes."""

    def __init__(self, from_rate: int, model_rate: int, model_name: str):
        self._from_rate, self._model_rate, self._model_name = from_rate, model_rate, model_name
        self._before = self._after = 0.0

    def update(self, wav: np.ndarray, resampled: np.ndarray) -> None:
        """A block as it was read (C, n) and what the resampler gave for it (C, m); they need not be aligned."""
        self._before += _energy(wav) / self._from_rate
        self._after += _energy(resampled) / self._model_rate

    @property
    def lost(self) -> float:
        """The share of the energy that is lost, 0 to 1."""
        if self._from_rate <= self._model_rate or self._before == 0:
            return 0.0
        return min(max(1 - self._after / self._before, 0.0), 1.0)

    def note(self, threshold: float = 0.01) -> str | None:
        """A line for the user when at least `threshold` of the energy is lost."""
        if self.lost < threshold:
            return None
        return (
            f"note: {100 * self.lost:.0f} % of the energy lies above {self._model_rate / 2000:g} kHz, "
            f"which {self._model_name} does not code"
        )


def _energy(wav: np.ndarray) -> float:
    flat = np.ravel(wav).astype(np.float64)
    return float(flat @ flat)
