"""Outputs that appear whole or not at all: write beside the target, rename when all is there."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import BinaryIO

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or choose another place",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another place",
    errno.EFBIG: "the file would grow larger than this system allows",
    errno.EACCES: "no permission to write there: choose another place",
    errno.EPERM: "no permission to write there: choose another place",
    errno.EROFS: "that disk is read-only: choose another place",
    errno.ENOENT: "its folder does not exist: make it first",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EISDIR: "it is a folder: name a file in it",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EPIPE: "the reader of the pipe has gone",
}


class WriteError(OSError):
    """An output cannot be written; one line that says why and how to mend it."""

    def __init__(self, name: str, error: OSError):
        super().__init__(f"cannot write {name}: {_REMEDIES.get(error.errno, error.strerror or str(error))}")
        self.errno = error.errno


class Output:
    """A binary output: a path, `-` for standard output, or an open binary file.

    A path is written beside its target, under a hidden temporary name, and gets its own name in `commit()`; `discard()`
    removes it. A killed process leaves the target as it was. Devices, pipes and open files are written straight.
    Every failure raises WriteError.
    """

    def __init__(self, target: str | os.PathLike[str] | BinaryIO):
        self._final: Path | None = None
        self._temporary: Path | None = None
        self._owned = False
        if hasattr(target, "write"):
            self._file, self.name = target, str(getattr(target, "name", "the output"))
        elif str(target) == "-":
            self._file, self.name = sys.stdout.buffer, "standard output"
        else:
            self.name, self._owned = str(target), True
            self._open(Path(target))
        self.seekable = self._is_seekable()

    def _open(self, path: Path) -> None:
        try:
            path = Path(os.path.realpath(path))  # through links: the target is replaced, not the link
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a directory")
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a device or a named pipe keeps its place
                self._file = open(path, "wb")
                return
            self._final = path
            stem = os.fsdecode(os.fsencode(path.name)[:100])  # bytes: names of 255 are the most, whatever the alphabet
            beside = path.with_name(f".{stem}.{secrets.token_hex(4)}.part")
            self._file = open(beside, "x+b")
            self._temporary = beside
        except OSError as error:
            raise WriteError(self.name, error) from error

    def _is_seekable(self) -> bool:
        """Only what starts at its beginning and can go back may have its header mended at the end."""
        try:
            return bool(self._file.seekable()) and self._file.tell() == 0
        except (AttributeError, OSError):
            return False

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        total = len(view)
        try:
            while view:  # unbuffered files may take a part
                taken = self._file.write(view)
                view = view[len(view) if taken is None else taken :]
        except OSError as error:
            raise WriteError(self.name, error) from error
        return total

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:  # flushing what is buffered may fail
            raise WriteError(self.name, error) from error

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise WriteError(self.name, error) from error

    def commit(self) -> None:
        """All is written: give the file its name."""
        try:
            self._file.flush()
            if self._owned:
                self._file.close()
            if self._temporary is not None:
                os.replace(self._temporary, self._final)
                self._temporary = None
        except OSError as error:
            self.discard()
            raise WriteError(self.name, error) from error

    def discard(self) -> None:
        """Leave the target as it was. Safe to call twice, and after `commit`."""
        if self._owned:
            try:
                self._file.close()
            except OSError:
                pass  # what could not be flushed is thrown away anyway
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
            self._temporary = None


def put(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all. Raises WriteError."""
    file = Output(path)
    try:
        file.write(content)
        file.commit()
    finally:
        file.discard()
