"""Figures of probes: a value with its interval and chance level, a table of them, and the JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from codec.atomic import put

VERSION = 1
RESAMPLES = 2000
HIGHER, LOWER = "higher", "lower"


class ProbeError(ValueError):
    """A probe cannot be made at all; one line that says why and how to mend it."""


class Missing(Exception):
    """A task is left out, and the rest goes on; one line that says what it lacks."""


@dataclass(frozen=True)
class Score:
    """One figure of one codebook set of one model.

    task: slots, speaker, characters, words or dwer; part: which slot, or "mean" of all; codebooks: "3", or "1-8" for the
    first 8 together; head: what was trained on the codes; better: "higher" or "lower"; low, high: 95 % interval; chance:
    what knows nothing of the codes gets; count: recordings, or what `unit` says; note: what to know about the task.
    """

    model: str
    task: str
    part: str
    codebooks: str
    head: str
    metric: str
    better: str
    value: float
    low: float
    high: float
    chance: float
    count: int
    unit: str
    note: str = ""

    @property
    def beyond_chance(self) -> bool:
        """Whether all of the interval is better than chance."""
        return self.low > self.chance if self.better == HIGHER else self.high < self.chance


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float
    high: float


@dataclass
class Report:
    """All figures of a run. skipped: what was left out, {"model", "task", "codebooks", "reason"} each; settings: what
    makes the same figures again; seconds: of CPU that each task took, encoding included where codes were not kept."""

    settings: dict[str, Any] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Score] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    seconds: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: str | Path) -> None:
        """Write it as JSON. Raises WriteError."""
        content = {
            "version": VERSION, "settings": self.settings, "models": self.models,
            "rows": [{key: _rounded(value) for key, value in asdict(row).items()} for row in self.rows], "skipped": self.skipped,
            "seconds": self.seconds,
        }
        put(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    @staticmethod
    def load(path: str | Path) -> Report:
        """Read what `save` wrote. Raises ProbeError for anything else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise ProbeError(f"{path} is of version {content['version']}, this program reads {VERSION}: probe again")
            known = {each.name for each in fields(Score)}
            rows = [Score(**{key: value for key, value in row.items() if key in known}) for row in content["rows"]]
            return Report(content["settings"], content["models"], rows, content["skipped"], content["seconds"])
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ProbeError(f"{path} holds no results of probes ({error}): name a file that `codec probe --out` wrote") from None

    def markdown(self) -> str:
        """A table with one line for each figure."""
        lines = ["| model | task | codebooks | head | metric | value [95 %] | chance | of |", "|---|---|---|---|---|---|---|---|"]
        for row in self.rows:
            task = row.task if row.part in ("", "mean") else f"{row.task}: {row.part}"
            value = f"{100 * row.value:.1f} % [{100 * row.low:.1f}, {100 * row.high:.1f}]"
            lines.append(f"| {row.model} | {task} | {row.codebooks} | {row.head} | {row.metric} | {value} | "
                         f"{100 * row.chance:.1f} % | {row.count} {row.unit} |")
        return "\n".join(lines)


def bootstrap(hits: np.ndarray, trials: np.ndarray, seed: int = 0) -> Estimate:
    """The rate sum(hits) / sum(trials) with its 95 % interval, from 2000 resamplings of the recordings (Efron 1979).

    hits, trials: (N,) of N recordings, or (N, S) for the mean over S rates. Resamples in which a rate has no trials leave it
    out. The interval tells how much other recordings would change the figure; it does not know about other training runs.
    """
    hits, trials = (np.asarray(each, dtype=np.float64).reshape(len(each), -1) for each in (hits, trials))
    rng = np.random.Generator(np.random.Philox(seed))
    draws = np.floor(rng.random((RESAMPLES, len(hits))) * len(hits)).astype(np.int64)
    times = np.stack([np.bincount(draw, minlength=len(hits)) for draw in draws])  # (R, N)
    low, high = np.quantile(_mean_rate(times @ hits, times @ trials), [0.025, 0.975])
    return Estimate(float(_mean_rate(hits.sum(0), trials.sum(0))), float(low), float(high))


def _mean_rate(hits: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """(..., S) to (...): the mean over rates that have trials."""
    there = trials > 0
    rates = np.divide(hits, trials, out=np.zeros_like(hits), where=there)
    return rates.sum(-1) / np.maximum(1, there.sum(-1))


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
