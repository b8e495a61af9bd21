"""The benchmarks: delays are taken out, counts and means are right, what is missing is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec import hub
from codec.training.data import decode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import judges  # noqa: E402
import peers  # noqa: E402
import performance  # noqa: E402
import public  # noqa: E402
import quality  # noqa: E402
import speed  # noqa: E402

RATE = 16_000


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """(T,) float32: noise in syllables, which the judges take for speech."""
    n = round(seconds * RATE)
    wav = np.random.default_rng(seed).standard_normal(n) * (0.2 + np.sin(2 * np.pi * 2 * np.arange(n) / RATE) ** 2)
    return (0.1 * wav).astype(np.float32)


# Peers


def test_missing_peers_are_named_with_the_remedy_and_left_out(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    args = quality.parse(["--data", "x", "--peers", "codec2,opus,lyra", "--lyra", str(tmp_path)])
    assert quality.available(args).peers == ()
    said = capsys.readouterr().err
    assert "apt install codec2" in said and "apt install opus-tools" in said and "soundstream_encoder.tflite" in said
    assert "--lyra" in peers.Lyra(None).missing()


def installed(peer: peers.Peer) -> peers.Peer:
    return pytest.skip(peer.missing()) if peer.missing() else peer


@pytest.mark.parametrize("peer", [peers.Codec2(), peers.Opus()], ids=["codec2", "opus"])
@pytest.mark.parametrize("samples", [RATE, RATE + 1])
def test_peers_code_speech(peer, samples):
    wav = speech(2.0)[:samples]
    for name in installed(peer).names:
        decoded, bits = peer.code(name, wav)
        assert decoded.shape == wav.shape and decoded.dtype == np.float32 and np.abs(decoded).max() > 0.01
        assert 2000 < bits < 20_000


def test_delay_of_opus_is_out():
    wav = speech(2.0)
    decoded = installed(peers.Opus()).code("opus 12k", wav)[0]
    scores = [float(np.dot(wav[200:-200], np.roll(decoded, lag)[200:-200])) for lag in range(-20, 21)]
    assert abs(int(np.argmax(scores)) - 20) <= 2


def test_delay_of_codec2_is_out():
    """Its voice keeps no phases: the loudness of the example over time has to agree best where it is."""
    peer = installed(peers.Codec2())
    wav = decode(Path(__file__).resolve().parent.parent / "examples" / "speech.flac", RATE).astype(np.float32) / 32767
    decoded = peer.code("codec2 3.2k", wav[: 10 * RATE])[0]
    loud, heard = (np.convolve(np.abs(x), np.hanning(160), "same") for x in (wav[: 10 * RATE], decoded))
    scores = [np.corrcoef(loud[800:-800], np.roll(heard, lag)[800:-800])[0, 1] for lag in range(-320, 321, 20)]
    assert abs(20 * int(np.argmax(scores)) - 320) <= 100


# Judges


def test_edits():
    assert judges.edits("a b c d".split(), "a x c d e".split()) == 2
    assert judges.edits([], ["a"]) == judges.edits(["a"], []) == 1
    assert judges.edits(["a"], ["a"]) == 0


def test_what_cannot_be_judged_says_why():
    assert judges.unusable(speech(1.5)) is None
    assert "shorter" in judges.unusable(speech(0.9))
    assert judges.unusable(np.zeros(RATE * 2, np.float32)) == "silent"
    click = 1e-6 * speech(2.0)
    click[100:400] = 0.5
    assert "0.6 s" in judges.unusable(click)


def test_intelligibility_knows_best_and_worst():
    pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    wav = speech(3.0)
    score = judges.intelligibility(wav)
    best = score(wav)
    assert best["PESQ-wb"][0] > 4.5 and best["STOI"][0] > 0.999 and best["ESTOI"][0] > 0.999
    worst = score(np.zeros_like(wav))
    assert worst["PESQ-wb"][0] < 1.1 and worst["STOI"][0] < 0.1
    assert all(np.isfinite(value) for value, _ in worst.values())


# Tables


def test_summary_weights_means_and_brackets_them():
    scores = [(0.0, 10.0), (1.0, 30.0)] * 10
    heard = [quality.Utterance("a", 1.0, {"x": (2.0, {"dWER": one, "STOI": (0.5, 1.0)})}) for one in scores]
    table = quality.summarize([*heard, quality.Utterance("b", 0.0, skipped="silent")])
    one = table["x"]["metrics"]["dWER"]
    assert one["mean"] == pytest.approx(0.75) and 0.4 < one["low"] < 0.7 < 0.8 < one["high"] < 0.95
    assert table["x"]["metrics"]["STOI"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert table["x"]["kbps"] == 2.0
    assert "| x | 2.00 | 0.750 [" in quality.markdown(table)
    assert quality.summarize([quality.Utterance("b", 0.0, skipped="silent")]) == {}


def corpus(folder: Path) -> Path:
    for i in range(3):
        soundfile.write(folder / f"{i}.wav", speech(1.5, seed=i), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(2 * RATE), RATE)
    (folder / "text.wav").write_text("no audio")
    return folder


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_quality_measures_a_model(jobs, tiny_model, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    hub.save(tiny_model, tmp_path / "tiny")
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(sys, "argv", [
        "quality.py", "--data", str(corpus(tmp_path / "data")), "--models", str(tmp_path / "tiny"),
        "--codebooks", "1,4,5", "--out", str(tmp_path / "out.json"), "--jobs", str(jobs),
    ])
    quality.main()
    said = capsys.readouterr()
    assert "3 utterances" in said.out and "2 skipped" in said.out and "silent" in said.out
    assert "has 4 codebooks: 5 left out" in said.err
    report = json.loads((tmp_path / "out.json").read_text())
    assert [name.split()[-1] for name in report["systems"]] == ["k=1", "k=4"]
    assert [row["kbps"] for row in report["systems"].values()] == [pytest.approx(0.5), pytest.approx(2.0)]
    assert len(report["utterances"]) == 5


@pytest.mark.parametrize("arguments, message", [
    (["--data", "nowhere", "--models", "x"], "nowhere"),
    (["--data", "DATA"], "give --models or --peers"),
    (["--data", "DATA", "--models", "no-such-model"], "no-such-model"),
    (["--data", "DATA", "--models", "x", "--ecapa", "DATA"], "model.safetensors|speechbrain"),
])
def test_quality_says_what_is_wrong(arguments, message, tmp_path, monkeypatch):
    data = str(corpus(tmp_path))
    monkeypatch.setattr(sys, "argv", ["quality.py", *(data if one == "DATA" else one for one in arguments)])
    with pytest.raises(SystemExit, match=message):
        quality.main()


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


def test_the_table_of_performance_is_measured(monkeypatch):
    monkeypatch.setattr(performance, "STEPS", 20)
    monkeypatch.setattr(performance, "REPEATS", 1)
    found = performance.measure("speech-16k", "speech-16k", 1.0)
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
