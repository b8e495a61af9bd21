"""Codecs behind one face: a mono recording in, what it decodes to and the bits it took out."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from codec.evaluation.metrics.base import Coded
from codec.evaluation.sound import Sound

NEAR = 1.5  # a setting stands for a bitrate that is asked for when neither is more than so many times the other


class SystemsError(ValueError):
    """A system that cannot be used; one line that says why and how to mend it."""


@dataclass(frozen=True)
class Setting:
    """name: in tables, e.g. "k=4" or "6 kbit/s"; bitrate: nominal, in bit/s."""

    name: str
    bitrate: float


class System(Protocol):
    """One codec with its settings. `missing` is to be asked first: the rest may fail without what it names.

    name: in tables; key: the version of whatever decides what comes out, so that results of another one are not reused.
    """

    name: str

    @property
    def key(self) -> str: ...

    def missing(self) -> str:
        """What has to be done before it can be used, empty where nothing has."""
        ...

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        """Those nearest to the bitrates (bit/s) that are wanted; all that make sense when none are named."""
        ...

    def code(self, sound: Sound, setting: Setting) -> Coded:
        """Encode and decode a recording. The delay of the codec is out: what is decoded lies where the original is."""
        ...


def nearest(offered: Sequence[Setting], wanted: Sequence[float] | None) -> list[Setting]:
    """Of each wanted bitrate the setting that is nearest by ratio, at most `NEAR`; each setting once, in rising order."""
    if wanted is None:
        return list(offered)
    found = set()
    for rate in wanted:
        best = min(offered, key=lambda each: max(each.bitrate / rate, rate / each.bitrate))
        if max(best.bitrate / rate, rate / best.bitrate) <= NEAR * (1 + 1e-9):
            found.add(best)
    return sorted(found, key=lambda each: each.bitrate)


class Clock:
    """Processor seconds of this process and of the programs it has waited for; wall-clock time where those are not counted."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self):
        start = _now()
        yield
        self.seconds += _now() - start


def _now() -> float:
    try:
        import resource
    except ImportError:  # Windows
        import time

        return time.perf_counter()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def pcm16(wav: np.ndarray) -> np.ndarray:
    """Samples of 16 bits come out as they went in: a step less makes other packets of some codecs."""
    return np.clip(np.rint(wav * 32768), -32768, 32767).astype("<i2")


def run(*command: object) -> str:
    """Run a program and return what it says. Raises RuntimeError with its last words."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be run: {error.strerror}") from None
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {' '.join(said.split())[-300:]}")
    return said


def kbps(bitrate: float) -> str:
    return f"{bitrate / 1000:g} kbit/s"
