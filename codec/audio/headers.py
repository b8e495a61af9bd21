"""Headers of audio files: libsndfile reads a file that was cut short as if it had been shorter from the start, so they are read
here, too."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from codec.audio import ogg
from codec.audio.common import AudioError


class View:
    """A binary file for libsndfile: some bytes may read differently, and wild seeks of damaged files raise nothing."""

    def __init__(self, file: BinaryIO, at: int = 0, data: bytes = b""):
        self.file, self._at, self._data = file, at, data

    def read(self, size: int) -> bytes:
        start = self.file.tell()
        piece = bytearray(self.file.read(size))
        for i, byte in enumerate(self._data, self._at - start):
            if 0 <= i < len(piece):
                piece[i] = byte
        return bytes(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self.file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # libsndfile notices that the place is another
            return self.file.tell()

    def tell(self) -> int:
        return self.file.tell()


def check_whole(file: BinaryIO, name: str) -> View | None:
    """Raises AudioError for an empty file and where the header promises more than the file holds.

    Returns a repaired view of a WAV file whose sizes were never filled in, and of an Opus file whose pages miscount its
    samples.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size == 0:
        raise AudioError(f"{name}: is empty")
    magic = file.read(16)
    if magic.startswith(b"OggS"):
        _check_ogg(file, size, name)
        copy = ogg.steady(file)
        return None if copy is None else View(copy)
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
        return View(file, 4, struct.pack("<I", 8))  # libsndfile's mark of a recording that was not closed
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
    """The last page of an Ogg file must be whole and marked as the last of its stream, and all pages fit their checksums."""
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
    if (at := ogg.damage(file)) is not None:
        raise AudioError(
            f"{name}: is damaged after {at} bytes (a page of its Ogg stream does not fit its checksum): fetch it again, or "
            "convert what can be read with ffmpeg -i FILE fixed.wav"
        )


def mp3_says_its_length(file: BinaryIO) -> bool:
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
