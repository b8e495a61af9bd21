"""What moved between two sweeps, and whether that is more than chance."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codec.evaluation.sweep.summary import Group, Resamples, pairs_of

LEVEL = 0.05
PAIRED = "recording by recording"
UNPAIRED = "by the intervals alone, for want of its results.csv beside it"


def against(old: Mapping[str, Any], groups: Sequence[Group], content: Mapping[str, Any], resamples: Resamples) -> dict[str, Any]:
    """Rows for every model, setting and metric that both reports have.

    Where results.csv lies beside the old report, the change is the mean over the recordings of both, its interval that of the
    bootstrap over them, and p that of a normal distribution with the bootstrap's standard error; otherwise both means are taken
    as independent. p is adjusted for the number of rows (Holm 1979).
    """
    before = {(cell["model"], cell["setting"]): cell for cell in old["cells"]}
    now = {(cell["model"], cell["setting"]): cell for cell in content["cells"]}
    by_file = _values(Path(old["folder"]) / "results.csv", before.values())
    rows = []
    for group in groups:
        key = group.system, group.setting
        for metric, one in now[key]["metrics"].items():
            other = before.get(key, {"metrics": {}})["metrics"].get(metric)
            if other is None:
                continue
            change = None
            if by_file is not None:
                change = _paired(by_file.get((*key, metric), {}), pairs_of(group, metric), resamples)
            if change is None:
                change = _apart(other, one)
            if change is None:
                continue
            shift, error = change
            better = shift > 0 if content["metrics"][metric]["better"] == "higher" else shift < 0
            rows.append({
                "model": key[0], "setting": key[1], "metric": metric, "before": other["mean"], "now": one["mean"], "change": round(shift, 6),
                "low": round(shift - 1.96 * error, 6), "high": round(shift + 1.96 * error, 6), "p": _p(shift, error), "better": better,
            })
    _adjust(rows)
    for row in rows:
        row["verdict"] = ("better" if row["better"] else "worse") if row["p"] < LEVEL else "same"
        del row["better"]
    unmatched = sorted(f"{model} {setting}" for model, setting in before.keys() ^ now.keys())
    return {"report": old["folder"], "how": UNPAIRED if by_file is None else PAIRED, "rows": rows, "unmatched": unmatched}


def _values(path: Path, cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, list[float]]] | None:
    """(model, setting, metric) -> {recording: [value, weight]} of a results.csv, or None where there is none."""
    settings = {(cell["model"], f"{cell['bitrate']:g}"): cell["setting"] for cell in cells}
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                setting = settings.get((row["model"], f"{float(row['bitrate']):g}"))
                name, _, weight = row["metric"].partition(":")
                if setting is not None:
                    pair = found.setdefault((row["model"], setting, name), {}).setdefault(row["file"], [math.nan, 1.0])
                    pair[1 if weight else 0] = float(row["value"])
    except (OSError, KeyError, ValueError):
        return None
    return found


def _paired(before: Mapping[str, list[float]], now: Mapping[str, list[float]], resamples: Resamples) -> tuple[float, float] | None:
    """The change of the mean over the recordings of both, and its standard error; None where there are less than two."""
    both = [file for file in now if file in before and file in resamples.place]
    if len(both) < 2:
        return None
    first, second = ({file: values[file] for file in both} for values in (before, now))
    draws = resamples.means(second) - resamples.means(first)
    return resamples.estimate(second)["mean"] - resamples.estimate(first)["mean"], float(draws.std(ddof=1))


def _apart(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[float, float] | None:
    """The same of two independent means with their 95 % intervals."""
    if before["low"] is None or now["low"] is None:
        return None
    errors = [(one["high"] - one["low"]) / (2 * 1.96) for one in (before, now)]
    return now["mean"] - before["mean"], math.hypot(*errors)


def _p(shift: float, error: float) -> float:
    """Two-sided, of no change. Standard errors below a rounding error count as none."""
    if error <= 1e-9 * max(1.0, abs(shift)):
        return 1.0 if abs(shift) < 1e-9 else 0.0
    return math.erfc(abs(shift) / error / math.sqrt(2))


def _adjust(rows: list[dict[str, Any]]) -> None:
    """Holm's adjustment of p, in place."""
    order = np.argsort([row["p"] for row in rows], kind="stable")
    most = 0.0
    for rank, index in enumerate(order):
        most = max(most, min(1.0, rows[index]["p"] * (len(rows) - rank)))
        rows[index]["p"] = most
