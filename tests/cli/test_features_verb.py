"""`codec features`: run once, resumable, one line at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch

from tiny_teachers import save

from codec.cli.features import parse_layer
from codec.semantic import FeatureStore, content_key
from codec.training.data import decode

pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory) -> str:
    return str(save(tmp_path_factory.mktemp("teachers") / "hubert", "hubert"))


def test_once_over_a_folder(run, record, teacher_dir):
    record("in/a.wav", 1.0)
    record("in/deep/b.wav", 0.5, rate=44_100, channels=2)
    (Path("in") / "broken.wav").write_text("no recording")
    result = run("features", "in", "--teacher", teacher_dir, "--layer", "1", "--out", "out")
    assert result.code == 0 and result.out.count("\n") == 1
    assert result.out.startswith("out/hubert-1-") and "2 files (1.5 s) added" in result.out
    assert "times real time" in result.out
    assert "0 there before, 1 left out; 75 rows of 16 at 50 frames/s" in result.out and "MB\n" in result.out
    assert result.err.startswith("note: left out in/broken.wav: ")
    assert result.err.count("\n") == 1  # no bars, no reports
    store = FeatureStore.open("out", "hubert-1")
    key = content_key(decode("in/a.wav", 16_000))
    assert store.frames(key) == 50 and store.read(key, 0, 50)[1].all()
    again = run("features", "in", "--teacher", teacher_dir, "--layer", "1", "--out", "out")
    assert "0 files (0 s) added, 2 there before, 1 left out" in again.out and "real time" not in again.out


def test_another_layer_is_another_store_and_a_split_of_a_manifest(run, record, teacher_dir):
    record("a.wav"), record("b.wav", 0.3)
    rows = [{"path": "a.wav", "split": "train"}, {"path": "b.wav", "split": "eval"}]
    Path("corpus.json").write_text(json.dumps(rows))
    common = ("features", "corpus.json", "--teacher", teacher_dir, "--out", "out")
    assert "1 file (0.5 s) added" in run(*common, "--layer", "0,2").out
    assert "1 file (0.3 s) added" in run(*common, "--split", "eval").out
    assert FeatureStore.open("out", "hubert-0+2").rows == 25 and FeatureStore.open("out", "hubert-mean").rows == 15


def test_compressed(run, record, teacher_dir):
    record("in/long.wav", 25.0)
    result = run("features", "in", "--teacher", teacher_dir, "--out", "out", "--mvq", "2")
    assert result.code == 0 and "times smaller than float16, relative error 0." in result.out
    assert FeatureStore.open("out").bytes_per_frame == 2
    short = run("features", "in", "--teacher", teacher_dir, "--layer", "0", "--out", "out", "--mvq", "3")
    assert short.code == 1 and "--mvq 3: there is 1, 2, 4" in short.err


def test_what_cannot_be_is_one_line(run, record, teacher_dir, tmp_path):
    soundfile.write("silent.wav", torch.zeros(8000).numpy(), 16_000)
    Path("in").mkdir()
    Path("silent.wav").rename("in/silent.wav")
    for args, message in [
        (("in", "--teacher", teacher_dir), "none of 1 file of in has features: it is silent"),
        (("in", "--teacher", "no-such-teacher"), "there is no folder no-such-teacher"),
        (("in", "--teacher", teacher_dir, "--layer", "9"), "layer=9: this teacher has layers 0 to 2"),
        (("in", "--teacher", teacher_dir, "--layer", "last"), "--layer last: it is a number"),
        (("nowhere", "--teacher", teacher_dir), "there is no training data at nowhere"),
    ]:
        result = run("features", *args, "--out", "out")
        assert result.code == 1 and message in result.err and result.err.splitlines()[-1].startswith("codec: "), args
        assert "Traceback" not in result.err
    assert run("features", "in", "--out", "out").code == 2


def test_layers():
    assert parse_layer("mean") == "mean" and parse_layer("9") == 9
    assert parse_layer("-1") == -1 and parse_layer("3,6") == [3, 6]
