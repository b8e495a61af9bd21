"""Encoding and decoding with torch, numpy, scipy, soundfile, soxr and safetensors alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import soundfile

import codec
from codec.model import Codec

FORBIDDEN = (
    "torchaudio", "lightning", "pytorch_lightning", "auraloss", "vector_quantize_pytorch", "librosa", "yaml", "tensorboard",
    "transformers", "pesq", "pystoi", "huggingface_hub", "tqdm",
)
PROGRAM = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ImportError("not installed: " + name)

sys.meta_path.insert(0, Refuse())
from codec.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_encode_and_decode_without_the_heavy_packages(tiny_config, tmp_path):
    config = replace(tiny_config, level=-30.0, spectrum=(-33.0, -33.0))
    codec.save(Codec(config), tmp_path / "model")
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, (17_640, 2))
    soundfile.write(tmp_path / "in.wav", wav, 44_100)
    run("encode", str(tmp_path / "in.wav"), str(tmp_path / "a.tok"), "--model", str(tmp_path / "model"))
    run("encode", str(tmp_path / "in.wav"), str(tmp_path / "b.tok"), "--model", str(tmp_path / "model"), "--refine", "1")
    run("info", str(tmp_path / "a.tok"))
    run("decode", str(tmp_path / "a.tok"), str(tmp_path / "out.wav"), "--model", str(tmp_path / "model"))
    decoded, rate = soundfile.read(tmp_path / "out.wav")
    assert decoded.shape == wav.shape and rate == 44_100


def test_the_refusal_works():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "train", "speech_16k", "data.train=x"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stderr.startswith("codec: ") and done.stderr.count("\n") == 1  # no traceback
    assert "yaml" in done.stderr and "pip install" in done.stderr
