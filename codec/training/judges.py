"""The discriminators that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import discriminators
from codec.config import ConfigError
from discriminators import DiscriminatorSet
from discriminators.whisper import RATE


def build_judges(entries: Sequence[Mapping[str, Any]], sample_rate: int) -> DiscriminatorSet | None:
    """Of `adversary.discriminators`, for sound at `sample_rate` Hz; None where there are none.

    The teacher of a "whisper" may be a hub id, which is downloaded if need be. Raises ValueError for what cannot be built.
    """
    return discriminators.build_all([_at_hand(entry, sample_rate) for entry in entries], sample_rate) if entries else None


def _at_hand(entry: Mapping[str, Any], sample_rate: int) -> dict[str, Any]:
    """The entry with the folder of its teacher in the place of a hub id."""
    options = dict(entry.get("options") or {})
    teacher = options.get("teacher")
    if entry.get("name") != "whisper" or not isinstance(teacher, str) or Path(teacher).is_dir() or sample_rate != RATE:
        return dict(entry)
    try:
        from codec.semantic.transformers_teachers import check_weights, find

        folder = find(teacher)
        check_weights(teacher, folder)
    except ImportError:
        raise ConfigError('adversary.discriminators: whisper is a model of another package: pip install "neural-codec-toolkit[teachers]"') from None
    except ValueError as error:
        raise ConfigError(f"adversary.discriminators: {error}") from None
    return {**entry, "options": options | {"teacher": str(folder)}}
