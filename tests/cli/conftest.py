"""The command in this process (`run`), or as a user runs it (`spawn`), with a small model in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import cli, hub

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, tiny_model) -> str:
    """16 kHz, 100 frames/s, 4 codebooks of 32, so 0.5 kbit/s each."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    hub.save(tiny_model, directory)
    return str(directory)


@pytest.fixture
def run(capfd, tmp_path, monkeypatch) -> Callable[..., Result]:
    """`run("encode", "a.wav", ...)` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> Result:
        try:
            code = cli.main(list(args))
        except SystemExit as exit:  # argparse
            code = exit.code
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def spawn(tmp_path) -> Callable[..., subprocess.Popen]:
    """Starts `python -m codec ...` in the same empty folder, with Ctrl-C as a terminal gives it: a job in the background of a
    shell is born deaf to SIGINT, and so would be what it starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    def start(*args: str, **options) -> subprocess.Popen:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path, "env": environment} | options
        if os.name == "posix":
            options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen([sys.executable, "-m", "codec", *args], **options)

    return start


@pytest.fixture
def record(tmp_path) -> Callable[..., Path]:
    """Writes noise to a file in the empty folder."""

    def write(name: str = "a.wav", seconds: float = 0.5, rate: int = 16000, channels: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = max(1, round(seconds * rate))
        soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((samples, channels)), rate)
        return path

    return write
