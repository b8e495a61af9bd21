"""The .tok format: codes in checksummed blocks, written and read live, salvaged if need be. See docs/tok-format.md."""

from codec.container.layout import (  # noqa: F401
    BLOCK, CRC, END, ENDING, MAGIC, PREFIX, SYNC, TOTALS, VERSION, Header, TokError, Totals,
)
from codec.container.reader import NoPrior, TokReader  # noqa: F401
from codec.container.writer import TokWriter  # noqa: F401
