"""`codec sweep`."""

from __future__ import annotations

import json
import shutil


def test_measures_and_tells(run, record, model_dir, tmp_path):
    for number in range(2):
        record(f"data/{number}.wav", seconds=0.4 + 0.1 * number)
    (tmp_path / "data" / "bad.wav").write_text("no")
    arguments = ("sweep", "data", "--models", f"{model_dir},no-such", "--bitrates", "1,2", "--metrics", "si-sdr,mel", "--out", "out",
                 "--jobs", "1")
    result = run(*arguments)
    assert result.code == 0, result
    lines = result.out.splitlines()
    assert lines[0] == "| model | kbit/s | files | SI-SDR | Mel distance |" and lines[2].split("|")[1].endswith("/tiny k=2 ")
    assert lines[-1] == "out: 6 cells, 6 measured now; report.html, report.json, results.csv"
    assert "note: no-such is left out: no model is named 'no-such'" in result.err
    assert "note: bad.wav: not coded by all: data/bad.wav: is not audio that can be read" in result.err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["settings"]["files"] == 3
    assert "2 measured now" in run(*arguments).out and " n=" not in result.out
    record("data/short.wav", seconds=0.4)
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "data" / "silent.wav", np.zeros(8000), 16_000)
    assert run(*arguments).out.splitlines()[2].count(" n=3 ") == 2  # of four, two metrics judge three


def test_names_of_folders_may_hold_spaces(run, record, model_dir, tmp_path):
    record("a.wav", seconds=0.4)
    shutil.copytree(model_dir, tmp_path / "my model")
    result = run("sweep", "a.wav", "--models", "my model, no-such", "--bitrates", "1", "--metrics", "si-sdr", "--jobs", "1")
    assert result.code == 0 and "| my model k=2 |" in result.out and "note: no-such is left out" in result.err


def test_lists_metrics(run):
    result = run("sweep", ".", "--metrics", "list")
    assert result.code == 0 and "| pesq-wb | PESQ-wb | MOS-LQO | higher | ITU-T P.862.2 |" in result.out


def test_says_what_is_wrong(run, record, tmp_path, model_dir):
    (tmp_path / "empty").mkdir()
    record("a.wav")
    for words, *arguments in (
        ("holds no audio files", "empty"), ("no such file", "nowhere"), ("there is no metric 'x'", "a.wav", "--metrics", "x"),
        ("no model is named 'x'", "a.wav", "--models", "x"), ("nothing near 64", "a.wav", "--models", model_dir, "--bitrates", "64"),
        ("no report of a sweep", "a.wav", "--models", model_dir, "--compare", "a.wav"), ("must be above 0", "a.wav", "--seconds", "0"),
        ("there is no task 'x': there are slots", "a.wav", "--tasks", "x"),
    ):
        result = run("sweep", *arguments, "--metrics", "si-sdr") if "--metrics" not in arguments else run("sweep", *arguments)
        assert result.code == 1 and words in result.err and result.err.count("\n") == 1, result
    assert not (tmp_path / "report").exists()
    assert run("sweep", "a.wav", "--bitrates", "fast").code == 2 and run("sweep", "a.wav", "--jobs", "0").code == 2
