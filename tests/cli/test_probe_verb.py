"""`codec probe` as a user runs it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def speakers(record):
    for number in range(5):
        path = record(f"speech/{number}-1-0001.wav", seconds=6.5 + 0.1 * number)
    return path.parent


def test_figures_and_what_is_left_out(run, model_dir, speakers):
    args = ["probe", model_dir, "--data", "speech", "--codebooks", "1,1-2", "--steps", "2", "--cache", "cache"]
    result = run(*args, "--out", "probe.json")
    assert result.code == 0, result.err
    assert result.out.startswith("| model | task |") and result.out.count("| tiny | speaker | 1-2 |") == 2
    assert result.err == "note: slots is left out: no labels.json with slots lies beside the recordings\n"
    report = json.loads((speakers.parent / "probe.json").read_text())
    names = {"model", "task", "part", "codebooks", "head", "metric", "better", "value", "low", "high", "chance", "count", "unit", "note"}
    assert len(report["rows"]) == 4 and all(set(row) == names for row in report["rows"])
    assert report["models"][0]["codebook_sizes"] == [32] * 4 and report["settings"]["steps"] == 2
    again = run(*args)
    assert again.out == result.out  # from the codes that were kept, with the same seed


@pytest.mark.parametrize("change, words", [
    (["--tasks", "weather"], "there is no task 'weather': there are slots, speaker, characters, words, dwer"),
    (["--codebooks", "5"], "the model has codebooks 1 to 4"),
    (["--out", "nowhere/probe.json"], "does not exist: make it first"),
    (["--data", "nowhere"], "nowhere: no such file"),
    (["--transcripts", "none.jsonl"], "none.jsonl cannot be read"),
])
def test_errors_are_one_line(change, words, run, model_dir, speakers):
    result = run("probe", model_dir, "--data", "speech", "--cache", "cache", *change)
    assert result.code == 1 and words in result.err and result.err.count("\n") == 1 and not result.out
