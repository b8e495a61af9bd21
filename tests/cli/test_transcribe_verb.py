"""codec transcribe: what it says of a corpus, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from fake_whisper import GOOD, install

from codec import cli


@pytest.fixture
def whisper(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def corpus(tmp_path):
    """A recording, a silent one, one that is no audio."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, level in (("a", 0.1), ("silent", 1e-4)):
        soundfile.write(folder / f"{name}.wav", level * np.random.default_rng(0).standard_normal(16_000), 16_000)
    (folder / "broken.wav").write_text("text")
    return folder


def test_what_it_says(corpus, tmp_path, whisper, capfd):
    whisper.segments = [GOOD]
    (corpus / "manifest.json").write_text(json.dumps([{"path": "a.wav"}, {"path": "silent.wav"}]))
    command = ["transcribe", str(corpus), "--asr", "base", "--language", "en", "--out", str(tmp_path / "t.jsonl")]
    assert cli.main(command) == 0
    assert capfd.readouterr().out == "1 file transcribed (1 s of audio), 0 done before, skipped: 1 silent\n"
    assert cli.main(command) == 0
    assert capfd.readouterr().out == "0 files transcribed (0 s of audio), 2 done before\n"
    (corpus / "manifest.json").write_text(json.dumps([{"path": "broken.wav"}]))
    assert cli.main(command) == 1
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 2 and "broken.wav" in err[0] and "1 failed" in err[1]


@pytest.mark.parametrize("options, words", [
    (["--asr", "missing"], "missing"), (["--align", "missing-dir/"], "missing-dir"), (["--device", "tpu"], "tpu"),
])
def test_refusals_are_on_one_line(options, words, corpus, tmp_path, whisper, capfd):
    assert cli.main(["transcribe", str(corpus), "--out", str(tmp_path / "t.jsonl"), *options]) == 1
    err = capfd.readouterr().err
    assert words in err and err.startswith("codec: ") and err.count("\n") == 1
    assert cli.main(["transcribe", "none/", "--out", str(tmp_path / "t.jsonl")]) == 1
