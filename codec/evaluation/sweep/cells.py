"""Results as they come: one line for each cell in a file of the worker that made it, so that a killed sweep keeps all but one.

A cell is one recording, coded by one system at one setting. Lines are JSON objects; several about one cell add up, for a
later run may ask for more metrics. A line that a kill has cut short is left out, and its cell is measured again.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codec.atomic import WriteError

CELLS = "cells"


@dataclass
class Cell:
    """What is known of one cell.

    file, stamp: the recording, and its size and time of change; system, key: name and version; setting, nominal: its name and
    bit/s; seconds: of the recording; bits: that it took; encoding, decoding: processor seconds; lag: seconds that the decoded
    waveform comes late, None where it does not show; values: metric -> [value, weight]; reasons: metric -> why it has no value;
    faults: those of them for which a program or library failed, which the next run tries again; made: what values, reasons and parts
    were made with, of the metrics that depend on an option (`metrics.made_with`);
    kept: metrics of all recordings together whose part of this one is on disk; error: why the cell could not be coded at all.
    """

    file: str
    stamp: str
    system: str
    key: str
    setting: str
    nominal: float
    seconds: float = 0.0
    bits: float = 0.0
    encoding: float = 0.0
    decoding: float = 0.0
    lag: float | None = None
    values: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    error: str = ""
    faults: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str, str, str, str]:
        return self.file, self.stamp, self.system, self.key, self.setting

    def lacks(self, metrics: list[str]) -> list[str]:
        """The metrics that are still to be measured."""
        return [] if self.error else [
            name for name in metrics
            if name in self.faults or name not in self.values and name not in self.reasons and name not in self.kept
        ]

    def forget(self, made: Mapping[str, str]) -> None:
        """Drop what was made with something else than `made` says."""
        for name in [name for name, was in self.made.items() if made.get(name, was) != was]:
            del self.made[name]
            self.values.pop(name, None), self.reasons.pop(name, None)
            self.kept, self.faults = ([each for each in names if each != name] for names in (self.kept, self.faults))

    def add(self, other: Cell) -> None:
        """What a later line tells."""
        self.forget(other.made)
        made = self.made | other.made
        values, reasons = self.values | other.values, self.reasons | other.reasons
        kept = sorted({*self.kept, *other.kept})
        faults = sorted({*self.faults, *other.faults} - {*values, *kept} - ({*other.reasons} - {*other.faults}))
        self.__dict__.update(other.__dict__)
        self.values, self.kept, self.faults, self.made = values, kept, faults, made
        self.reasons = {name: why for name, why in reasons.items() if name not in values and name not in kept}


class Journal:
    """Appends cells to a file of its own in OUT/cells/. Raises WriteError."""

    def __init__(self, out: str | Path):
        self.path = Path(out) / CELLS / f"{secrets.token_hex(8)}.jsonl"
        self._file = None

    def write(self, cell: Cell) -> None:
        line = json.dumps(asdict(cell), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            if self._file is None:
                self._file = open(self.path, "ab", buffering=0)
            self._file.write(line)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise WriteError(str(self.path), error) from error


def read(out: str | Path) -> dict[tuple, Cell]:
    """All cells of a folder of results, by `Cell.place`."""
    cells: dict[tuple, Cell] = {}
    folder = Path(out) / CELLS
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        for line in path.read_bytes().split(b"\n"):
            cell = _cell(line)
            if cell is None:
                continue
            if cell.place in cells:
                cells[cell.place].add(cell)
            else:
                cells[cell.place] = cell
    return cells


def _cell(line: bytes) -> Cell | None:
    try:
        row: Any = json.loads(line)
        return Cell(**row)
    except (ValueError, TypeError):
        return None  # cut short


def stamp(path: str | Path) -> str:
    """Of a recording, so that a changed one is measured anew; empty where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"
