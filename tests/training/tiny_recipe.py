"""A recipe of a few thousand parameters and a corpus of tones and noise, for tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ENCODER = {"name": "convnext_stft", "window": 320, "channels": 16, "hidden": 32, "blocks": 1, "kernel_size": 3}
DECODER = {
    "name": "convnext_stft", "window": 160, "channels": 16, "hidden": 32, "blocks": 1, "upsample": 4,
    "fine_channels": 16, "fine_hidden": 32, "fine_blocks": 1, "kernel_size": 3, "delay": 160,
}


def corpus(folder: Path, files: int = 3, seconds: float = 1.5) -> Path:
    """Folder of short recordings with sweeping tones in noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    time = np.arange(int(16_000 * seconds)) / 16_000
    for index in range(files):
        tone = np.sin(2 * np.pi * (150 + 90 * index + 60 * time) * time) * (0.3 + 0.2 * np.sin(7 * time))
        soundfile.write(folder / f"{index}.wav", tone + 0.02 * rng.standard_normal(len(time)), 16_000)
    return folder


def recipe(data: Path, out: Path) -> dict[str, Any]:
    """Plain values for `codec.training.recipe.from_dict`."""
    return {
        "model": {
            "name": "tiny", "dim": 8, "frame_size": 160, "encoder": dict(ENCODER), "decoder": dict(DECODER),
            "quantizer": {"name": "rvq", "num_codebooks": 3, "codebook_size": 16},
        },
        "data": {"train": str(data), "valid": "", "cache": str(out / "cache"), "batch_size": 2, "crop_seconds": 0.25, "workers": 0},
        "loss": {"spectral": [
            {"name": "mr_stft", "options": {"n_ffts": [256, 512]}},
            {"name": "mel", "options": {"n_ffts": [512], "n_mels": [20]}},
            {"name": "compressed_stft", "options": {"n_ffts": [256]}},
            {"name": "waveform"},
        ]},
        "adversary": {
            "discriminators": [
                {"name": "msstft", "options": {"n_ffts": [256], "channels": 4}},
                {"name": "mpd", "options": {"periods": [2], "channels": 4, "max_channels": 8}},
            ],
            "start": 3, "every": 2, "crop_seconds": 0.2,
        },
        "schedule": {"steps": 8, "warmup": 2, "quantize_from": 1, "dropout_weights": [1.0, 1.0, 1.0]},
        "run": {"out": str(out), "precision": "32-true", "accelerator": "cpu", "threads": 1, "checkpoint_every": 100, "valid_every": 100, "log_every": 1},
    }
