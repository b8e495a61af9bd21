"""Sweeps: the long table, means and intervals, going on after a kill, bad recordings, absent systems."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import hub
from codec.container import TokReader
from codec.entropy.fitting import fit_prior
from codec.evaluation.metrics import Options
from codec.evaluation.sweep import cells as journal
from codec.evaluation.sweep import pool, report, summary
from codec.evaluation.sweep.cells import Cell, Journal
from codec.evaluation.sweep.run import SweepError, sweep
from codec.evaluation.systems.ours import Ours
from codec.lm.predictability import cross_validated

RATE = 16_000


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    n = round(seconds * RATE)
    wav = np.random.default_rng(seed).standard_normal(n) * (0.2 + np.sin(2 * np.pi * 2 * np.arange(n) / RATE) ** 2)
    return (0.1 * wav).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_model) -> str:
    folder = tmp_path_factory.mktemp("sweep") / "tiny"
    hub.save(tiny_model, folder)
    return str(folder)


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", speech(1.2 + 0.1 * number, number), RATE)
    return folder


@pytest.fixture
def go(data, tiny, tmp_path):
    def run(**changes):
        settings = {"bitrates": [0.5, 2], "metric_names": ["si-sdr", "mel"], "jobs": 1, "samples": 1}
        return sweep(**{"data": data, "models": [tiny], "out": tmp_path / "out"} | settings | changes)

    return run


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_long_table_and_the_means(go, tmp_path):
    result = go()
    rows = table(tmp_path / "out")
    assert list(rows[0]) == ["file", "model", "bitrate", "metric", "value"]
    assert {row["metric"] for row in rows} == {"bitrate", "si-sdr", "mel"} and len(rows) == 3 * 2 * 3
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content == result.report and [cell["setting"] for cell in content["cells"]] == ["k=1", "k=4"]
    for cell in content["cells"]:
        mine = [float(row["value"]) for row in rows if row["metric"] == "mel" and float(row["bitrate"]) == cell["bitrate"]]
        one = cell["metrics"]["mel"]
        assert one["mean"] == pytest.approx(np.mean(mine), abs=1e-6) and one["n"] == 3 and one["low"] <= one["mean"] <= one["high"]
        assert (one["high"] - one["low"]) / 2 == pytest.approx(4.3027 * np.std(mine, ddof=1) / 3**0.5, abs=2e-6)  # Student's t of three
        assert cell["files"] == 3 and cell["failed"] == 0 and cell["encode_x_realtime"] > 0
    assert content["cells"][0]["bitrate"] == pytest.approx(500, rel=0.01)  # 100 frames of 5 bits
    assert content["metrics"]["mel"]["better"] == "lower" and content["metrics"]["mel"]["source"]


def test_parquet_is_the_same_table(go, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    go()
    there = parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [(row["file"], row["model"], row["bitrate"], row["metric"], row["value"]) for row in there] == [
        (row["file"], row["model"], float(row["bitrate"]), row["metric"], float(row["value"])) for row in table(tmp_path / "out")
    ]


def test_a_sweep_that_is_stopped_goes_on(go, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(done, total, label):
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        go(progress=stop)
    (lines,) = (tmp_path / "out" / "cells").glob("*.jsonl")
    assert len(lines.read_bytes().splitlines()) == 3  # all that was measured is there
    lines.write_bytes(lines.read_bytes()[:-20])  # and now a kill in the middle of a line
    steps = []
    result = go(progress=lambda done, total, label: steps.append((done, total)))
    assert result.measured == 4 and steps == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert go().measured == 0
    again = go(out=tmp_path / "other")
    same = [{**cell, "encode_x_realtime": 0, "decode_x_realtime": 0} for cell in again.report["cells"]]
    assert same == [{**cell, "encode_x_realtime": 0, "decode_x_realtime": 0} for cell in result.report["cells"]]


def test_more_metrics_and_changed_recordings_are_measured_anew(go, data, tmp_path):
    assert go().measured == 6
    assert go(metric_names=["si-sdr", "mel", "stft"]).measured == 6 and go(metric_names=["stft"]).measured == 0
    soundfile.write(data / "1.wav", speech(1.0, 9), RATE)
    assert go(metric_names=["stft"]).measured == 2
    with pytest.raises(SweepError, match="another seconds: choose another --out"):
        go(seconds=1.0)


def test_what_metrics_are_told_may_come_later(go, data, tmp_path, monkeypatch):
    """Only what it changes is measured, and it is remembered."""
    module = tmp_path / "my_vectors.py"
    module.write_text("def one(wav, rate):\n    return wav[: len(wav) // 4 * 4].reshape(-1, 4)\n\n\ndef two(wav, rate):\n    return 2 * one(wav, rate)\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = go(metric_names=["mel", "fad"])
    one = go(metric_names=["mel", "fad"], options=Options(embedding="my_vectors:one"))
    assert one.measured == 6 and go(metric_names=["mel", "fad"]).measured == 0  # not said: as before
    assert [cell["metrics"]["mel"] for cell in one.report["cells"]] == [cell["metrics"]["mel"] for cell in first.report["cells"]]
    soundfile.write(data / "1.wav", speech(1.0, 9), RATE)
    assert go(metric_names=["fad"]).measured == 2
    two = go(metric_names=["fad"], options=Options(embedding="my_vectors:two"))
    afresh = go(metric_names=["fad"], options=Options(embedding="my_vectors:two"), out=tmp_path / "afresh")
    assert two.measured == 6 and [cell["metrics"] for cell in two.report["cells"]] == [cell["metrics"] for cell in afresh.report["cells"]]
    with pytest.raises(SweepError, match="no metric can be measured: dwer: --asr is not given"):
        go(metric_names=["dwer"])


def test_bits_after_entropy_coding(go, tiny, tiny_model, data, tmp_path):
    """Those of the blocks that `Tokens.save` writes; of a model without a prior, of the bit-packed ones."""
    bare = go(metric_names=["coded", "saved"])
    assert bare.notes == ["nothing is saved by entropy coding, for want of a prior: " + bare.report["cells"][0]["model"]]
    for k, cell in zip((1, 4), bare.report["cells"]):
        assert cell["metrics"]["saved"]["mean"] == 0
        assert 1000 * cell["metrics"]["coded"]["mean"] == pytest.approx(cell["bitrate"] + 8 * 29 * 3 / 3.9, rel=0.02)  # blocks cost 29 bytes
    with_prior = tmp_path / "wise" / Path(tiny).name
    shutil.copytree(tiny, with_prior)
    codes = [tiny_model.encode(speech(1.2 + 0.1 * n, n)).codes.numpy()[0] for n in range(3)]
    prior = fit_prior(codes, tiny_model.spec, epochs=300)
    prior.save(with_prior)
    result = go(models=[str(with_prior)], metric_names=["coded", "saved"])
    assert result.notes == []
    for k, cell in zip((1, 4), result.report["cells"]):
        sizes = []
        for used in (prior, None):
            sizes.append(0)
            for n in range(3):
                tokens, file = tiny_model.encode(speech(1.2 + 0.1 * n, n), num_codebooks=k), io.BytesIO()
                tokens.save(file, prior=used)
                with TokReader(io.BytesIO(file.getvalue()), prior=prior) as reader:
                    around = 2 * len(reader._json) + 14 + 4 + 8 + 28 + 4  # header and end of the file: see docs/tok-format.md
                sizes[-1] += 8 * (len(file.getvalue()) - around)
        assert 1000 * cell["metrics"]["coded"]["mean"] == pytest.approx(sizes[0] / 3.9, rel=0.01)
        assert cell["metrics"]["saved"]["mean"] == pytest.approx(100 * (1 - sizes[0] / sizes[1]), abs=0.5) and cell["metrics"]["saved"]["mean"] > 3
    fit_prior(codes, tiny_model.spec, epochs=1).save(with_prior)  # another prior, other bits
    assert go(models=[str(with_prior)], metric_names=["coded", "si-sdr"]).measured == 6
    (with_prior / "prior.safetensors").write_bytes(b"torn")
    result = go(models=[str(with_prior)], metric_names=["coded", "mel"])
    assert {one["metrics"] for one in result.report["failures"]} == {"coded"} and "holds no prior" in result.report["failures"][0]["reason"]
    assert all(set(cell["metrics"]) == {"mel"} for cell in result.report["cells"])


def test_another_model_of_the_same_name_is_measured_anew(go, tiny, tmp_path, tiny_model):
    import copy

    folder = tmp_path / "sub" / "tiny"
    hub.save(tiny_model, folder)
    assert go(models=[str(folder)]).measured == 6
    changed = copy.deepcopy(tiny_model)
    changed.quantizer.codebooks.mul_(1.1)
    hub.save(changed, folder)
    assert go(models=[str(folder)]).measured == 6


def test_bad_recordings_are_reported_each(go, data, tmp_path):
    pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    soundfile.write(data / "silent.wav", np.zeros(2 * RATE), RATE)
    soundfile.write(data / "short.wav", speech(0.05), RATE)
    soundfile.write(data / "stereo.wav", np.stack([np.repeat(speech(1.2, k), 3) for k in (0, 1)], 1), 48_000)
    (data / "broken.wav").write_text("no audio")
    (data / "empty.wav").touch()
    result = go(metric_names=["pesq", "stoi", "si-sdr"])
    failures = {one["file"]: one for one in result.report["failures"] if one["what"] == "not coded"}
    assert sorted(failures) == ["broken.wav", "empty.wav"] and failures["broken.wav"]["models"] == "all"
    assert "is not audio that can be read" in failures["broken.wav"]["reason"]
    reasons = {(one["file"], one["metrics"]): one["reason"] for one in result.report["failures"] if one["what"] == "not judged"}
    assert reasons[("silent.wav", "pesq-wb, stoi, si-sdr")] == "it is silent"
    assert reasons[("short.wav", "pesq-wb, stoi")] == "it is shorter than 1 s"
    for cell in result.report["cells"]:
        assert (cell["files"], cell["failed"]) == (6, 2)
        assert {name: one["n"] for name, one in cell["metrics"].items()} == {"pesq-wb": 4, "stoi": 4, "si-sdr": 5}
    assert {row["file"] for row in table(tmp_path / "out")} == {f"{n}.wav" for n in (0, 1, 2, "silent", "short", "stereo")}
    assert go(metric_names=["pesq", "stoi", "si-sdr"]).measured == 4  # what could not be coded is tried again


def test_what_failed_is_tried_again(go, monkeypatch):
    """Nothing of a recording has changed when a disk has room again, or a file its permission."""
    real = Ours.code
    monkeypatch.setattr(Ours, "code", lambda self, sound, setting: real(self, sound, setting) if setting.name == "k=1" else 1 / 0)
    result = go()
    assert [cell["failed"] for cell in result.report["cells"]] == [0, 3] and "division by zero" in result.report["failures"][0]["reason"]
    monkeypatch.setattr(Ours, "code", real)
    result = go()
    assert result.measured == 3 and result.report["failures"] == [] and [cell["files"] for cell in result.report["cells"]] == [3, 3]
    assert go().measured == 0


def test_a_report_among_the_recordings_is_no_recording(go, data):
    assert go(out=data / "report").cells == 6 and list((data / "report" / "samples").glob("*.flac"))
    result = go(out=data / "report")
    assert (result.cells, result.measured) == (6, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode there")
def test_names_of_any_bytes(go, data, tmp_path):
    folder = os.fsencode(data)
    os.rename(folder + b"/0.wav", folder + b"/caf\xe9.wav")
    (data / "<script>1.wav").write_bytes((data / "1.wav").read_bytes())
    with open(folder + b"/bad\xff.wav", "w") as file:
        file.write("no audio")
    result = go(samples=5)
    assert {row["file"] for row in table(tmp_path / "out")} == {"1.wav", "2.wav", "<script>1.wav", r"caf\udce9.wav"}
    (failed,) = result.report["failures"]
    assert failed["file"] == r"bad\udcff.wav" and "is not audio" in failed["reason"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert r"caf\udce9.wav" in page and "&lt;script&gt;1.wav" in page and "<script>1" not in page


def test_only_bad_recordings(go, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_text("no")
    result = go(data=tmp_path / "bad")
    assert [cell["files"] for cell in result.report["cells"]] == [0, 0] and table(tmp_path / "out") == []


def test_absent_systems_are_named_and_the_sweep_goes_on(go, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    result = go(models=[tiny, "opus", "no-such-model", "lyra"])
    assert {one.name: one.reason for one in result.left_out}["opus"] == "apt install opus-tools"
    assert [one["name"] for one in result.report["left_out"]] == ["opus", "no-such-model", "lyra"]
    assert len(result.report["cells"]) == 2
    with pytest.raises(SweepError, match="no system can be measured: opus: apt install opus-tools"):
        go(models=["opus"])
    with pytest.raises(SweepError, match="nothing near 64"):
        go(bitrates=[64])


def test_metrics_that_are_missing_are_named(go, monkeypatch):
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "pesq" else real(name, *rest))
    result = go(metric_names=["pesq", "si-sdr"])
    assert [(one.name, one.reason) for one in result.left_out] == [("pesq-wb", 'pip install "neural-codec-toolkit[eval]"')]
    with pytest.raises(SweepError, match="no metric can be measured: pesq-wb"):
        go(metric_names=["pesq"])


def test_a_metric_that_cannot_be_built_is_named_and_the_others_go_on(go, monkeypatch):
    tried = []

    def broken(self, options):
        tried.append(1)
        raise OSError("its weights cannot be fetched")

    monkeypatch.setattr("codec.evaluation.metrics.signal.SiSdr.__init__", broken)
    result = go()
    assert len(tried) == 1 and all(list(cell["metrics"]) == ["mel"] for cell in result.report["cells"])
    assert {one["reason"] for one in result.report["failures"]} == {"it cannot be measured: its weights cannot be fetched"}
    monkeypatch.undo()
    result = go()  # they can be now
    assert result.measured == 6 and result.report["failures"] == [] and go().measured == 0


def test_a_table_is_written_where_pyarrow_is_broken(go, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert go().notes == ['results.parquet is left out: pip install "neural-codec-toolkit[eval]"'] and table(tmp_path / "out")
    assert not (tmp_path / "out" / "results.parquet").exists()


@pytest.mark.slow
def test_a_process_that_dies_takes_one_cell(go, tiny):
    killed = []

    def kill(done, total, label):
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()
            killed[0].join()

    result = go(jobs=2, progress=kill)
    died = [one for one in result.report["failures"] if "died (signal 9)" in one["reason"]]
    assert len(died) <= 1 and sum(cell["files"] for cell in result.report["cells"]) == 6 - len(died)
    assert result.cells == 6 and go().measured == len(died)  # which the next run tries again


def test_weighted_means_by_hand():
    cells = [Cell(str(n), "", "x", "", "s", 1000, seconds=1, bits=1000, values={"m": [n % 2, 10 + 20 * (n % 2)]}) for n in range(20)]
    (group,) = summary.grouped(cells)
    one = summary.Resamples([cell.file for cell in cells]).estimate(summary.pairs_of(group, "m"))
    assert one["mean"] == 0.75 and one["n"] == 20 and 0.4 < one["low"] < 0.7 < 0.8 < one["high"] < 0.97
    assert summary.Resamples(["0"]).estimate({"0": (2.0, 1.0)}) == {"mean": 2.0, "low": None, "high": None, "n": 1}


def test_the_interval_is_that_of_a_mean():
    """Of normal numbers it is the mean -+ 1.96 standard errors, nearly."""
    values = np.random.default_rng(1).normal(5, 2, 400)
    pairs = {str(n): (value, 1.0) for n, value in enumerate(values)}
    one = summary.Resamples(list(pairs)).estimate(pairs)
    error = values.std() / 20
    assert one["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert one["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


@pytest.mark.parametrize("n", [2, 3, 5, 9, 10, 20])
def test_intervals_hold_the_mean_as_often_as_they_say(n):
    """Of 2000 samples of normal numbers 95 in 100, give or take three standard errors (1.5); plain percentiles: 50 of two, 90 of ten."""
    rng, files = np.random.default_rng(n), [str(k) for k in range(n)]
    resamples, held = summary.Resamples(files), 0
    for _ in range(2000):
        one = resamples.estimate({file: (value, 1.0) for file, value in zip(files, rng.normal(3, 2, n))})
        held += one["low"] <= 3 <= one["high"]
    assert 0.935 <= held / 2000 <= 0.965


def test_intervals_of_weighted_means():
    """Errors of words in recordings of 5 to 40 words: the interval is of the rate over all words."""
    rng, files, held = np.random.default_rng(0), [str(k) for k in range(8)], 0
    resamples = summary.Resamples(files)
    for _ in range(1000):
        words = rng.integers(5, 40, 8)
        wrong = rng.binomial(words, 0.3)
        one = resamples.estimate({file: (w / n, float(n)) for file, w, n in zip(files, wrong, words)})
        assert one["mean"] == pytest.approx(wrong.sum() / words.sum())
        held += one["low"] <= 0.3 <= one["high"]
    assert 0.92 <= held / 1000 <= 0.97


def test_journals_add_up(tmp_path):
    (tmp_path / "cells").mkdir()
    Journal(tmp_path).write(Cell("a", "1", "x", "k", "s", 1, values={"mel": [1.0, 1.0]}, reasons={"stoi": "short"}))
    Journal(tmp_path).write(Cell("a", "1", "x", "k", "s", 1, values={"stoi": [0.5, 1.0]}))
    ((_, cell),) = journal.read(tmp_path).items()
    assert cell.values == {"mel": [1.0, 1.0], "stoi": [0.5, 1.0]} and cell.reasons == {}
    assert cell.lacks(["mel", "pesq-wb"]) == ["pesq-wb"]


def test_reports_are_read(go, tmp_path):
    go()
    assert report.read(tmp_path / "out")["cells"] == report.read(tmp_path / "out" / "report.json")["cells"]
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(report.ReportError, match="no report of a sweep"):
        report.read(tmp_path / "x.json")


def test_deaths_in_words():
    assert pool._death(-11) == "signal 11" and pool._death(1) == "exit code 1"


def test_figures_of_all_recordings_together(go, tmp_path, tiny_model):
    result = go(metric_names=["fad", "utilisation", "entropy", "repetition"])
    low, high = result.report["cells"]
    assert high["metrics"]["fad"]["mean"] > 0 and high["metrics"]["fad"]["low"] is None and high["metrics"]["fad"]["n"] == 3
    rows = table(tmp_path / "out")
    assert {row["metric"] for row in rows if row["file"] == "*"} == {"fad", "utilisation", "entropy"}
    codes = [tiny_model.encode(speech(1.2 + 0.1 * n, n)).codes[0].numpy() for n in range(3)]
    counts = np.bincount(np.concatenate([each[0] for each in codes]), minlength=32) / sum(each.shape[1] for each in codes)
    bits = -(counts[counts > 0] * np.log2(counts[counts > 0])).sum()
    assert low["metrics"]["entropy"]["mean"] == pytest.approx(100 * bits / 1000, rel=0.01)  # 100 frames a second
    assert low["metrics"]["utilisation"]["mean"] == pytest.approx((counts > 0).mean(), abs=0.04)  # files are of 16 bits
    assert high["metrics"]["entropy"]["mean"] > low["metrics"]["entropy"]["mean"]
    assert result.report["codes"][0]["codebooks"][0]["entropy"] == pytest.approx(bits, rel=0.01)
    assert go(metric_names=["fad", "utilisation"]).measured == 0
    grams = go(metric_names=["ngram"])
    assert grams.measured == 0 and grams.report["failures"] == []
    low, high = (cell["metrics"] for cell in grams.report["cells"])
    kept = [np.load(path) for path in sorted((tmp_path / "out" / "codes").glob("*.npy"))]
    found = cross_validated(kept, [32] * len(kept[0]), 100.0, folds=3)
    assert low["ngram"]["mean"] == pytest.approx(found.first / 1000, rel=0.01) and low["ngram"]["mean"] < high["ngram"]["mean"]
