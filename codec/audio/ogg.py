"""Ogg files that are damaged, and Ogg Opus files whose pages count other samples than their packets hold.

ffmpeg writes such files of sources whose times jump by some samples: the count at the end of a page (its granule
position) is then too high, and that of the next page too low for its packets, which libsndfile takes for damage in the
middle of the file, and ffmpeg itself does not mind. Formats: RFC 3533 (pages), RFC 7845 (Opus in Ogg), RFC 6716, section
3.1 (lengths of packets).
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

HEAD = struct.Struct("<4sBBqIIIB")  # OggS, version, flags, granule position, serial, sequence, CRC, segments
LAST = 4  # flag of the last page of a stream
FIRST = 8  # bytes of a packet that tell its kind and its length in samples
NO_END = -1  # granule position of a page on which no packet ends
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass
class Page:
    start: int  # in the file
    head: tuple
    table: bytes  # of segments
    body: bytes

    def packed(self, granule: int) -> bytes:
        """The page with another granule position."""
        magic, version, flags, _, serial, sequence, _, segments = self.head
        page = HEAD.pack(magic, version, flags, granule, serial, sequence, 0, segments) + self.table + self.body
        return page[:22] + struct.pack("<I", _crc(page)) + page[26:]

    @property
    def whole(self) -> bool:
        return struct.unpack("<I", self.packed(self.head[3])[22:26])[0] == self.head[6]


def steady(file: BinaryIO) -> BinaryIO | None:
    """A copy in a temporary file, to be closed by the caller, whose pages count as many samples as their packets hold, of
    an Ogg file with one Opus stream whose pages do not, or start late, as in recordings of live streams (libsndfile does
    not skip what is to be skipped of these). None for all others; those that are damaged among them are left to who
    reads them."""
    begun, counted, ends, starts, sequence = b"", 0, {}, set(), -1
    for number, page in enumerate(_pages(file)):
        _, _, flags, granule, _, this, _, _ = page.head
        if number == 0 and not page.body.startswith(b"OpusHead") or this != sequence + 1:
            return None
        sequence = this
        ended, begun = _packets(page, begun)
        if number < 2 or any(packet.startswith((b"OpusHead", b"OpusTags")) for packet in ended):
            continue
        counted += sum(_samples(packet) for packet in ended)
        ends[number] = counted if ended else NO_END
        if ended and not flags & LAST:  # whose last samples may be no sound
            starts.add(granule - counted)
    return _recounted(file, ends, max(0, min(starts, default=0)))


def damage(file: BinaryIO) -> int | None:
    """Where the first page begins whose checksum is not that of its bytes, or where there should be one and is none.
    libsndfile leaves such pages out and says nothing."""
    at, flags = 0, 0
    for page in _pages(file):
        if not page.whole:
            return page.start
        at, flags = page.start + HEAD.size + len(page.table) + len(page.body), page.head[2]
    return None if flags & LAST else at


def _pages(file: BinaryIO) -> Iterator[Page]:
    """To the end of the file or the first that is no page."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(HEAD.size)
        if len(head) < HEAD.size or not head.startswith(b"OggS"):
            return
        fields = HEAD.unpack(head)
        table = file.read(fields[-1])
        body = file.read(sum(table))
        if len(body) < sum(table):
            return
        yield Page(start, fields, table, body)
        start += HEAD.size + len(table) + len(body)


def _packets(page: Page, begun: bytes) -> tuple[list[bytes], bytes]:
    """The first bytes of the packets that end on a page, the first with what earlier pages held of it, and of what has
    begun on it."""
    packets, at = [], 0
    for size in page.table:
        begun += page.body[at : at + min(size, FIRST - len(begun))]
        at += size
        if size < 255:
            packets.append(begun)
            begun = b""
    return packets, begun


def _samples(packet: bytes) -> int:
    """At 48 kHz."""
    if not packet:
        return 0
    setting, code = packet[0] >> 3, packet[0] & 3
    if setting < 12:
        frame = (480, 960, 1920, 2880)[setting & 3]
    elif setting < 16:
        frame = (480, 960)[setting & 1]
    else:
        frame = (120, 240, 480, 960)[setting & 3]
    frames = (1, 2, 2)[code] if code < 3 else packet[1] & 63 if len(packet) > 1 else 0
    return frames * frame


def _recounted(file: BinaryIO, ends: dict[int, int], start: int) -> BinaryIO | None:
    """A copy whose pages count to `ends`, by number, in the place of what they count to from `start`; None where they do
    already, and where one that would change is damaged."""
    changed = []
    for number, page in enumerate(_pages(file)):
        granule = page.head[3]
        expected = ends.get(number, granule)
        if page.head[2] & LAST:
            expected = min(granule - start, expected)
        if granule != expected:
            if not page.whole:
                return None
            changed.append((page.start, page.packed(expected)))
    return _patched(file, changed) if changed else None


def _patched(file: BinaryIO, changed: list[tuple[int, bytes]]) -> BinaryIO:
    copy = tempfile.TemporaryFile()
    file.seek(0)
    while block := file.read(1 << 20):
        copy.write(block)
    for start, page in changed:
        copy.seek(start)
        copy.write(page)
    copy.seek(0)
    return copy


def _crc(data: bytes) -> int:
    """Ogg's CRC-32 has zlib's polynomial, but bytes and sum with their bits in the other order, and inverts nothing."""
    mirrored = zlib.crc32(data.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
