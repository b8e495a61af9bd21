"""The benchmarks of semantic tokens: cells are what they are called, and probes of a teacher find what was put in."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import semantics  # noqa: E402
import teacher_layers  # noqa: E402

ARGS = Namespace(data="speech", cache="", features="features", speech="whisper", text="MiniLM", transcripts="t.jsonl", shift=4, steps=6,
                 threads=1, out="out")
TEACHERS = {
    "none": [], "SM on 1": ["whisper"], "LM on 1": ["MiniLM"], "LM on 1, SM on 1..8": ["MiniLM", "whisper"],
    "fusion": ["whisper", "whisper"], "CTC on 1": [""],
}


@pytest.mark.parametrize("cell", semantics.CELLS)
def test_every_cell_is_a_recipe_with_its_targets(cell):
    made = semantics.recipe(cell, 1, ARGS, 512)
    entries = made.semantic.entries()
    assert [entry.teacher for entry in entries] == TEACHERS[cell]
    assert all(entry.shift == 4 for entry in entries)
    assert [entry.transcripts for entry in entries if entry.loss == "ctc"] == ["t.jsonl"] * (cell == "CTC on 1")
    assert (made.model.to_dict()["encoder"]["name"] == "fused") == (cell == "fusion")
    assert made.run.seed == 1 and made.run.out.startswith("out/") and made.run.out.endswith("-1")


def test_a_map_from_what_was_heard_finds_the_shift_of_the_teacher():
    """The teacher hears two frames ahead: it is predicted two frames late, not before."""
    torch.manual_seed(0)
    heard = [torch.randn(240, 4) for _ in range(8)]
    features = [(each.roll(-2, 0) @ torch.ones(4, 3)).half() for each in heard]
    inputs = [torch.cat([each, torch.ones(240, 1)], 1) for each in heard]
    losses = {shift: teacher_layers.distance(inputs, features, shift) for shift in (0, 1, 2, 4)}
    assert losses[2] < 0.32 and min(losses[shift] for shift in (0, 1, 4)) > 0.6


def test_units_of_a_layer_tell_its_words_apart(monkeypatch):
    monkeypatch.setattr(teacher_layers, "UNITS", 16)
    rng = torch.Generator().manual_seed(0)
    centers = torch.randn(8, 5, generator=rng)
    said = [torch.randint(0, 8, (60,), generator=rng) for _ in range(20)]
    _, codes = teacher_layers.units([centers[each] + 0.01 * torch.randn(60, 5, generator=rng) for each in said])
    pairs = {(int(a), int(b)) for each, code in zip(said, codes) for a, b in zip(each, code[0])}
    assert len(pairs) == len({unit for _, unit in pairs})  # a unit has one center
    assert len({center for center, _ in pairs}) == 8
    answers = np.array([[int((each == 0).sum() > 7)] for each in said])
    task = SimpleNamespace(slots={"colour": ["red", "blue"]}, answers=answers, folds=np.arange(20) % 5)
    accuracy, chance = teacher_layers.slots(task, codes)
    assert chance == pytest.approx(max(answers.mean(), 1 - answers.mean())) and 0 <= accuracy <= 1
