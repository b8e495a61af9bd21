"""`codec tokenize`: the same shards however often, by whomever and with how many hands they are made."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import codec
from codec import cli, hub
from codec.atomic import WriteError
from codec.corpus import CorpusError, TokenDataset, tokenize
from codec.corpus import shard, workers
from codec.corpus.inputs import list_inputs
from codec.training.listing import DataError

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="kills processes by signals")


def noise(seconds: float, seed: int = 0, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).standard_normal((max(1, round(seconds * rate)), channels))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Mixed rates, lengths, channels, formats and folders, a tar file, and three that cannot be read."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(18):
        path = folder / f"{'ab'[number % 2]}/{number:02d}.{('wav', 'flac', 'ogg')[number % 3]}"
        path.parent.mkdir(exist_ok=True)
        rate = (16_000, 8000, 44_100)[number % 3]
        soundfile.write(path, noise(0.05 + 0.13 * number, number, rate, 1 + (number % 5 == 4)), rate)
    (folder / "a/broken.wav").write_bytes(b"RIFF no sound")
    (folder / "b/empty.flac").write_bytes(b"")
    soundfile.write(folder / "b/one.wav", noise(0), 16_000)
    with tarfile.open(folder / "c.tar", "w") as tar:
        for number in range(4):
            sound = io.BytesIO()
            soundfile.write(sound, noise(0.3 + number / 10, 50 + number), 16_000, format="FLAC")
            add(tar, f"x/{number}.flac", sound.getvalue())
            add(tar, f"x/{number}.json", json.dumps({"text": f"word {number}", "speaker": "s"}).encode())
    whole = (folder / "a/00.wav").read_bytes()
    (folder / "b/short.wav").write_bytes(whole[: len(whole) // 2])
    return folder


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tiny_model) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    hub.save(tiny_model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(model_dir):
    return hub.load(model_dir)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model, recordings) -> dict[str, bytes]:
    """In one go, in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    tokenize(model, recordings, folder, jobs=0, shard_bytes=150_000)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What comes out


def test_codes_are_those_of_encode_and_rows_say_what_they_are(tmp_path, model, recordings, monkeypatch):
    monkeypatch.setattr(shard, "LONG", 1.5)  # several are coded in parts
    monkeypatch.setattr(shard, "POOL", 3)
    report = tokenize(model, recordings, tmp_path, jobs=0, shard_bytes=150_000)
    data = TokenDataset(tmp_path)
    assert report.rows == data.num_rows == 19 + 4 + 3 and report.recordings == 23 and report.shards > 3
    seen = []  # the paths and channels, in order
    for number in range(data.num_rows):
        row, sample = data.row(number), data[number]
        name, _, member = row["path"].partition("!/")
        if member:
            with tarfile.open(recordings / name) as tar:
                source = io.BytesIO(tar.extractfile(member).read())
            assert row["text"] == f"word {member[2]}" and row["meta"] == {"speaker": "s"}
        else:
            source = recordings / name
        wav, rate = soundfile.read(source, dtype="float32", always_2d=True)
        expected = model.encode(wav.T, rate)
        assert np.array_equal(sample["codes"], expected.codes[row["channel"]]), row
        assert (row["sample_rate"], row["num_samples"], row["channels"]) == (rate, len(wav), wav.shape[1])
        assert row["frames"] == sample["length"] == expected.codes.shape[2]
        assert np.array_equal(data.tokens(number).codes[0], expected.codes[row["channel"]])
        seen.append((row["path"], row["channel"]))
    assert seen == sorted(set(seen))
    assert data.spec.fingerprint == model.spec.fingerprint


def test_long_ones_in_parts_are_the_same_bytes(tmp_path, model, recordings, undisturbed, monkeypatch):
    monkeypatch.setattr(shard, "LONG", 1.0)
    monkeypatch.setattr(shard, "BATCH", {"cpu": 0.001})  # each alone
    tokenize(model, recordings, tmp_path, jobs=0, shard_bytes=150_000)
    assert contents(tmp_path) == undisturbed


def test_what_cannot_be_read_is_left_out_with_reasons_and_tried_again_only_when_asked(tmp_path, model, recordings):
    tokenize(model, recordings, tmp_path / "out", jobs=0)
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["a/broken.wav", "b/empty.flac", "b/short.wav"]
    assert "is empty" in lines[1]["reason"] and "cut short" in lines[2]["reason"]
    assert not any(str(recordings) in line["reason"] for line in lines)

    broken = recordings / "a/broken.wav"
    content = broken.read_bytes()
    soundfile.write(broken, noise(0.2), 16_000)
    try:
        assert tokenize(model, recordings, tmp_path / "out", jobs=0).quarantined == 3
        report = tokenize(model, recordings, tmp_path / "out", jobs=0, retry=True)
        assert report.quarantined == 2 and report.rows == 27
    finally:
        broken.write_bytes(content)


