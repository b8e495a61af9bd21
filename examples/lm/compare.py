"""Which tokens does a language model predict better? Runs of `train.py` that differ in --codec alone, as a table.

    python examples/lm/compare.py runs/lm-a runs/lm-b

Bits a second of audio with 95 % intervals over recordings, in codebook 1 and in all; the share of the entropy that the codes
have when nothing is known before them; and how far each run is from the first, over the same recordings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from codec.evaluation.sweep.summary import Resamples

PREDICTORS = ("unigram", "bigram", "4-gram", "language model")


def main(folders: list[str]) -> None:
    runs = [json.loads((Path(folder) / "scores.json").read_text()) for folder in folders]
    heldout = [{name: one["frames"] for name, one in run["recordings"].items()} for run in runs]
    if any(other != heldout[0] for other in heldout):
        raise SystemExit("these runs were scored on other recordings or frames: train and score them on the same")
    print("| tokens | | codebook 1, bit/s | of entropy | all, bit/s | of entropy |\n|---|---|---|---|---|---|")
    for run in runs:
        print(f"| {run['codec']} | entropy | {run['entropy']['first']:.0f} | | {run['entropy']['all']:.0f} | |")
        for name in PREDICTORS:
            print(f"| | {name} | {cells(run[name]['first'])} | {cells(run[name]['all'])} |")
    resamples = Resamples(list(heldout[0]))
    for run in runs[1:]:
        for what, books in (("codebook 1", slice(1)), ("all", slice(None))):
            found = resamples.estimate({
                name: (a_second(run, name, books) - a_second(runs[0], name, books), frames) for name, frames in heldout[0].items()
            })
            interval = f"[{found['low']:+.1f}, {found['high']:+.1f}]"
            print(f"\n{run['codec']} against {runs[0]['codec']}, {what}: {found['mean']:+.1f} bit/s {interval}")


def cells(rate: dict) -> str:
    return f"{rate['mean']:.0f} [{rate['low']:.0f}, {rate['high']:.0f}] | {rate['of entropy']:.3f}"


def a_second(run: dict, name: str, books: slice) -> float:
    """Bits a second of one recording by the language model."""
    one = run["recordings"][name]
    return float(np.sum(one["bits"][books])) / one["frames"] * run["frame_rate"]


if __name__ == "__main__":
    main(sys.argv[1:])
