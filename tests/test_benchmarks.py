"""The benchmarks: they measure the same work, counts are right, what is missing is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import codec
from small_models import make_config, make_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import conditions  # noqa: E402
import languages  # noqa: E402
import plot  # noqa: E402
import performance  # noqa: E402
import public  # noqa: E402
import refinement  # noqa: E402
import speed  # noqa: E402


# Curves


def test_curves_are_those_of_a_report(tmp_path):
    one = {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 3}
    cells = [{"model": "x", "bitrate": rate, "metrics": {"stoi": one}} for rate in (2000, 1000)] + [{"model": "y", "bitrate": 1, "metrics": {}}]
    assert plot.curves(cells, "stoi") == {"x": [(1.0, 1.0, 0.5, 1.5), (2.0, 1.0, 0.5, 1.5)]}


# Languages


def test_means_are_of_each_language(tmp_path, capsys):
    (tmp_path / "manifest.json").write_text('[{"path": "es-0.flac", "language": "es"}, {"path": "es-1.flac", "language": "es"}, '
                                            '{"path": "cs-0.flac", "language": "cs"}]')
    (tmp_path / "results.csv").write_text(
        "file,model,bitrate,metric,value\nes-0.flac,m,4000,stoi,0.8\nes-1.flac,m,4000,stoi,0.9\ncs-0.flac,m,4000,stoi,0.5\n"
        "cs-0.flac,m,2000,stoi,0.4\n*,m,2000,entropy,7\ncs-0.flac,m,2000,pesq-wb,\n")
    languages.report(tmp_path, tmp_path)
    rows = [row.split("\t") for row in capsys.readouterr().out.splitlines()]
    assert rows == [["metric", "model", "kbit/s", "es", "fr", "it", "ru", "cs"], ["stoi", "m", "2.00", "-", "-", "-", "-", "0.400"],
                    ["stoi", "m", "4.00", "0.850", "-", "-", "-", "0.500"]]


# Conditions


def test_conditions_are_judged_in_all_three_ways(tmp_path, capsys, monkeypatch):
    model = make_model(make_config(level=-30.0, spectrum=(-40.0, -34.0, -34.0, -40.0, -43.0, -46.0, -54.0)))
    codec.save(model, tmp_path / "model")
    random, paths = np.random.default_rng(0), [tmp_path / "a.wav", tmp_path / "b.wav"]
    for path, seconds in zip(paths, (0.5, 1.0)):
        soundfile.write(path, 0.1 * random.standard_normal(round(16_000 * seconds)), 16_000)
    asked, heard = [], []

    class Listener:
        def __call__(self, original, coded):
            heard.append((original.wav, coded.sound.wav))
            return {"like": float(np.abs(original.wav).max()), "long": len(coded.sound.wav) / len(original.wav)}

    encode = codec.Codec.encode
    monkeypatch.setattr(codec.Codec, "encode", lambda self, *a, **k: asked.append(encode(self, *a, **k)) or asked[-1])
    monkeypatch.setattr(conditions, "judges", lambda *_: [Listener()])
    conditions.main([str(tmp_path / "model"), *map(str, paths), "--codebooks", "2"])
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == [*conditions.conditions(16_000), *(f"peaks at {peak} dBFS" for peak in conditions.PEAKS)]
    assert all(cell.strip(" |") == "0.50, 1.000" for row in rows for cell in row[1:])
    ways = [(bool(tokens.correction.gain_db), bool(tokens.correction.eq_db)) for tokens in asked]
    assert ways == [(False, False)] * 2 + [(True, False)] * 2 + [(True, True)] * 2 + ways[:-6]  # the same for every row
    first = [original for original, _ in heard[::6]]  # of each row
    assert all(not np.allclose(first[0], other) for other in first[1:12]) and all(np.allclose(first[0], other, atol=1e-4) for other in first[12:])


# Refinement


def test_patience_is_measured_in_all_ways(capsys, monkeypatch):
    asked, encode = [], codec.Codec.encode
    monkeypatch.setattr(codec.Codec, "encode", lambda self, *a, **k: asked.append((k.get("refine"), encode(self, *a, **k))) or asked[-1][1])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(refinement, "judges", lambda *_: [lambda original, coded: {"one": coded.bits / original.seconds, "two": 0.5}])
    refinement.main(["speech-16k", "examples/speech.flac", "--bitrate", "2", "--seconds", "1.5", "--steps", "0", "2"])
    rows = [row.strip("| ").split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["plain", "--variable", "--refine 2 --variable"]
    assert [(steps, tokens.num_codebooks) for steps, tokens in asked] == [(None, 4), (0, 8), (2, 8)] * 2  # once to warm up
    assert float(rows[0][1]) == 2 and all(1.8 < float(row[1]) <= 2 and abs(float(row[2]) - 1000 * float(row[1])) < 10 for row in rows)
    assert float(rows[0][5]) == 1 < float(rows[1][5]) < float(rows[2][5]) and all(row[3] == "0.500" for row in rows)


# Speed


def test_speed_measures_in_turn(tiny_model):
    one, other = (speed.ours(tiny_model, 0.5) for _ in range(2))
    calls = []
    other.encode = lambda wav: calls.append(wav) or tiny_model.encode(wav)
    results = speed.measure([one, other], 0.5, repeats=3)
    assert len(calls) == 5  # one to warm up, one to count, three to time
    assert all(number > 0 for row in results for number in row)
    assert results[0][2:] == results[1][2:]  # the same model does the same work


def test_all_products_are_counted():
    linear, lstm = torch.nn.Linear(10, 20), torch.nn.LSTM(16, 16)
    with torch.no_grad():
        assert speed.gflop(linear, torch.zeros(5, 10)) == pytest.approx(2e-9 * 5 * 10 * 20)
        assert speed.gflop(lstm, torch.zeros(7, 1, 16)) == pytest.approx(2e-9 * 7 * 4 * 16 * 32)


# Public implementations


def test_public_measures_the_same_work(capsys, monkeypatch):
    pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_filters": 4, "upsampling_ratios": [4, 3, 2], "codebook_size": 64, "target_bandwidths": [24.0]}
    monkeypatch.setitem(public.BUILD, "encodec", (lambda: public.encodec(**small), "transformers"))
    public.main(["--families", "encodec", "--seconds", "0.1,0.2", "--repeats", "2"])
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split(" | ")[:2] for row in rows] == [["| encodec", "0.1 s"], ["| encodec", "0.2 s"]]
    assert all(row.endswith("| 100.0% |") for row in rows)


def test_public_packages_that_are_missing_are_named(capsys, monkeypatch):
    def missing():
        raise ImportError("no module")

    monkeypatch.setitem(public.BUILD, "snac", (missing, "snac"))
    public.main(["--families", "snac"])
    said = capsys.readouterr()
    assert "pip install snac" in said.err and "| snac" not in said.out
    with pytest.raises(SystemExit):
        public.parse(["--families", "opus"])
    assert public.spread([3.0]) == (3.0, 3.0, 3.0) and public.spread([1.0, 2.0, 3.0]) == (2.0, 1.5, 2.5)


# Performance


def test_the_table_of_performance_is_measured():
    """In a process of its own: in this one there may be memory enough from other tests."""
    program = ("import json, performance; performance.STEPS, performance.REPEATS = 20, 1;"
               "print(json.dumps(performance.measure('speech-16k', 'speech-16k', 1.0)))")
    folder = Path(performance.__file__).parent
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["encode"] > 1 and found["decode"] > 1 and found["memory"] > 1 and found["step"] == 20
    for side in ("encode_step", "decode_step"):
        assert 0 < found[side][0] <= found[side][1] <= found[side][2]
    assert 0.2 < found["encode_gflop"] < 2 and 0.2 < found["decode_gflop"] < 2  # per second of audio
    assert performance.row("ours", found).count("|") == 10


def test_systems_that_are_not_there_are_named_with_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr(performance.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["performance.py", "--systems", "opus,lyra"])
    performance.main()
    said = capsys.readouterr().err
    assert "apt install opus-tools" in said and "ai-edge-litert" in said
