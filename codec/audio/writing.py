"""Writing audio files and pipes block by block."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from codec.atomic import Output, WriteError
from codec.audio.common import BLOCK, AudioError, check_layout, reason

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
            f"({reason(error)}): write .wav instead"
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
