"""Recordings by name: files, parts of files, members of tar shards."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
import soundfile

from codec.training.data import SpeechCrops
from codec.training.listing import DataError, decode, list_audio

RATE = 16_000


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "audio" / "long #1.wav"
    path.parent.mkdir()
    soundfile.write(path, np.linspace(-0.5, 0.5, 4 * RATE), RATE, subtype="PCM_16")
    return path


def shard(path, *files):
    with tarfile.open(path, "w") as tar:
        for number, file in enumerate(files):
            tar.add(file, f"a/{number}{file.suffix}")
        tar.add(__file__, "a/notes.txt")
    return path


def test_parts_of_a_file_are_those_samples(wav):
    whole = decode(wav, RATE)
    assert np.array_equal(decode(f"{wav}#t=1.5,2.25", RATE), whole[24_000:36_000])
    assert np.array_equal(decode(f"{wav}#t=3.5", RATE), whole[56_000:])
    assert np.array_equal(decode(f"{wav}#t=3,99", RATE), whole[48_000:])
    assert len(decode(f"{wav}#t=1,2", 24_000)) == 24_000
    with pytest.raises(DataError, match="no sound from 4 to inf s: it is 4 s long"):
        decode(f"{wav}#t=4", RATE)


def test_members_of_a_tar_file(wav, tmp_path):
    short = tmp_path / "short.flac"
    soundfile.write(short, 0.1 * np.ones(RATE), RATE)
    path = shard(tmp_path / "audio" / "000.tar", wav, short)
    names = [entry.path for entry in list_audio(path)]
    assert names == [f"{path}!/a/0.wav", f"{path}!/a/1.flac"]
    assert np.array_equal(decode(names[0], RATE), decode(wav, RATE))
    assert np.array_equal(decode(names[0] + "#t=1,2", RATE), decode(wav, RATE)[RATE : 2 * RATE])
    assert [entry.path for entry in list_audio(tmp_path / "audio")] == [*names, str(wav)]
    with pytest.raises(DataError, match="has no file a/2.wav"):
        decode(f"{path}!/a/2.wav", RATE)
    junk = tmp_path / "junk.tar"
    junk.write_bytes(b"junk")
    with pytest.raises(DataError, match="no plain tar file"):
        list_audio(junk)


def test_a_manifest_names_parts_and_training_reads_them(wav, tmp_path):
    path = shard(tmp_path / "0.tar", wav)
    rows = [{"path": str(wav), "start": 1.0, "seconds": 0.5, "text": "hello"}, {"path": str(wav), "seconds": 4.0},
            {"path": f"{path}!/a/0.wav", "start": 3.0}]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    crops = SpeechCrops(manifest, RATE, 1600, 2, cache=tmp_path / "cache")
    assert [file["length"] for file in crops.corpus.files] == [8000, 64_000, 16_000]
    assert not crops.corpus.skipped and crops.batch(0).isfinite().all()
    keys = crops.corpus.content_keys()
    other = SpeechCrops(manifest, 8000, 1600, 2, cache=tmp_path / "cache")
    assert len(set(keys)) == 3 and other.corpus.content_keys() == keys


@pytest.mark.parametrize("row", [{"start": -1}, {"start": "1"}, {"start": 0, "seconds": True}, {"start": float("nan")}])
def test_wrong_parts_are_refused(row, tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": "x.wav", **row}))
    with pytest.raises(DataError, match="entry 1 .* numbers from 0 up"):
        list_audio(tmp_path / "m.jsonl")
