"""What the bytes of a .tok file are: markers, structures, limits, and the header. See docs/tok-format.md."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from codec.correction import Correction
from codec.packing import Layout
from codec.tokens import TokenSpec

MAGIC = b"\x93TOK\r\n\x1a\n"  # not text, not ASCII; shows line ends that a transfer has changed
VERSION = 1
SYNC = b"\xf5BLK"
END = b"\xf5END"
PREFIX = struct.Struct("<8sHI")  # magic, version, bytes of header
BLOCK = struct.Struct("<4sIQIBI")  # sync, index, first frame, frames, coding, bytes of payload
ENDING = struct.Struct("<4sI")  # sync, bytes of the header's copy, which follows
TOTALS = struct.Struct("<QQIII")  # frames, samples, blocks, CRC of all blocks, bytes of the whole end block
CRC = struct.Struct("<I")
BIT_PACKED, MULTI_RATE, ENTROPY = 0, 1, 2

MAX_HEADER = 16384  # bytes
MAX_CHANNELS = 256
MAX_CODES = 1 << 20  # in a block that is read
WRITE_CODES = 1 << 17  # in a block that is written, and in one that is read where each takes long to decode
MAX_PAYLOAD = 2 * MAX_CODES  # bytes: 16 bits a code
BLOCK_FRAMES = 500  # 10 s at 50 frames a second
LOST_CODES = 1 << 20  # salvage fills gaps up to this many codes beyond what the damaged bytes can have held


class TokError(ValueError):
    """A .tok file that cannot be read, and what to do about it, on one line."""


@dataclass(frozen=True)
class Header:
    """What the file says of itself before its first block. bitrate: that was asked for, in bit/s of each channel, where frames have as
    many bits as they need; None where all have the same. correction: of each channel, to be taken off when
    decoded."""

    spec: TokenSpec
    num_codebooks: int
    sample_rate: int
    channels: int
    bitrate: float | None = None
    correction: Correction = Correction()

    def __post_init__(self) -> None:
        if self.num_codebooks not in self.spec.counts:
            has = ", ".join(map(str, self.spec.counts))
            raise ValueError(f"num_codebooks={self.num_codebooks}: codebooks of this model decode as the first {has}")
        if not 1 <= self.sample_rate < 2**31:
            raise ValueError(f"sample_rate={self.sample_rate} must be positive, in Hz")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels={self.channels}: a .tok file holds 1 to {MAX_CHANNELS}")
        if self.bitrate is not None and not 0 < self.bitrate < math.inf:
            raise ValueError(f"bitrate={self.bitrate} must be positive, in bit/s")
        self.correction.check(self.channels, self.spec.sample_rate)

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
        if self.bitrate is not None:
            fields["bitrate"] = float(self.bitrate)
        fields |= {name: value for name, value in asdict(self.correction).items() if value}
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
        bitrate = get("bitrate", int if type(fields["bitrate"]) is int else float) if "bitrate" in fields else None
        gain_db, eq_db = (get(name, list) if name in fields else [] for name in ("gain_db", "eq_db"))
        if not all(type(row) is list for row in eq_db):
            raise ValueError("eq_db are not lists")
        correction = Correction(tuple(gain_db), tuple(map(tuple, eq_db)))
        return cls(spec, get("num_codebooks", int), get("sample_rate", int), get("channels", int), bitrate, correction)


@dataclass(frozen=True)
class Totals:
    """What the end block says of the whole file."""

    num_frames: int
    num_samples: int
    num_blocks: int
    running_crc: int
