"""A binary input that can be looked into ahead."""

from __future__ import annotations

from typing import BinaryIO

from codec.container.layout import TokError


class Source:
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