def test_mono_and_fewer_codebooks(tmp_path, model):
    soundfile.write(tmp_path / "a.wav", noise(0.5, 1, channels=2), 16_000, subtype="FLOAT")
    (tmp_path / "list.txt").write_text("a.wav\n")
    tokenize(model, tmp_path / "list.txt", tmp_path / "out", jobs=0, mono=True, num_codebooks=2)
    data = TokenDataset(tmp_path / "out")
    wav = soundfile.read(tmp_path / "a.wav", dtype="float32")[0].mean(axis=1)
    assert data.num_rows == 1 and np.array_equal(data[0]["codes"], model.encode(wav, num_codebooks=2).codes[0])


def test_parquet_holds_the_same(tmp_path, model, recordings):
    parquet = pytest.importorskip("pyarrow.parquet")
    tokenize(model, recordings, tmp_path / "npy", jobs=0, shard_bytes=150_000)
    tokenize(model, recordings, tmp_path / "parquet", format="parquet", jobs=0, shard_bytes=150_000)
    data, number = TokenDataset(tmp_path / "npy"), 0
    for path in sorted((tmp_path / "parquet/shards").glob("*.parquet")):
        table = parquet.read_table(path)
        assert json.loads(table.schema.metadata[b"codec"])["model"]["fingerprint"] == model.spec.fingerprint
        for row in table.to_pylist():
            assert np.array_equal(np.array(row.pop("codes")), data[number]["codes"])
            row["meta"] = row["meta"] and json.loads(row["meta"])
            assert {key: value for key, value in row.items() if value is not None} == data.row(number)
            number += 1
    assert number == data.num_rows
    with pytest.raises(CorpusError, match="format parquet"):
        TokenDataset(tmp_path / "parquet")


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path, model, recordings, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CorpusError, match=r'pip install "neural-codec-toolkit\[corpus\]"'):
        tokenize(model, recordings, tmp_path / "out", format="parquet", jobs=0)
    assert not (tmp_path / "out").exists()


