"""The folder of a sweep: what it was made with, so that results of other settings do not mix."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codec.atomic import WriteError, put
from codec.evaluation.metrics import Options
from codec.evaluation.sweep import cells as journal
from codec.evaluation.sweep import keep

SETTINGS = "settings.json"
VERSION = 2


class SweepError(ValueError):
    """A sweep that cannot be made; one line that says why and how to mend it."""


def remembered(out: Path, options: Options) -> Options:
    """What is not said now is as it was said the last time."""
    there = _settings(out).get("options") or {}
    return Options(**{key: said or str(there.get(key, "")) for key, said in asdict(options).items()})


def _settings(out: Path) -> dict[str, Any]:
    """As the folder of results has them, {} without such a file, or with a torn one."""
    try:
        there = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}


def ready(out: Path, settings: dict[str, Any], options: Options) -> None:
    """The folder of results, made if it is not there. Raises SweepError when it holds results of other settings."""
    try:
        for folder in (out, out / journal.CELLS, out / keep.CODES, out / keep.SAMPLES, out / keep.VECTORS):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(str(out), error) from error
    settings = {"version": VERSION, **settings}
    there, path = _settings(out), out / SETTINGS
    changed = [key for key in settings if there.get(key) != settings[key]] if path.is_file() else []
    if changed:
        raise SweepError(f"{out} holds results with another {' and '.join(changed)}: choose another --out")
    settings = settings | {"options": asdict(options)}
    if there != settings:
        put(path, (json.dumps(settings, indent=1) + "\n").encode())
