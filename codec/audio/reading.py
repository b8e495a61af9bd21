"""Reading audio files and pipes in blocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from codec.audio.common import BLOCK, AudioError, check_layout, reason
from codec.audio.headers import View, check_whole, mp3_says_its_length

_UNKNOWN_FRAMES = 1 << 62  # libsndfile's length of files that do not say theirs lies above this


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
            self._raw, self._opened = self._open(source)
            self.rewind()
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
        path = str(Path(source))
        return raw, path if path == path.encode("utf-8", "replace").decode() else raw  # libsndfile takes no names of other bytes

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

    def _open_sound(self, opened: str | BinaryIO | View, repaired: View | None) -> soundfile.SoundFile:
        if repaired is not None:
            opened = repaired
            if repaired.file is not self._raw:
                self._closing.enter_context(repaired.file)
        elif opened is self._raw:
            opened = View(self._raw)
        self._raw.seek(0)
        sound = self._closing.enter_context(_Sequential(opened))
        place = self._raw.tell()  # libsndfile's, where it reads through this object
        if sound.format != "MP3" or mp3_says_its_length(self._raw):
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

    def rewind(self) -> None:
        """To the start, once `blocks()` have been read to their end, to read them again. Raises AudioError where that is not possible."""
        try:
            self._sound = self._open_sound(self._opened, check_whole(self._raw, self.name))
        except (soundfile.LibsndfileError, TypeError, RuntimeError) as error:  # TypeError: headerless .raw
            raise AudioError(
                f"{self.name}: is not audio that can be read ({reason(error)}): convert it first, e.g. "
                "ffmpeg -i FILE fixed.wav"
            ) from None
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be read: {error.strerror or error}") from error

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Yields float32 (C, n), full scale at 1; n is `size` but for the last. Once only, or after `rewind`."""
        done = 0
        while True:
            try:
                block = self._sound.read(size, dtype="float32", always_2d=True)  # (n, C)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise self._broken(done, reason(error)) from None
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