def test_webdataset_holds_the_same(tmp_path, model, recordings):
    tokenize(model, recordings, tmp_path / "npy", jobs=0, shard_bytes=150_000)
    for name in ("tars", "again"):
        tokenize(model, recordings, tmp_path / name, format="webdataset", jobs=0, shard_bytes=150_000)
    assert contents(tmp_path / "tars") == contents(tmp_path / "again")
    data, number = TokenDataset(tmp_path / "npy"), 0
    for path in sorted((tmp_path / "tars/shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for name in (name for name in members if name.endswith(".json")):
            row, codes = json.loads(members[name]), np.load(io.BytesIO(members[name.replace("json", "codes.npy")]))
            assert row.pop("fingerprint") == model.spec.fingerprint and row.pop("model") == "tiny"
            assert row == data.row(number) and np.array_equal(codes, data[number]["codes"])
            number += 1
    assert number == data.num_rows


# Once and exactly


@posix
def test_processes_make_the_same_bytes_and_a_lost_one_is_replaced(tmp_path, model_dir, recordings, undisturbed):
    killed = []

    def kill_one(state) -> None:
        if not killed and state.recordings > 3:
            killed.append(children(os.getpid())[-1])
            os.kill(killed[0], signal.SIGKILL)

    report = tokenize(model_dir, recordings, tmp_path / "out", jobs=2, shard_bytes=150_000, progress=kill_one)
    assert contents(tmp_path / "out") == undisturbed
    assert killed and report.recordings == 23 and report.workers_lost <= 1 and not children(os.getpid())


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@posix
@pytest.mark.parametrize("jobs, stops", [(1, [1]), pytest.param(3, [0, 1, 2, 3], marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path, model_dir, recordings, undisturbed, jobs, stops):
    command = [sys.executable, "-m", "codec", "tokenize", str(recordings), str(tmp_path / "out"), "--model", model_dir, "--shard", "0.15",
               "--jobs", str(jobs)]
    chance, shards, done = random.Random(0), tmp_path / "out/shards", "[0-9]*.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for enough in stops:
        run = subprocess.Popen(command, env=environment, preexec_fn=os.setpgrp, stdout=subprocess.DEVNULL)
        while len(list(shards.glob(done))) < enough and run.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.02))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    stamps = {path: path.stat().st_mtime_ns for path in shards.glob(done)}
    assert len(stamps) >= stops[-1]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "out") == undisturbed
    assert stamps.items() <= {path: path.stat().st_mtime_ns for path in shards.glob(done)}.items()  # done once


def test_stopped_at_any_step_it_goes_on(tmp_path, model, recordings, undisturbed, monkeypatch):
    """Every commit and every write of a record in turn is where the run ends."""
    steps = [0]
    commit = shard.write_json

    class Stop(BaseException):
        pass

    def stopping(path, value) -> None:
        steps[0] += 1
        if steps[0] % 2:
            raise Stop
        commit(path, value)

    monkeypatch.setattr(shard, "write_json", stopping)
    for _ in range(100):
        try:
            tokenize(model, recordings, tmp_path, jobs=0, shard_bytes=150_000)
            break
        except Stop:
            assert not (tmp_path / "manifest.json").exists()
            with pytest.raises(CorpusError, match="not finished"):
                TokenDataset(tmp_path)
    assert contents(tmp_path) == undisturbed


def test_a_shard_whose_files_were_cut_is_made_again(tmp_path, model, recordings, undisturbed):
    tokenize(model, recordings, tmp_path, jobs=0, shard_bytes=150_000)
    (tmp_path / "shards/00001.codes.npy").write_bytes(b"")
    (tmp_path / "shards/00002.json").write_text("{")
    (tmp_path / "shards/.00000.codes.npy.abc.part").write_bytes(b"left by a killed process")
    report = tokenize(model, recordings, tmp_path, jobs=0)
    assert contents(tmp_path) == undisturbed and report.shards_before == report.shards - 2


def test_another_model_other_settings_and_other_recordings_are_refused(tmp_path, model, tiny_seanet, recordings):
    tokenize(model, recordings, tmp_path, jobs=0)
    before = contents(tmp_path)
    with pytest.raises(CorpusError, match="but this is 'tiny-seanet'"):
        tokenize(tiny_seanet, recordings, tmp_path, jobs=0)
    with pytest.raises(CorpusError, match="begun with num_codebooks=4, not 2"):
        tokenize(model, recordings, tmp_path, jobs=0, num_codebooks=2)
    with pytest.raises(CorpusError, match="are not the same"):
        tokenize(model, recordings / "a", tmp_path, jobs=0)
    assert contents(tmp_path) == before


@posix
def test_a_recording_that_crashes_its_process_is_left_out(tmp_path, model_dir, monkeypatch):
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", noise(0.2, number), 16_000)
    (tmp_path / "sitecustomize.py").write_text(  # a decoder that aborts, in the worker
        "import os, sys\n"
        "if 'codec.corpus.worker' in ' '.join(sys.orig_argv):\n"
        "    import codec.audio\n"
        "    class Reader(codec.audio.AudioReader):\n"
        "        def __init__(self, source):\n"
        "            os.abort() if str(source).endswith('1.wav') else super().__init__(source)\n"
        "    codec.audio.AudioReader = Reader\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(workers, "MOST_CRASHES", 1)
    report = tokenize(model_dir, tmp_path, tmp_path / "out", jobs=1)
    assert report.recordings == 2 and report.quarantined == 1
    assert "crashed the process" in (tmp_path / "out/quarantine.jsonl").read_text()


def test_a_full_disk_stops_the_run(tmp_path, model, recordings, monkeypatch):
    from codec.atomic import Output

    def full(self, data) -> int:
        raise WriteError(self.name, OSError(28, "No space left on device"))

    monkeypatch.setattr(Output, "write", full)
    with pytest.raises(WriteError, match="disk is full"):
        tokenize(model, recordings, tmp_path / "out", jobs=0)


@posix
def test_two_runs_in_one_folder_are_refused(tmp_path, model, recordings):
    import fcntl

    (tmp_path / "out").mkdir()
    with open(tmp_path / "out/.lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CorpusError, match="another codec tokenize"):
            tokenize(model, recordings, tmp_path / "out", jobs=0)


# Which recordings


def test_manifests_lists_and_tar_files_name_the_same_recordings(tmp_path, model, recordings):
    rows = [
        {"path": str(recordings / "a/00.wav"), "text": "hello", "speaker": 7, "split": "train"},
        {"path": str(recordings / "b/17.ogg"), "start": 0.5, "seconds": 0.25, "split": "train"},
        {"path": "gone.wav", "split": "train"}, {"path": "x.wav", "split": "test"},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tokenize(model, tmp_path / "m.jsonl", tmp_path / "out", split="train", jobs=0)
    data = TokenDataset(tmp_path / "out")
    assert report.recordings == 2 and report.quarantined == 1
    assert data.row(0)["text"] == "hello" and data.row(0)["meta"] == {"speaker": 7, "split": "train"}
    wav, rate = soundfile.read(recordings / "b/17.ogg", dtype="float32")
    part = wav[round(0.5 * rate) : round(0.75 * rate)]
    assert torch.equal(data[1]["codes"], model.encode(part, rate).codes[0])
    assert data.row(1)["path"].endswith("17.ogg#t=0.500000,0.750000")

    (tmp_path / "list.txt").write_text(f"{recordings}/c.tar!/x/2.flac\n{recordings}/c.tar!/x/9.flac\n{recordings}/c.tar!/x/1.flac#t=0.1,0.2\n")
    tokenize(model, tmp_path / "list.txt", tmp_path / "listed", jobs=0)
    listed = TokenDataset(tmp_path / "listed")
    assert [listed.row(number)["text"] for number in range(2)] == ["word 2", "word 1"]
    assert listed.row(1)["num_samples"] == 1600
    assert "no audio file x/9.flac" in (tmp_path / "listed/quarantine.jsonl").read_text()


def test_what_names_no_recording_is_refused_on_one_line(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("{")
    for name in ("a.wav", "empty", "empty.txt", "bad.jsonl", "gone"):
        with pytest.raises(DataError, match=name) as error:
            list_inputs(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="has no splits"):
        list_inputs(tmp_path, split="train")


@posix
@pytest.mark.parametrize("format", ["npy", "parquet", "webdataset"])
def test_names_of_any_bytes(tmp_path, model, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "in").mkdir()
    name = os.fsdecode("ü\n".encode() + b"\xff.wav")
    soundfile.write(tmp_path / "in/a.wav", noise(0.2), 16_000)
    try:
        (tmp_path / "in/a.wav").rename(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this disk takes UTF-8 alone")
    (tmp_path / "in" / os.fsdecode(b"bad\xff.wav")).write_bytes(b"")
    report = tokenize(model, tmp_path / "in", tmp_path / "out", format=format, jobs=0)
    assert report.recordings == 1 and report.quarantined == 1
    if format == "npy":
        assert TokenDataset(tmp_path / "out").row(0)["path"] == name


def test_a_damaged_tar_file_is_one_bad_recording(tmp_path, model, recordings):
    soundfile.write(tmp_path / "a.wav", noise(0.2), 16_000)
    (tmp_path / "b.tar").write_bytes(b"not a tar file" * 100)
    report = tokenize(model, tmp_path, tmp_path / "out", jobs=0)
    assert report.recordings == 1 and report.quarantined == 1
    assert "whole tar file" in (tmp_path / "out/quarantine.jsonl").read_text()


# The command


def test_the_command_says_what_it_did(tmp_path, model_dir, recordings, capfd, monkeypatch):
    monkeypatch.setattr(codec.corpus, "tokenize", lambda *args, **options: tokenize(*args, **{**options, "jobs": 0}))
    arguments = ["tokenize", str(recordings), str(tmp_path / "out"), "--model", model_dir]
    assert cli.main(arguments) == 0
    out, err = capfd.readouterr()
    assert "23 recordings" in out and "3 recordings left out" in err and out.count("\n") == 1
    assert cli.main(arguments) == 0
    assert "1 done before" in capfd.readouterr().out
    for wrong in (["--codebooks", "1"], ["--jobs", "0"], ["--shard", "0"], ["--split", "train"]):
        assert cli.main([*arguments, *wrong]) == 1
        assert capfd.readouterr().err.count("\n") == 1
    assert cli.main(["tokenize", str(recordings), str(recordings), "--model", model_dir]) == 1
    assert "name another folder" in capfd.readouterr().err and not (recordings / "corpus.json").exists()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.wav").write_bytes(b"")
    assert cli.main(["tokenize", str(tmp_path / "bad"), str(tmp_path / "none"), "--model", model_dir]) == 1


@pytest.mark.gpu
def test_on_a_gpu(tmp_path, model_dir, recordings):
    tokenize(model_dir, recordings, tmp_path / "cpu", jobs=0)
    report = tokenize(model_dir, recordings, tmp_path / "gpu", device="cuda", jobs=2, shard_bytes=150_000)
    here, there = TokenDataset(tmp_path / "cpu"), TokenDataset(tmp_path / "gpu")
    assert report.quarantined == 3 and there.num_rows == here.num_rows
    same = [(here[i]["codes"] == there[i]["codes"]).float().mean() for i in range(len(here))]
    assert sum(same) / len(same) > 0.99
