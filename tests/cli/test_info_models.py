"""`codec info` and `codec models`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from codec import hub


def facts(run, name: str) -> dict:
    result = run("info", name, "--json")
    assert (result.code, result.err, result.out.count("\n")) == (0, "", 1), result
    found = json.loads(result.out)
    words = run("info", name).out
    assert all(key.replace("_", " ") in words for key in found)
    return found


def test_tok(run, record, model_dir, tiny_model, tmp_path):
    record(seconds=12, rate=8000, channels=2)
    assert run("encode", "a.wav", "a.tok", "--model", model_dir, "--codebooks", "3").code == 0
    found = facts(run, "a.tok")
    assert found == found | {
        "kind": "tok", "model": "tiny", "seconds": 12.0, "sample_rate": 8000, "channels": 2, "num_samples": 96000,
        "num_frames": 1200, "frame_rate": 100.0, "num_codebooks": 3, "codebook_sizes": [32] * 4, "bitrate": 3000.0,
        "model_sample_rate": 16000, "bytes": os.path.getsize("a.tok"), "blocks": 3, "complete": True, "problem": None,
        "lost_seconds": [], "fingerprint": hub.load(model_dir).spec.fingerprint,
    }
    whole = bytearray((tmp_path / "a.tok").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "bad.tok").write_bytes(whole)
    found = facts(run, "bad.tok")
    assert not found["complete"] and "block 2" in found["problem"] and found["lost_seconds"] == [[5.0, 10.0]]


def test_audio(run, record):
    record("a.flac", seconds=2, rate=44100, channels=2)
    assert facts(run, "a.flac") == {
        "kind": "audio", "file": "a.flac", "sample_rate": 44100, "channels": 2, "num_samples": 88200, "seconds": 2.0,
        "bytes": os.path.getsize("a.flac"),
    }


def test_model(run, model_dir, tiny_model):
    found = facts(run, model_dir)
    loaded = hub.load(model_dir)
    assert found == found | {
        "kind": "model", "name": "tiny", "sample_rate": 16000, "output_sample_rate": 16000, "frame_rate": 100.0,
        "frame_size": 160, "channels": 1, "num_codebooks": 4, "codebook_sizes": [32] * 4, "bitrates": [500.0, 1000.0, 1500.0, 2000.0],
        "latency_ms": 1000 * tiny_model.latency, "fingerprint": loaded.spec.fingerprint,
        "decoder_fingerprint": loaded.spec.decoder_fingerprint, "codebook_parameters": 4 * 32 * 12,
        "encoder_parameters": sum(p.numel() for p in tiny_model.encoder.parameters()),
        "decoder_parameters": sum(p.numel() for p in tiny_model.decoder.parameters()),
        "bytes": (Path(model_dir) / "model.safetensors").stat().st_size,
    }


def test_what_is_none_of_these(run, tmp_path):
    (tmp_path / "text.wav").write_text("words")
    (tmp_path / "text.tok").write_text("words")
    (tmp_path / "empty").write_bytes(b"")
    for name, words in (
        ("text.wav", "not audio"), ("text.tok", "not a .tok"), ("empty", "is empty"), ("in/a.wav", "no such file"),
        ("a.tok", "no such file"), ("nonsense", "no model is named"), (".", "holds no model"),
    ):
        result = run("info", name)
        assert (result.code, result.out, result.err.count("\n")) == (1, "", 1) and words in result.err, result


def test_models(run, model_dir, monkeypatch):
    monkeypatch.setattr(hub, "PRETRAINED", Path(model_dir).parent)
    result = run("models")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "tiny: 16 kHz mono, 100 frames/s, 4 codebooks of 32, 0.5 kbit/s to 2 kbit/s, latency 20 ms\n"
    )
    monkeypatch.setattr(hub, "PRETRAINED", Path(model_dir))
    assert run("models").code == 1
