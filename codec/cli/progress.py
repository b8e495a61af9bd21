"""A progress bar on a terminal, silence elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


class Progress:
    """One line on a terminal's stderr that is drawn over at most ten times a second, and erased at the end."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream is not None and self._stream.isatty()
        self._next = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def update(self, done: float, total: float | None, label: str) -> None:
        """`done` of `total`; a total of None is not known."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + 0.1
        width = max(20, shutil.get_terminal_size().columns - 1)
        bar = ""
        if total:
            share = min(1.0, done / total)
            filled = int(24 * share)
            bar = f"{share:4.0%} [{'#' * filled}{' ' * (24 - filled)}] "
        self._stream.write(f"\r\x1b[K{(bar + label)[:width]}")
        self._stream.flush()

    def clear(self) -> None:
        if self._shown and self._next:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
