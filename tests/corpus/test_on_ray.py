"""`codec tokenize --engine ray`: the shards of one machine, whoever is lost. What needs Ray itself runs with --slow."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import cli, hub
from codec.corpus import CorpusError, on_ray, tokenize
from codec.corpus.inputs import list_inputs
from codec.corpus.plan import read_plan
from codec.corpus.shard import read_record

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="kills processes by signals")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(16):
        wav = 0.2 * np.random.default_rng(number).standard_normal(8000 + 500 * number)
        soundfile.write(folder / f"{number:02d}.wav", wav, (16_000, 8000)[number % 2])
    (folder / "bad.wav").write_bytes(b"RIFF no sound")
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tiny_model) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    hub.save(tiny_model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def calm(tmp_path_factory, model_dir, recordings) -> Path:
    """In one go, in this process."""
    folder = tmp_path_factory.mktemp("calm")
    tokenize(hub.load(model_dir), recordings, folder, jobs=0, shard_bytes=50_000)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@posix
def test_an_actor_does_shards_and_outlives_its_process(tmp_path, model_dir, recordings, calm):
    plan, inputs = read_plan(calm), list_inputs(recordings)
    (tmp_path / "shards").mkdir()
    coder = on_ray._Coder(model_dir, "cpu", plan, tmp_path)

    def do(number: int) -> dict:
        shard = [inputs[index] for index in plan.shard(number)]
        found = coder({"shard": np.array([number]), "inputs": np.array([pickle.dumps(shard)], dtype=object)})
        assert found["recordings"] == [len(shard)] and found["error"] == [""]
        assert found["seconds"] == [read_record(tmp_path, number)["seconds"]]
        return found

    (worker,) = [coder._workers._workers for _ in [do(0)]][0]
    stamp = (tmp_path / "shards/00000.json").stat().st_mtime_ns
    assert do(1)["lost"] == [0] and coder._workers._workers == [worker]  # the same process
    os.kill(worker.process.pid, signal.SIGKILL)
    assert do(2)["lost"] == [1]
    assert do(0)["lost"] == [0] and (tmp_path / "shards/00000.json").stat().st_mtime_ns == stamp  # done once
    for number in range(3, len(plan.stops)):
        do(number)
    coder._workers.__exit__()
    assert contents(tmp_path / "shards") == contents(calm / "shards")


def test_what_the_machines_do_not_share_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "PATIENCE", 0.0)
    with pytest.raises(CorpusError, match="a disk that all machines share"):
        on_ray._wait(tmp_path, [3])


def test_without_ray_one_is_told_what_to_install(tmp_path, model_dir, recordings, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["tokenize", str(recordings), str(tmp_path / "out"), "--model", model_dir]
    assert cli.main([*arguments, "--engine", "ray"]) == 1
    assert 'pip install "neural-codec-toolkit[ray]"' in capsys.readouterr().err
    assert cli.main([*arguments, "--address", "auto"]) == 1
    assert "that is for --engine ray" in capsys.readouterr().err
    with pytest.raises(CorpusError, match="there is local"):
        tokenize(model_dir, recordings, tmp_path / "out", engine="spark")
    with pytest.raises(CorpusError, match="jobs=0 is this process"):
        tokenize(model_dir, recordings, tmp_path / "out", engine="ray", jobs=0)


@posix
@pytest.mark.slow
def test_on_ray_with_actors_and_the_run_killed(tmp_path, model_dir, recordings, calm):
    pytest.importorskip("ray")
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "codec", "tokenize", str(recordings), str(folder), "--model", model_dir, "--shard", "0.05",
               "--engine", "ray", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODEC_TEST_RUN": str(folder)}
    with open(tmp_path / "errors", "wb") as errors:
        run = subprocess.Popen(command, env=environment, preexec_fn=os.setpgrp, stdout=subprocess.DEVNULL, stderr=errors)
    wait(run, folder, 1)
    assert run.poll() is None, (tmp_path / "errors").read_text()  # on a machine at its limit Ray may not start in time
    os.kill(actors(folder)[0], signal.SIGKILL)
    wait(run, folder, 3)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "shards").glob("[0-9]*.json")}
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert again.stdout.count("\n") == 1 and "16 recordings" in again.stdout
    assert contents(folder) == contents(calm)
    assert stamps.items() <= {path: path.stat().st_mtime_ns for path in (folder / "shards").glob("[0-9]*.json")}.items()


def wait(run: subprocess.Popen, folder: Path, shards: int) -> None:
    until = time.monotonic() + 300
    while len(list(folder.glob("shards/[0-9]*.json"))) < shards and run.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


def actors(folder: Path) -> list[int]:
    """The processes of Ray Data's actors of a run."""
    found = []
    for name in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name.read_bytes().startswith(b"ray::MapWorker") and str(folder).encode() in (name.parent / "environ").read_bytes():
                found.append(int(name.parent.name))
        except OSError:
            pass  # it has just gone
    return found
