"""Asymmetric numeral systems (Duda 2013): symbols of given frequencies to bytes and back, in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

SCALE = 16  # bits: the frequencies of all symbols at one place add up to 1 << SCALE
LOW = 1 << 23  # the state stays in LOW to (LOW << 8) - 1
STATE = 4  # bytes


def encode(starts: Sequence[int], frequencies: Sequence[int]) -> bytes:
    """Symbols, each given by its frequency (at least 1) and the sum of those before it. The first comes out first."""
    state, out = LOW, bytearray()
    for start, frequency in zip(reversed(starts), reversed(frequencies)):
        limit = (LOW >> SCALE << 8) * frequency
        while state >= limit:
            out.append(state & 255)
            state >>= 8
        state = (state // frequency << SCALE) + state % frequency + start
    return state.to_bytes(STATE, "big") + out[::-1]


class Decoder:
    """Reads what `encode` wrote. Raises ValueError where bytes are missing."""

    def __init__(self, data: bytes):
        self._data, self._at = data, STATE
        self._state = int.from_bytes(data[:STATE], "big")
        if len(data) < STATE or not LOW <= self._state < LOW << 8:
            raise ValueError("no state to start from")

    @property
    def place(self) -> int:
        """A number below 1 << SCALE: the next symbol is the one whose frequencies it falls into."""
        return self._state & (1 << SCALE) - 1

    def take(self, start: int, frequency: int) -> None:
        """Go on behind the symbol with `start <= place < start + frequency`."""
        state, data = frequency * (self._state >> SCALE) + self.place - start, self._data
        while state < LOW:
            if self._at == len(data):
                raise ValueError("bytes are missing")
            state = state << 8 | data[self._at]
            self._at += 1
        self._state = state

    @property
    def at_end(self) -> bool:
        """Whether all bytes have been read and the state is the one that `encode` began with."""
        return self._at == len(self._data) and self._state == LOW
