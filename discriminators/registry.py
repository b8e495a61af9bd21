"""Discriminators by name. A new family adds one line here."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from discriminators.base import Discriminator, DiscriminatorSet
from discriminators.logmel import LogMelDiscriminator
from discriminators.mfd import MultiFrequencyDiscriminator
from discriminators.mpd import MultiPeriodDiscriminator
from discriminators.mrd import MultiResolutionBandDiscriminator
from discriminators.msd import MultiScaleDiscriminator
from discriminators.mssbcqt import MultiScaleSubbandCQTDiscriminator
from discriminators.msstft import MultiScaleSTFTDiscriminator
from discriminators.whisper import WhisperDiscriminator

FAMILIES: dict[str, type[Discriminator]] = {
    "logmel": LogMelDiscriminator,
    "mfd": MultiFrequencyDiscriminator,
    "mpd": MultiPeriodDiscriminator,
    "mrd": MultiResolutionBandDiscriminator,
    "msd": MultiScaleDiscriminator,
    "mssbcqt": MultiScaleSubbandCQTDiscriminator,
    "msstft": MultiScaleSTFTDiscriminator,
    "whisper": WhisperDiscriminator,
}


def available() -> list[str]:
    """The names that ``build`` knows, sorted."""
    return sorted(FAMILIES)


def build(name: str, **options: Any) -> Discriminator:
    """The discriminator of that name. Raises ValueError for a name or an option that is not there."""
    if name not in FAMILIES:
        raise ValueError(f"no discriminator is called {name!r}; choose one of {', '.join(available())}")
    family = FAMILIES[name]
    known = list(inspect.signature(family).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"discriminator {name!r} has no option {', '.join(map(repr, unknown))}; it has {', '.join(known)}"
        )
    for option, value in options.items():
        listed = isinstance(inspect.signature(family).parameters[option].default, tuple)
        if listed is not isinstance(value, (list, tuple)):
            raise ValueError(f"discriminator {name!r}: {option} is {value!r}; give {'a list' if listed else 'one value'}")
    return family(**options)


def build_all(entries: Iterable[Mapping[str, Any]], sample_rate: int | None = None) -> DiscriminatorSet:
    """One set from a recipe's list of ``{"name": ..., "options": {...}}`` (options may be left out).

    sample_rate: of the audio in Hz, for the families that have that option; an entry's own goes first.
    """
    members = []
    for entry in entries:
        if "name" not in entry or not set(entry) <= {"name", "options"}:
            raise ValueError(f"a discriminator entry has a 'name' and may have 'options', not {dict(entry)!r}")
        name, options = entry["name"], dict(entry.get("options") or {})
        asks = name in FAMILIES and "sample_rate" in inspect.signature(FAMILIES[name]).parameters
        if asks and sample_rate is not None:
            options.setdefault("sample_rate", sample_rate)
        members.append(build(name, **options))
    return DiscriminatorSet(members)
