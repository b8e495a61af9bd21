"""Discriminators by name. A new family adds one line here."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from discriminators.base import Discriminator, DiscriminatorSet
from discriminators.mpd import MultiPeriodDiscriminator
from discriminators.msstft import MultiScaleSTFTDiscriminator

FAMILIES: dict[str, type[Discriminator]] = {"mpd": MultiPeriodDiscriminator, "msstft": MultiScaleSTFTDiscriminator}


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
    return family(**options)


def build_all(entries: Iterable[Mapping[str, Any]]) -> DiscriminatorSet:
    """One set from a recipe's list of ``{"name": ..., "options": {...}}`` (options may be left out)."""
    members = []
    for entry in entries:
        if "name" not in entry or not set(entry) <= {"name", "options"}:
            raise ValueError(f"a discriminator entry has a 'name' and may have 'options', not {dict(entry)!r}")
        members.append(build(entry["name"], **(entry.get("options") or {})))
    return DiscriminatorSet(members)
