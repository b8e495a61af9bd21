"""The files of a report: results.csv, results.parquet, report.json, report.html."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from codec.atomic import put
from codec.evaluation import page
from codec.evaluation.metrics import Metric, frechet
from codec.evaluation.sweep import codes, compare, keep, summary, tables
from codec.evaluation.sweep.cells import Cell
from codec.evaluation.sweep.summary import Group
from codec.evaluation.sweep.tasks import Reference

VERSION = 1
NAME, PAGE = "report.json", "report.html"


class ReportError(ValueError):
    """A file that is no report; one line that says why and how to mend it."""


def write(
    out: Path, table: Sequence[Cell], wanted: Sequence[Metric], settings: dict[str, Any], left_out: list[dict[str, str]],
    notes: list[str], models: dict[str, dict[str, Any]], heard: Sequence[str], references: Sequence[Reference], old: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write all of them; gives what is in report.json."""
    names = [metric.name for metric in wanted]
    groups = summary.grouped(table)
    files = list(dict.fromkeys(cell.file for cell in table))
    resamples = summary.Resamples(files)
    content: dict[str, Any] = {
        "version": VERSION, "settings": settings, "metrics": {metric.name: _facts(metric) for metric in wanted},
        "cells": summary.rows(groups, names, resamples), "failures": summary.failures(groups, names), "left_out": left_out,
        "notes": notes, "codes": codes.usage(out, groups, models),
    }
    for row in content["cells"]:
        row |= {key: models.get(row["model"], {})[key] for key in ("run", "step") if key in models.get(row["model"], {})}
    content["tasks"] = [
        {"metric": one.metric, "note": one.note, "chance": round(one.chance, 6),
         "original": summary.rounded(resamples.estimate(one.original)) if one.original else None} for one in references
    ]
    together = _together(out, groups, names, content["codes"])
    for row in content["cells"]:
        for name, value in together.get((row["model"], row["setting"]), {}).items():
            row["metrics"][name] = {"mean": round(value, 6), "low": None, "high": None, "n": row["files"]}
    if old is not None:
        content["compare"] = compare.against(old, groups, content, resamples)
    remedy = tables.write(out, [*tables.long(groups, names, together), *tables.references(references)])
    if remedy:
        notes.append(f"results.parquet is left out: {remedy}")
    put(out / NAME, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace"))
    put(out / PAGE, page.build(out, content, groups, heard).encode("utf-8", "backslashreplace"))
    return content


def _together(
    out: Path, groups: Sequence[Group], names: Sequence[str], codes_of: Sequence[dict[str, Any]]
) -> dict[tuple[str, str], dict[str, float]]:
    """Figures of all recordings of a group together: (model, setting) -> name -> value."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    books = {one["model"]: one for one in codes_of}
    grams: dict[str, tuple[float, ...]] = {}
    for group in groups:
        mine = found.setdefault((group.system, group.setting), {})
        if "fad" in names:
            kept = [both for cell in group.coded if (both := keep.read(keep.vectors_path(out, cell, "fad"))) is not None]
            if sum(both.shape[1] for both in kept) > 1:
                mine["fad"] = frechet.distance(*(np.concatenate([both[side] for both in kept]) for side in (0, 1)))
        if group.system in books and group.setting.startswith("k="):
            one = books[group.system]
            rows = one["codebooks"][: int(group.setting[2:])]
            if "utilisation" in names:
                mine["utilisation"] = sum(book["used"] for book in rows) / len(rows)
            if "entropy" in names:
                mine["entropy"] = sum(book["entropy"] for book in rows) / one["frame_seconds"] / 1000
            if "ngram" in names:
                if group.system not in grams:
                    grams[group.system] = codes.ngram_bits(out, groups, group.system, one["sizes"])
                if grams[group.system]:
                    mine["ngram"] = sum(grams[group.system][: len(rows)]) / one["frame_seconds"] / 1000
    return found


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A report.json, or that of a folder. Raises ReportError for anything else."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION or not isinstance(content["cells"], list):
            raise ReportError(f"{path} is of version {content['version']}, this program reads {VERSION}: sweep again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"{path} is no report of a sweep ({error}): name a report.json that `codec sweep` wrote") from None
    return content | {"folder": str(path.parent)}


def _facts(metric: Metric) -> dict[str, Any]:
    kept = ("title", "unit", "better", "source", "licence", "level", "digits")
    return {key: value for key, value in asdict(metric).items() if key in kept}
