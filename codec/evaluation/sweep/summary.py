"""Cells to the figures of a report: means with intervals, speeds, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codec.evaluation.metrics.tokens import NO_TOKENS
from codec.evaluation.sweep.cells import Cell
from codec.evaluation.sweep.student import quantile, widening

RESAMPLES = 2000
FEW = 10  # recordings, below which resampling them tells too little


@dataclass(frozen=True)
class Group:
    """The cells of one system at one setting, by recording."""

    system: str
    setting: str
    nominal: float
    cells: Mapping[str, Cell]

    @property
    def coded(self) -> list[Cell]:
        return [cell for cell in self.cells.values() if not cell.error]

    @property
    def bitrate(self) -> float:
        """Actual bit/s over all recordings, nominal where none could be coded."""
        seconds = sum(cell.seconds for cell in self.coded)
        return sum(cell.bits for cell in self.coded) / seconds if seconds else self.nominal


class Resamples:
    """How often each of N recordings is in each bootstrap sample: the same samples for every system and metric, so that their
    intervals belong together."""

    def __init__(self, files: Sequence[str], seed: int = 0):
        self.place = {file: number for number, file in enumerate(files)}
        rng = np.random.default_rng(seed)
        n = len(files)
        self.times = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)]).astype(np.float32)

    def means(self, pairs: Mapping[str, Sequence[float]]) -> np.ndarray:
        """Weighted means (R,) of {recording: (value, weight)} in every sample that has one of them."""
        rows = [self.place[file] for file in pairs]
        value, weight = np.array([list(pair) for pair in pairs.values()]).T
        times = self.times[:, rows].astype(np.float64)
        total = times @ weight
        return (times @ (value * weight))[total > 0] / total[total > 0]

    def estimate(self, pairs: Mapping[str, Sequence[float]]) -> dict[str, float | int | None]:
        """Mean, 95 % interval (None for a single recording), and number of recordings.

        The interval is of bootstrap percentiles, further out than 2.5 and 97.5 by as much as Student's t with n - 1 degrees of freedom
        is wider than the normal distribution (Hesterberg 2015, section 3.2); below 10 recordings Student's t itself, with the standard
        error of a weighted mean by the infinitesimal jackknife.
        """
        value, weight = np.array([list(pair) for pair in pairs.values()]).T
        total = weight.sum()
        mean = float((value * weight).sum() / total) if total else float(value.mean())
        n = int((weight > 0).sum())
        if n < 2:
            return {"mean": mean, "low": None, "high": None, "n": len(pairs)}
        if n < FEW:
            error = float(np.linalg.norm(weight * (value - mean))) / total * widening(n)
            low, high = mean - quantile(n - 1) * error, mean + quantile(n - 1) * error
        else:
            tail = 50 * math.erfc(quantile(n - 1) * widening(n) / math.sqrt(2))  # in per cent
            low, high = np.percentile(self.means(pairs), [tail, 100 - tail])
        return {"mean": mean, "low": float(low), "high": float(high), "n": len(pairs)}


def grouped(cells: Sequence[Cell]) -> list[Group]:
    """In the order in which systems and settings come."""
    groups: dict[tuple[str, str], Group] = {}
    for cell in cells:
        group = groups.setdefault((cell.system, cell.setting), Group(cell.system, cell.setting, cell.nominal, {}))
        group.cells[cell.file] = cell
    return list(groups.values())


def pairs_of(group: Group, metric: str) -> dict[str, list[float]]:
    return {file: cell.values[metric] for file, cell in group.cells.items() if metric in cell.values}


def rows(groups: Sequence[Group], names: Sequence[str], resamples: Resamples) -> list[dict]:
    """A row of the report for each group."""
    found = []
    for group in groups:
        coded = group.coded
        seconds = sum(cell.seconds for cell in coded)
        lags = [cell.lag for cell in coded if cell.lag is not None]
        row = {
            "model": group.system, "setting": group.setting, "nominal_bitrate": group.nominal,
            "bitrate": round(group.bitrate, 2), "files": len(coded), "failed": len(group.cells) - len(coded),
            "seconds": round(seconds, 3),
            "encode_x_realtime": _speed(seconds, sum(cell.encoding for cell in coded)),
            "decode_x_realtime": _speed(seconds, sum(cell.decoding for cell in coded)),
            "lag_ms": round(1000 * float(np.median(lags)), 2) if lags else None, "metrics": {},
        }
        for name in names:
            if pairs := pairs_of(group, name):
                row["metrics"][name] = rounded(resamples.estimate(pairs))
        found.append(row)
    return found


def failures(groups: Sequence[Group], names: Sequence[str]) -> list[dict[str, str]]:
    """Why recordings have no value, an entry for each reason. That a system has no tokens is no failure."""
    found: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for group in groups:
        for file, cell in group.cells.items():
            reasons = {"": cell.error} if cell.error else {name: cell.reasons[name] for name in names if name in cell.reasons}
            for metric, reason in reasons.items():
                if reason == NO_TOKENS:
                    continue
                one = found.setdefault((file, reason, "" if not metric else "judged"), {"models": set(), "metrics": set()})
                one["models"].add(f"{cell.system} {cell.setting}")
                one["metrics"].add(metric)
    cells = len(groups)
    return [
        {
            "file": file, "reason": reason, "what": "not judged" if kind else "not coded",
            "metrics": ", ".join(name for name in names if name in one["metrics"]),
            "models": "all" if len(one["models"]) == cells else ", ".join(sorted(one["models"])),
        }
        for (file, reason, kind), one in found.items()
    ]


def _speed(seconds: float, taken: float) -> float | None:
    return round(seconds / taken, 2) if taken > 0 else None


def rounded(one: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in one.items()}
