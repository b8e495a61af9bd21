"""Which systems and metrics a sweep measures, and which are left out, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codec.evaluation import metrics
from codec.evaluation.metrics import Metric, MetricError, Options
from codec.evaluation.systems import Setting, System


@dataclass
class Left:
    """A system or metric that is left out, and why."""

    name: str
    reason: str


@dataclass
class Chosen:
    """A system with the settings that are measured. facts: of its codes, empty where it has none."""

    system: System
    key: str
    settings: list[Setting]
    facts: dict[str, Any]

    @classmethod
    def of(cls, system: System) -> Chosen:
        """With all its settings."""
        return cls(system, system.key, system.settings(None), getattr(system, "facts", {}))


def usable(metric: Metric, options: Options, left: list[Left]) -> bool:
    remedy = metric.missing()
    if not remedy:
        try:
            metrics.check(metric.name, options)
        except MetricError as error:
            remedy = str(error)
    if remedy:
        left.append(Left(metric.name, remedy))
    return not remedy


def choose(found: Sequence[System], bitrates: Sequence[float] | None, left: list[Left], notes: list[str]) -> list[Chosen]:
    """The systems that are there, with their settings; the others are noted."""
    chosen = []
    wanted = None if bitrates is None else [1000 * rate for rate in bitrates]
    for system in found:
        try:
            if remedy := system.missing():
                left.append(Left(system.name, remedy))
                continue
            key, near = system.key, system.settings(wanted)
        except (ValueError, RuntimeError, OSError) as error:  # no such model, a program that does not start
            left.append(Left(system.name, " ".join(str(error).split())))
            continue
        if near:
            chosen.append(Chosen(system, key, near, getattr(system, "facts", {})))
        else:
            every = system.settings(None)
            notes.append(f"{system.name} has {every[0].bitrate / 1000:g} to {every[-1].bitrate / 1000:g} kbit/s, "
                         f"nothing near {in_words(bitrates)}")
    return chosen


def in_words(rates: Sequence[float] | None) -> str:
    return ", ".join(f"{rate:g}" for rate in rates or ())
