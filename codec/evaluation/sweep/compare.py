"""What moved between two sweeps, and whether that is more than chance."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codec.evaluation.sweep.student import LEVEL, beyond, quantile, widening
from codec.evaluation.sweep.summary import Group, Resamples, pairs_of

PAIRED = "recording by recording"
UNPAIRED = "by the intervals alone, for want of its results.csv beside it"


def against(old: Mapping[str, Any], groups: Sequence[Group], content: Mapping[str, Any], resamples: Resamples) -> dict[str, Any]:
    """Rows for every model, setting and metric that both reports have.

    Where results.csv lies beside the old report, the change is the mean over the recordings that both judge, two at least;
    otherwise both means are taken as independent, and the row says `paired: false`. Interval and p are of Student's t with the
    bootstrap's standard error (for n recordings times sqrt(n / (n - 1))), n - 1 degrees of freedom, of the smaller of two means.
    p is adjusted for the number of rows (Holm 1979). before and now are of the same recordings as the change.
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
            paired = change is not None
            if change is None:
                change = _apart(other, one)
            if change is None:
                continue
            shift = change.now - change.before
            reach = change.error * quantile(change.n - 1)
            better = shift > 0 if content["metrics"][metric]["better"] == "higher" else shift < 0
            rows.append({
                "model": key[0], "setting": key[1], "metric": metric, "before": round(change.before, 6), "now": round(change.now, 6),
                "change": round(shift, 6), "low": round(shift - reach, 6), "high": round(shift + reach, 6),
                "p": _p(shift, change.error, change.n - 1), "n": change.n, "paired": paired, "better": better,
            })
    _adjust(rows)
    for row in rows:
        row["verdict"] = ("better" if row["better"] else "worse") if row["p"] < LEVEL else "same"
        del row["better"]
    unmatched = sorted(f"{model} {setting}" for model, setting in before.keys() ^ now.keys())
    alone = sum(not row["paired"] for row in rows)
    how = UNPAIRED if by_file is None else PAIRED + (f", but for {alone} by the intervals alone: of other recordings" if alone else "")
    return {"report": old["folder"], "how": how, "rows": rows, "unmatched": unmatched}


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


@dataclass(frozen=True)
class _Change:
    """Two means, the standard error of their difference, and of how many recordings they are, the smaller number of two."""

    before: float
    now: float
    error: float
    n: int


def _paired(before: Mapping[str, list[float]], now: Mapping[str, list[float]], resamples: Resamples) -> _Change | None:
    """Means over the recordings of both; None where there are less than two."""
    both = [file for file in now if file in before and file in resamples.place]
    if len(both) < 2:
        return None
    first, second = ({file: values[file] for file in both} for values in (before, now))
    draws = resamples.means(second) - resamples.means(first)
    error = float(draws.std(ddof=1)) * widening(len(both))
    return _Change(resamples.estimate(first)["mean"], resamples.estimate(second)["mean"], error, len(both))


def _apart(before: Mapping[str, Any], now: Mapping[str, Any]) -> _Change | None:
    """The same of two independent means with their 95 % intervals."""
    if before["low"] is None or now["low"] is None:
        return None
    errors = [(one["high"] - one["low"]) / 2 / quantile(one["n"] - 1) for one in (before, now)]
    return _Change(before["mean"], now["mean"], math.hypot(*errors), min(before["n"], now["n"]))


def _p(shift: float, error: float, freedom: int) -> float:
    """Two-sided, of no change. Standard errors below a rounding error count as none."""
    if error <= 1e-9 * max(1.0, abs(shift)):
        return 1.0 if abs(shift) < 1e-9 else 0.0
    return beyond(abs(shift) / error, freedom)


def _adjust(rows: list[dict[str, Any]]) -> None:
    """Holm's adjustment of p, in place."""
    order = np.argsort([row["p"] for row in rows], kind="stable")
    most = 0.0
    for rank, index in enumerate(order):
        most = max(most, min(1.0, rows[index]["p"] * (len(rows) - rank)))
        rows[index]["p"] = most
