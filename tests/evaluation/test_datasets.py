"""Layouts of datasets on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codec.evaluation.datasets import DatasetError, recordings


@pytest.fixture
def make(tmp_path):
    def files(*names: str) -> Path:
        for name in names:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "data"

    return files


def names(source, **options) -> list[str]:
    return [item.name for item in recordings(source, **options)]


def test_a_folder(make):
    data = make("b.wav", "a/c.FLAC", "a/notes.txt", ".hidden/d.wav", "e.opus")
    assert names(data) == ["a/c.FLAC", "b.wav", "e.opus"]
    assert names(data, limit=2) == ["a/c.FLAC", "b.wav"] and names(data, limit=9) == names(data)
    assert names(data / "b.wav") == ["b.wav"]


def test_a_limit_spreads(make):
    assert names(make(*(f"{k}.wav" for k in range(10))), limit=3) == ["0.wav", "3.wav", "6.wav"]


def test_librispeech(make):
    data = make("61/70968/61-70968-0000.flac", "61/70968/61-70968.trans.txt", "121/1/121-1-0003.flac")
    assert [(item.name, item.speaker) for item in recordings(data)] == [("121/1/121-1-0003.flac", "121"), ("61/70968/61-70968-0000.flac", "61")]


def test_vctk(make):
    data = make("wav48_silence_trimmed/p225/p225_001_mic1.flac", "wav48_silence_trimmed/p225/p225_001_mic2.flac", "txt/p225/p225_001.txt")
    assert names(data) == ["wav48_silence_trimmed/p225/p225_001_mic1.flac"] and recordings(data)[0].speaker == "p225"


def test_daps(make):
    data = make("clean/f1_script1_clean.wav", "cleanraw/f1_script1_cleanraw.wav", "ipad_office1/f1_script1_ipad_office1.wav")
    assert names(data) == ["clean/f1_script1_clean.wav"] and recordings(data)[0].speaker == "f1"


def test_esc50(make):
    data = make("audio/1-100032-A-0.wav", "audio/other.wav")
    (data / "meta").mkdir()
    (data / "meta" / "esc50.csv").write_text("filename,fold,target,category\n1-100032-A-0.wav,1,0,dog\n")
    assert [(item.name, item.label) for item in recordings(data)] == [("audio/1-100032-A-0.wav", "dog")]


def test_musdb(make):
    data = make("train/A - B/mixture.wav", "test/C - D/mixture.wav", "test/C - D/drums.wav")
    assert names(data) == ["test/C - D/mixture.wav"]
    assert names(data, layout="folder") == ["test/C - D/drums.wav", "test/C - D/mixture.wav", "train/A - B/mixture.wav"]


def test_lists_and_manifests(make):
    data = make("a.wav", "b.wav")
    (data / "list.txt").write_text("# mine\nb.wav\n\na.wav\n")
    assert names(data / "list.txt") == ["b.wav", "a.wav"]
    (data / "m.json").write_text(json.dumps([{"path": "a.wav", "split": "eval"}, {"path": "b.wav", "split": "train"}]))
    assert names(data / "m.json") == ["a.wav"]
    (data / "list.txt").write_text("b.wav\nb.wav\n")
    with pytest.raises(DatasetError, match="names b.wav twice"):
        recordings(data / "list.txt")


def test_nothing_to_measure_is_said(make, tmp_path):
    data = make("notes.txt")
    with pytest.raises(DatasetError, match="holds no audio files"):
        recordings(data)
    with pytest.raises(DatasetError, match="no such file"):
        recordings(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no layout is called 'timit'"):
        recordings(data, layout="timit")
