"""Recordings to see and hear: the original and what systems make of it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from codec.evaluation.page import pictures
from codec.evaluation.page.curves import mark
from codec.evaluation.sweep import keep
from codec.evaluation.sweep.cells import Cell
from codec.evaluation.sweep.summary import Group

SETTINGS = 3  # of each system: the lowest, the highest and one between


def section(out: Path, groups: Sequence[Group], heard: Sequence[str], names: Sequence[str]) -> str:
    parts = []
    for file in heard:
        cells = [(group, group.cells[file]) for name in names for group in _few([g for g in groups if g.system == name])
                 if file in group.cells and not group.cells[file].error]
        stamp = cells[0][1].stamp if cells else ""
        original = pictures.read(keep.original_path(out, file, stamp)) if cells else None
        if original is None:
            continue
        loudest = float(pictures.power(original[0]).max())
        clips = [_clip(file, original, loudest, "Original", "", "")]
        for group, cell in cells:
            decoded = pictures.read(keep.sample_path(out, cell))
            if decoded is not None:
                number = names.index(group.system)
                clips.append(_clip(file, decoded, loudest, group.system, _facts(cell), str(number)))
        parts.append(f'<h3 class="file">{escape(file)}</h3><div class="clips">{"".join(clips)}</div>')
    if not parts:
        return ""
    return (
        '<p class="soft">Up to half the sample rate, down to 75 dB below the loudest of the original. A click plays; a click on another '
        f'version goes on from there.</p>{"".join(parts)}'
    )


def _few(groups: Sequence[Group]) -> list[Group]:
    groups = sorted(groups, key=lambda group: group.nominal)
    if len(groups) <= SETTINGS:
        return list(groups)
    return [groups[0], groups[len(groups) // 2], groups[-1]]


def _facts(cell: Cell) -> str:
    shown = [f"{cell.bits / cell.seconds / 1000:.2f} kbit/s"]
    if "pesq-wb" in cell.values:
        shown.append(f"PESQ {cell.values['pesq-wb'][0]:.2f}")
    return ", ".join(shown)


def _clip(file: str, sound: tuple, loudest: float, label: str, facts: str, number: str) -> str:
    wav, rate = sound
    picture = pictures.spectrogram(wav, loudest)
    sign = mark(int(number)) if number else ""
    return (
        f'<button type="button" class="clip" data-s="{number}" data-file="{escape(file)}" data-flac="{pictures.sound(wav, rate)}" '
        f'aria-pressed="false" aria-label="Play {escape(label)} {escape(facts)}">'
        f'<img alt="" width="{pictures.COLUMNS}" height="{pictures.ROWS}" src="{picture}"><span class="head"></span>'
        f'<span class="name"><span class="play"></span>{sign}<b>{escape(label)}</b><span>{escape(facts)}</span></span></button>'
    )
