"""The discriminators that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import discriminators
from discriminators import DiscriminatorSet


def build_judges(entries: Sequence[Mapping[str, Any]], sample_rate: int) -> DiscriminatorSet | None:
    """Of `adversary.discriminators`, for sound at `sample_rate` Hz; None where there are none.

    A `teacher` among the options may be a hub id, which is downloaded if need be. Raises ValueError for what cannot be built.
    """
    return discriminators.build_all([_at_hand(entry) for entry in entries], sample_rate) if entries else None


def _at_hand(entry: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(entry.get("options") or {})
    if options.get("teacher"):
        from codec.semantic.transformers_teachers import check_weights, find

        folder = find(str(options["teacher"]))
        check_weights(options["teacher"], folder)
        options["teacher"] = str(folder)
    return {**entry, "options": options}
