"""How many bytes the packets of an Ogg file take, without the container."""

from __future__ import annotations

from pathlib import Path

HEADERS = 2  # packets before the audio, in Opus and Speex files


def audio_bytes(path: str | Path) -> int:
    """Of the one stream in an Ogg file (RFC 3533), its two header packets left out. Raises ValueError for anything else."""
    data, place, sizes, size = Path(path).read_bytes(), 0, [], 0
    while place < len(data):
        if data[place : place + 4] != b"OggS":
            raise ValueError(f"{path} is no Ogg file, or is cut short")
        lacing = data[place + 27 : place + 27 + data[place + 26]]  # sizes of segments; below 255 a packet ends
        for segment in lacing:
            size += segment
            if segment < 255:
                sizes.append(size)
                size = 0
        place += 27 + len(lacing) + sum(lacing)
    return sum(sizes[HEADERS:])
