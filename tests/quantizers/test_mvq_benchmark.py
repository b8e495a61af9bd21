"""benchmarks/mvq.py: features are what it says, and its table counts right."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from quantizers.mvq_fit import fit_mvq

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "mvq.py"
spec = importlib.util.spec_from_file_location("mvq_benchmark", SOURCE)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def test_features_of_a_folder_and_of_an_array(tmp_path):
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", tone, 16_000)
    soundfile.write(tmp_path / "short.wav", tone[:100], 16_000)
    features = benchmark.read(tmp_path, 1000)
    assert features.shape == (47 + 2, 512) and features.isfinite().all()  # 101 frames of 10 ms, and 11 of a padded file
    bands = benchmark.mel_bands(16_000, 400, 64)
    middle = bands @ (40.0 * torch.arange(201)) / bands.sum(1)
    loudest = int(features[20].view(8, 64)[0].argmax())
    assert abs(middle[loudest] - 1000) < 60
    np.save(tmp_path / "x.npy", features.numpy())
    assert torch.equal(benchmark.read(tmp_path / "x.npy", 20), features[:20])
    (tmp_path / "none").mkdir()
    with pytest.raises(SystemExit, match="no sound files"):
        benchmark.read(tmp_path / "none", 20)


def test_a_row_tells_the_error():
    rows = torch.randn(1200, 4)
    quantizer = fit_mvq(rows[:1100], 1)
    unseen = rows[1100:]
    decoded = quantizer.decode_bytes(quantizer.encode_bytes(unseen))
    error = (decoded - unseen).square().sum() / (unseen - unseen.mean(0)).square().sum()
    line = benchmark.row("one", quantizer, unseen)
    assert line.split()[:2] == ["one", f"{error:.4f}"] and "100.0%     x 1.000" in line


def test_made_features_are_correlated_and_repeatable():
    made = benchmark.made(3000, 32)
    assert torch.equal(made, benchmark.made(3000, 32))
    variance = torch.linalg.eigvalsh(made.T.cov()).flip(0)
    assert 20 < variance[0] / variance[-1] < 50  # 32 by design
