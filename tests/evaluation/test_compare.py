"""What moved between two sweeps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from codec.evaluation import metrics
from codec.evaluation.sweep import compare, report, student
from codec.evaluation.sweep.cells import Cell
from codec.evaluation.sweep.summary import Resamples


@pytest.fixture
def sweep_of(tmp_path):
    """Writes a report of values of one system at one setting, and gives what is in it."""

    def write(name: str, values: np.ndarray, old: dict | None = None, weights: np.ndarray | None = None, metric: str = "stoi") -> dict:
        (tmp_path / name).mkdir()
        weights = np.ones(len(values)) if weights is None else weights
        cells = [Cell(f"{n}.wav", "", "x", "k", "k=1", 1000, seconds=1, bits=1000, values={metric: [float(value), float(weight)]})
                 for n, (value, weight) in enumerate(zip(values, weights))]
        settings = {"data": "d", "files": len(cells), "rate": None, "seconds": None}
        report.write(tmp_path / name, cells, metrics.resolve([metric]), settings, [], [], {}, [], [], old)
        return report.read(tmp_path / name)

    return write


def test_a_small_change_of_all_recordings_shows(sweep_of):
    """Which the intervals alone would hide."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 0.9, 40)
    before = sweep_of("before", values)
    (row,) = sweep_of("now", values + 0.005 + 0.002 * rng.standard_normal(40), before)["compare"]["rows"]
    assert row["verdict"] == "better" and row["change"] == pytest.approx(0.005, abs=0.001) and row["p"] < 1e-6
    assert row["low"] < row["change"] < row["high"] and row["low"] > 0


def test_its_standard_error_is_that_of_the_differences(sweep_of):
    rng = np.random.default_rng(1)
    values, moved = rng.uniform(0.5, 0.9, 200), 0.01 * rng.standard_normal(200)
    (row,) = sweep_of("now", values + moved, sweep_of("before", values))["compare"]["rows"]
    assert (row["high"] - row["low"]) / 3.92 == pytest.approx(moved.std() / np.sqrt(200), rel=0.1)
    assert row["change"] == pytest.approx(moved.mean(), abs=1e-6)


def test_chance_is_no_change_and_less_of_an_error_is_better(sweep_of):
    rng = np.random.default_rng(2)
    values = rng.uniform(0.5, 0.9, 40)
    before = sweep_of("before", values)
    assert sweep_of("same", values, before)["compare"]["rows"][0] | {"report": 0} == {
        "model": "x", "setting": "k=1", "metric": "stoi", "before": round(values.mean(), 6), "now": round(values.mean(), 6), "change": 0,
        "low": 0, "high": 0, "p": 1.0, "n": 40, "paired": True, "verdict": "same", "report": 0,
    }
    worse = sweep_of("mel", values + 0.1, sweep_of("mel before", values, metric="mel"), metric="mel")["compare"]["rows"][0]
    assert worse["verdict"] == "worse" and worse["p"] == 0


def test_weights_count(sweep_of):
    values, weights = np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 3.0, 1.0, 3.0])
    before = sweep_of("before", values, weights=weights, metric="dwer")
    (row,) = sweep_of("now", 1 - values, before, weights, "dwer")["compare"]["rows"]
    assert row["before"] == 0.75 and row["now"] == 0.25 and row["change"] == -0.5


def test_without_the_table_intervals_are_compared(sweep_of, tmp_path):
    values = np.random.default_rng(3).uniform(0.5, 0.9, 40)
    before = sweep_of("before", values)
    (tmp_path / "before" / "results.csv").unlink()
    compared = sweep_of("now", values + 0.005, before)["compare"]
    assert "for want of its results.csv" in compared["how"] and compared["rows"][0]["verdict"] == "same"
    assert sweep_of("far", values + 0.5, before)["compare"]["rows"][0]["verdict"] == "better"


def test_of_few_recordings_chance_is_seldom_taken_for_a_change():
    """Student's t: with the normal distribution 24 of 100 sweeps of three recordings would show a change that is none."""
    rng = np.random.default_rng(4)
    resamples = Resamples(["a", "b", "c"])
    found = []
    for _ in range(400):
        before, now = ({file: [value, 1.0] for file, value in zip("abc", rng.standard_normal(3))} for _ in range(2))
        change = compare._paired(before, now, resamples)
        found.append(compare._p(change.now - change.before, change.error, change.n - 1))
    assert 0.03 <= np.mean(np.array(found) < 0.05) <= 0.075 and 0.4 < np.mean(np.array(found) < 0.5) < 0.6


def test_the_distribution_is_that_of_student():
    for freedom, t in ((1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (999, 1.96234)):  # tables
        assert student.beyond(t, freedom) == pytest.approx(0.05, abs=2e-6) and student.quantile(freedom) == pytest.approx(t, abs=1e-4)
    assert student.beyond(0.0, 5) == 1 and student.beyond(1e6, 40) < 1e-12


def test_figures_of_other_recordings_are_compared_as_such(sweep_of, tmp_path):
    values = np.random.default_rng(5).uniform(0.5, 0.9, 40)
    before = sweep_of("before", values)
    table = tmp_path / "before" / "results.csv"
    table.write_text(table.read_text().replace(".wav", ".flac"))
    compared = sweep_of("now", values + 0.005, before)["compare"]
    assert compared["rows"][0]["paired"] is False and compared["rows"][0]["verdict"] == "same"
    assert compared["how"] == "recording by recording, but for 1 by the intervals alone: of other recordings"
    lines = table.read_text().splitlines(keepends=True)
    back = [line.replace(".flac", ".wav") if int(line.split(".")[0]) < 10 else line for line in lines[1:]]
    table.write_text("".join([lines[0], *back]))
    (row,) = sweep_of("part", values + 0.005, before)["compare"]["rows"]
    assert row["n"] == 10 and row["now"] - row["before"] == pytest.approx(row["change"], abs=2e-6) == pytest.approx(0.005, abs=2e-6)
    assert row["before"] == pytest.approx(values[:10].mean(), abs=1e-6)  # of the recordings that both have


def test_many_comparisons_ask_for_more():
    rows = [{"p": p} for p in (0.04, 0.01, 0.5, 0.0)]
    compare._adjust(rows)
    assert [row["p"] for row in rows] == [0.08, 0.03, 0.5, 0.0]  # Holm: times 2, 3, 1 and 4


def test_what_only_one_has_is_said(sweep_of, tmp_path):
    sweep_of("before", np.arange(5.0))
    path = tmp_path / "before" / "report.json"
    content = json.loads(path.read_text())
    content["cells"][0]["setting"] = "k=2"
    path.write_text(json.dumps(content))
    compared = sweep_of("now", np.arange(5.0), report.read(path))["compare"]
    assert compared["rows"] == [] and compared["unmatched"] == ["x k=1", "x k=2"]
    assert "What moved" in (tmp_path / "now" / "report.html").read_text()
