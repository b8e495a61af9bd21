"""Machines in place of ears: probes of what is left of labels in decoded audio and in tokens."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import hub
from codec.evaluation import metrics
from codec.evaluation.datasets import Item, recordings
from codec.evaluation.metrics import MetricError
from codec.evaluation.probe_report import Missing, ProbeError
from codec.evaluation.sweep import labelled, tasks
from codec.evaluation.sweep.run import SweepError, sweep
from codec.evaluation.systems.ours import Ours

RATE = 16_000


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Ten tones and ten noises, in folders of these names."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for number in range(10):
        n = 6000 + 400 * number
        tone = 0.2 * np.sin(2 * np.pi * (300 + 150 * number) * np.arange(n) / RATE) + 0.002 * rng.standard_normal(n)
        for label, wav in (("tone", tone), ("noise", 0.1 * rng.standard_normal(n))):
            (folder / label).mkdir(exist_ok=True)
            soundfile.write(folder / label / f"{number}.wav", wav, RATE)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_model) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    hub.save(tiny_model, folder)
    return str(folder)


@pytest.fixture
def go(data, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "STEPS", 12)

    def run(**changes):
        settings = {"bitrates": [0.5, 2], "metric_names": metrics.of_tasks(["sounds"]), "jobs": 1, "samples": 0}
        return sweep(**{"data": data, "models": [tiny], "out": tmp_path / "out"} | settings | changes)

    return run


def test_labels_are_told_from_audio_and_tokens(go, tmp_path, monkeypatch):
    result = go()
    assert result.notes == [] and result.cells == 2 * 20 + 20 and result.report["settings"]["files"] == 20
    of_audio, of_tokens = result.report["tasks"]
    assert (of_audio["metric"], of_tokens["metric"]) == ("label-audio", "label-tokens") and of_audio["note"] == "2 labels; parts by recording"
    assert of_audio["chance"] == of_tokens["chance"] == 0.5 and of_tokens["original"] is None
    assert of_audio["original"]["mean"] > 0.9 and of_audio["original"]["n"] == 20
    assert [cell["model"].split("/")[-1] for cell in result.report["cells"]] == ["tiny", "tiny"]  # the recordings themselves are no system
    for cell in result.report["cells"]:
        for name in ("label-audio", "label-tokens"):
            one = cell["metrics"][name]
            assert one["n"] == 20 and 0.5 < one["mean"] <= 1  # a random codec tells a tone from noise
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"].split("/")[-1] for row in rows} == {"tiny", "original", "chance"}
    mine = [row for row in rows if row["model"] == "original" and row["metric"] == "label-audio"]
    assert len(mine) == 20 and {row["bitrate"] for row in mine} == {"256000"} and {float(row["value"]) for row in mine} <= {0.0, 1.0}
    assert np.mean([float(row["value"]) for row in mine]) == pytest.approx(of_audio["original"]["mean"])
    assert [row["value"] for row in rows if row["model"] == "chance"] == ["0.5", "0.5"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Machines in place of ears" in page and "The recordings themselves" in page

    monkeypatch.setattr(Ours, "code", None)  # nothing is coded or trained again
    monkeypatch.setattr(tasks, "probe", None)
    again = go()
    assert again.measured == 0 and again.report["cells"] == result.report["cells"] and again.report["tasks"] == result.report["tasks"]


def test_a_probe_that_fails_is_named_and_tried_again(go, monkeypatch):
    real = tasks._audio
    monkeypatch.setattr(tasks, "_audio", lambda *_: 1 / 0)
    result = go(bitrates=[0.5])
    assert [note.split(" of ")[0] for note in result.notes] == ["label-audio", "label-audio"] and "division by zero" in result.notes[0]
    assert list(result.report["cells"][0]["metrics"]) == ["label-tokens"]
    monkeypatch.setattr(tasks, "_audio", real)
    result = go(bitrates=[0.5])
    assert result.notes == [] and list(result.report["cells"][0]["metrics"]) == ["label-audio", "label-tokens"]


def test_labels_turned_round_teach_nothing(go, data, tmp_path):
    """Probes answer about recordings that they have not been trained on: labels without a rule are guessed."""
    rng = np.random.default_rng(1)
    rows = [{"path": str(path.relative_to(data)), "split": "eval", "label": "ab"[rng.integers(2)]} for path in sorted(data.rglob("*.wav"))]
    manifest = data / "manifest.json"
    manifest.write_text(json.dumps(rows))
    try:
        result = go(data=manifest, bitrates=[2])
    finally:
        manifest.unlink()
    assert result.report["tasks"][0]["original"]["mean"] < 0.8 and result.report["cells"][0]["metrics"]["label-audio"]["mean"] < 0.8


def test_bad_recordings_are_asked_as_far_as_they_are_heard(go, data, tmp_path):
    shutil.copytree(data, tmp_path / "some")
    soundfile.write(tmp_path / "some" / "tone" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "some" / "noise" / "short of it ü.wav", 0.1 * np.ones((2400, 2)), 48_000)
    (tmp_path / "some" / "noise" / "broken.wav").write_text("no audio")
    result = go(data=tmp_path / "some", bitrates=[0.5])
    assert result.notes == [] and [one["file"] for one in result.report["failures"]] == ["noise/broken.wav"]
    assert result.report["tasks"][0]["original"]["n"] == 22 and result.report["cells"][0]["metrics"]["label-tokens"]["n"] == 22


def test_without_labels_a_task_is_left_out(go, tiny):
    result = go(metric_names=[*metrics.of_tasks(["slots", "speaker"]), "mel"])
    assert {one.name for one in result.left_out} == {"slots-audio", "slots-tokens", "speaker-audio", "speaker-tokens"}
    assert "no labels.json" in result.left_out[0].reason and "no speakers are known" in result.left_out[2].reason
    assert result.report["tasks"] == [] and list(result.report["cells"][0]["metrics"]) == ["mel"]
    with pytest.raises(SweepError, match="no metric can be measured: slots-audio: no labels.json"):
        go(metric_names=metrics.of_tasks(["slots"]))


def test_names_of_tasks():
    assert metrics.of_tasks(["keyword", "sounds", "asr"]) == ["label-audio", "label-tokens", "dwer", "dcer"]
    with pytest.raises(MetricError, match="there is no task 'x': there are slots, speaker"):
        metrics.of_tasks(["x"])
    assert not {metric.name for metric in metrics.resolve(["all"])} & {"label-audio", "heard"}


def test_parts_keep_speakers_and_classes_apart():
    items = [Item(f"/d/{speaker}-1-{n}.flac", f"{speaker}-1-{n}.flac") for speaker in (11, 12, 13) for n in range(7)]
    one = labelled.labelled("speaker", [*items, Item("/d/99-1-1.flac", "99-1-1.flac")])  # of whom there is one recording
    assert one.classes == (3,) and len(one.files) == 21 and one.note == "3 speakers; parts by recording"
    for speaker in range(3):
        assert np.bincount(one.folds[one.answers[:, 0] == speaker], minlength=5).min() >= 1
    own = labelled.labelled("label", [Item(f"/d/{n}", str(n), "", "ab"[n % 2], str(n // 4)) for n in range(12)])
    assert own.folds.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and own.note == "2 labels; 3 parts of the corpus's own"
    with pytest.raises(ProbeError, match="fewer than two speakers have 5 recordings"):
        labelled.labelled("speaker", items[:9])
    with pytest.raises(Missing, match="no labels are known"):
        labelled.labelled("label", items)


def test_slots_are_those_of_labels_json(tmp_path):
    items = [Item(str(tmp_path / f"{n}.wav"), f"{n}.wav") for n in range(60)]
    for n, item in enumerate(items):
        Path(item.path).write_text(str(n))
    told = {f"{n}": {"slots": {"room": "kitchen" if n % 2 else "hall"} | ({"light": "on"} if n % 3 == 0 else {})} for n in range(58)}
    (tmp_path / "labels.json").write_text(json.dumps(told))
    one = labelled.labelled("slots", items)
    assert len(one.files) == 58 and one.classes == (2, 2) and one.note == "2 slots; parts by recording" and set(one.folds) == set(range(5))


def test_chance_is_of_the_most_frequent_answers():
    truth = np.array([[0, 1], [0, 1], [1, -1], [0, 0]])
    assert tasks._chance(truth, np.array([2.0, 2.0, 1.0, 2.0])) == pytest.approx((3 + 2) / 7)
    assert tasks._chance(np.array([[0], [1]]), np.array([3.0, 1.0])) == 0.75  # three pieces of one recording


def test_folds_of_corpora_are_read(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "1-1-A-0.wav", np.zeros(100), RATE)
    (tmp_path / "meta" / "esc50.csv").write_text("filename,fold,target,category\n1-1-A-0.wav,3,0,dog\n")
    (item,) = recordings(tmp_path)
    assert (item.label, item.fold) == ("dog", "3")
    (tmp_path / "list.json").write_text(json.dumps([{"path": "audio/1-1-A-0.wav", "label": "cat", "fold": 2, "speaker": "s"}]))
    (item,) = recordings(tmp_path / "list.json")
    assert (item.speaker, item.label, item.fold) == ("s", "cat", "2")
