"""The words of the websocket protocol, which docs/serving.md describes."""

from __future__ import annotations

import functools
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from codec.live import FORMATS, pcm_bytes, pcm_floats
from codec.model import Codec
from codec.packing import Layout
from codec.serving.engine import DIRECTIONS

HEADER = struct.Struct("<BBH")  # kind, codebooks, frames; the last two are 0 for samples
SAMPLES, TOKENS = 1, 2
NORMAL, GOING_AWAY, PROTOCOL, SLOW, FAILED, FULL = 1000, 1001, 1002, 1008, 1011, 1013  # codes of closing


class ProtocolError(ValueError):
    """What a client has sent is not the protocol."""


@dataclass(frozen=True)
class Hello:
    """How a client opens a stream."""

    model: str | None = None
    direction: str = "both"
    format: str = "s16le"
    codebooks: int | None = None


def parse_hello(text: str) -> Hello:
    """Raises ProtocolError."""
    fields = parse_object(text)
    if fields.pop("type", None) != "hello":
        raise ProtocolError('the first message is {"type": "hello", ...}')
    kinds = {"model": str, "direction": str, "format": str, "codebooks": int}
    for name, value in fields.items():
        if name not in kinds:
            raise ProtocolError(f"hello: {name[:40]!r} is unknown: there is {', '.join(kinds)}")
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise ProtocolError(f"hello: {name} must be a {'number' if kinds[name] is int else 'text'}")
    hello = Hello(**fields)
    if hello.direction not in DIRECTIONS:
        raise ProtocolError(f"hello: direction {hello.direction[:40]!r}: there is {', '.join(DIRECTIONS)}")
    if hello.format not in FORMATS:
        raise ProtocolError(f"hello: format {hello.format[:40]!r}: there is {', '.join(FORMATS)}")
    return hello


def parse_object(text: str) -> dict[str, Any]:
    """A text message. Raises ProtocolError unless it is an object of JSON."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ProtocolError("a text message must be an object of JSON")
    return fields


def describe(model: Codec) -> dict[str, Any]:
    """What a client must know of a model."""
    return {
        "model": model.config.name, "sample_rate": model.sample_rate, "output_sample_rate": model.output_sample_rate,
        "frame_size": model.frame_size, "output_frame_size": model.output_frame_size,
        "codebook_sizes": list(model.codebook_sizes), "strides": list(model.quantizer.strides),
        "counts": list(model.quantizer.counts), "latency": model.latency, "fingerprint": model.spec.fingerprint,
    }


class Wire:
    """Binary messages of one stream to arrays and back."""

    def __init__(self, model: Codec, format: str):
        self._dtype = FORMATS[format]
        self._counts = model.quantizer.counts
        self._layout = functools.cache(
            lambda k: Layout(np.array(model.codebook_sizes[:k]), np.array(model.quantizer.strides[:k])))

    def unpack(self, message: bytes, tokens: bool) -> np.ndarray:
        """Samples (n,) float32, or codes (k, m) if they are what is expected; an empty message holds none.

        Raises ProtocolError."""
        if not message:
            message = HEADER.pack(TOKENS, self._counts[-1], 0) if tokens else HEADER.pack(SAMPLES, 0, 0)
        if len(message) < HEADER.size:
            raise ProtocolError(f"a binary message of {len(message)} bytes: its header alone has {HEADER.size}")
        kind, codebooks, frames = HEADER.unpack_from(message)
        payload = message[HEADER.size :]
        if kind != (TOKENS if tokens else SAMPLES):
            expected = f"{TOKENS} (tokens)" if tokens else f"{SAMPLES} (samples)"
            raise ProtocolError(f"a binary message of kind {kind}: this stream takes kind {expected}")
        if tokens:
            return self._tokens(payload, codebooks, frames)
        if codebooks or frames:
            raise ProtocolError("the header of samples is 1, 0, 0, 0")
        if len(payload) % self._dtype.itemsize:
            raise ProtocolError(f"{len(payload)} bytes of samples: a sample has {self._dtype.itemsize}")
        return pcm_floats(np.frombuffer(payload, self._dtype))

    def _tokens(self, payload: bytes, codebooks: int, frames: int) -> np.ndarray:
        if codebooks not in self._counts:
            raise ProtocolError(f"tokens of {codebooks} codebooks: this model decodes {', '.join(map(str, self._counts))}")
        layout = self._layout(codebooks)
        size = layout.num_bytes(0, frames) if frames else 0
        if len(payload) != size:
            raise ProtocolError(f"{frames} frames of {codebooks} codebooks in {len(payload)} bytes: they take {size}")
        return layout.unpack(payload, 0, frames) if frames else np.zeros((codebooks, 0), np.int64)

    def samples(self, wav: np.ndarray) -> bytes:
        """Samples (n,) as a message."""
        return HEADER.pack(SAMPLES, 0, 0) + pcm_bytes(wav, self._dtype)

    def tokens(self, codes: np.ndarray) -> bytes:
        """Codes (k, m) as a message."""
        return HEADER.pack(TOKENS, *codes.shape) + self._layout(len(codes)).pack(codes)
