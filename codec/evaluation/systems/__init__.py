"""The codecs that a sweep compares, by name.

    speech-16k, DIR, hf:OWNER/NAME    models that `codec.load` reads
    RUN, RUN@last, RUN@best           the checkpoints of a folder that `codec train` wrote, or one of them; RUN@steps those of steps
    MODEL+30                          a model whose codes are refined in 30 steps (`codec encode --refine 30`)
    MODEL+30v, MODEL+0v               the same at variable bitrates (`--variable`), and these without refinement
    opus, codec2, speex, amr-wb       where installed
    lyra                              Lyra v2, with the folder of its .tflite files
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from codec.evaluation.systems.amr import AmrWb
from codec.evaluation.systems.base import Setting, System, SystemsError  # noqa: F401
from codec.evaluation.systems.codec2 import Codec2
from codec.evaluation.systems.lyra import Lyra
from codec.evaluation.systems.opus import Opus, Speex
from codec.evaluation.systems.original import ORIGINAL, Original  # noqa: F401
from codec.evaluation.systems.ours import Ours, VariableRate, checkpoints, is_training

BASELINES: dict[str, Callable[[str], System]] = {
    "opus": lambda lyra: Opus(), "codec2": lambda lyra: Codec2(), "speex": lambda lyra: Speex(), "amr-wb": lambda lyra: AmrWb(),
    "lyra": Lyra, ORIGINAL: lambda lyra: Original(),
}


def build(names: Sequence[str], lyra: str = "") -> list[System]:
    """The systems of these names, in order. Models are not loaded yet. Raises SystemsError for a training folder without what
    is asked of it, and where two systems would have one name."""
    found: list[System] = []
    for name in names:
        if name in BASELINES:
            found.append(BASELINES[name](lyra))
            continue
        model, refine, kind = _refined(name)
        if model in BASELINES:
            raise SystemsError(f"{name}: codes of models are refined, and {model} is none: leave out {name.removeprefix(model)}")
        folder, _, which = model.partition("@")
        if is_training(Path(folder)):
            chosen = checkpoints(Path(folder), [which] if which else [])
        else:
            chosen = {_label(model): model}
        found += [kind(source, label + name.removeprefix(model), refine) for label, source in chosen.items()]
    labels = [system.name for system in found]
    for system in found:
        if labels.count(system.name) > 1:
            if not isinstance(system, Ours) or sum(s.source == system.source for s in found if isinstance(s, Ours)) > 1:
                raise SystemsError(f"{system.name} is named twice: name each system once")
            system.name = system.source
    if not found:
        raise SystemsError("no system is named: give for example --models speech-16k,opus")
    return found


def _refined(name: str) -> tuple[str, int, type[Ours]]:
    """MODEL+30, MODEL+30v or MODEL+0v -> MODEL, 30 or 0, and what codes it."""
    match = None if Path(name).exists() else re.fullmatch(r"(.+)\+([1-9]\d*|0(?=v))(v?)", name)
    return (match[1], int(match[2]), VariableRate if match[3] else Ours) if match else (name, 0, Ours)


def _label(name: str) -> str:
    """A model's name or hub id, or the last two parts of its folder."""
    return "/".join((Path(name).parts or Path(name).resolve().parts)[-2:]) if Path(name).is_dir() else name.removeprefix("hf:")
