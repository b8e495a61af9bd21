"""Folders: the tree is kept, what is done is skipped, a bad file does not stop the others, nothing is overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from codec import Tokens
from codec.cli.folder import output_names


@pytest.fixture
def tree(tmp_path) -> Callable[[str], list[str]]:
    """`tree("in")`: all files below a folder."""

    def files(name: str) -> list[str]:
        top = tmp_path / name
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())

    return files


def test_there_and_back(run, record, tree, model_dir, tmp_path):
    for name in ("in/a.wav", "in/deep/er/b.FLAC", "in/deep/c.ogg", "in/.hidden/d.wav", "in/._e.wav"):
        record(name)
    (tmp_path / "in/notes.txt").write_text("no audio")
    result = run("encode", "in", "tok", "--model", model_dir)
    assert (result.code, result.err) == (0, "") and "3 files encoded (1.5 s of audio), 0 done before" in result.out
    assert tree("tok") == ["a.tok", "deep/c.tok", "deep/er/b.tok"]
    result = run("decode", "tok", "out", "--model", model_dir)
    assert (result.code, result.err) == (0, "") and "3 files decoded" in result.out
    assert tree("out") == ["a.wav", "deep/c.wav", "deep/er/b.wav"]


def test_goes_on_after_bad_files_and_says_so(run, record, tree, model_dir, tmp_path):
    for name in ("in/a.wav", "in/z.wav"):
        record(name)
    (tmp_path / "in/bad.wav").write_text("This is not a recording.")
    (tmp_path / "in/empty.wav").write_bytes(b"")
    result = run("encode", "in", "tok", "--model", model_dir)
    assert result.code == 1 and result.out == ""
    first, *rest = result.err.splitlines()
    assert "2 files encoded" in first and "2 failed" in first
    assert [line.split(": ")[1] for line in rest] == ["in/bad.wav", "in/empty.wav"]
    assert tree("tok") == ["a.tok", "z.tok"]

    whole = (tmp_path / "tok/a.tok").read_bytes()
    (tmp_path / "tok/a.tok").write_bytes(whole[:-1])
    result = run("decode", "tok", "out", "--model", model_dir)
    assert result.code == 1 and "1 file decoded" in result.err and "tok/a.tok" in result.err
    assert tree("out") == ["z.wav"]
    assert run("decode", "tok", "out", "--model", model_dir, "--salvage").code == 0
    assert tree("out") == ["a.wav", "z.wav"]
    result = run("decode", "tok", "out", "--model", model_dir, "--salvage")
    assert result.code == 0 and "2 done before" in result.out


def test_encodes_again_only_what_is_not_done(run, record, model_dir, tiny_seanet, tmp_path):
    for name in ("in/a.wav", "in/b.wav", "in/c.wav"):
        record(name)
    assert run("encode", "in", "tok", "--model", model_dir).code == 0
    assert "0 files encoded (0 s of audio), 3 done before" in run("encode", "in", "tok", "--model", model_dir).out

    whole = (tmp_path / "tok/a.tok").read_bytes()
    (tmp_path / "tok/a.tok").write_bytes(whole[:-1])  # not complete
    newer = (tmp_path / "tok/b.tok").stat().st_mtime + 10
    os.utime(tmp_path / "in/b.wav", (newer, newer))  # recorded anew
    assert "2 files encoded" in run("encode", "in", "tok", "--model", model_dir).out
    assert (tmp_path / "tok/a.tok").read_bytes() == whole
    os.utime(tmp_path / "in/b.wav", (0, 0))

    assert "3 files encoded" in run("encode", "in", "tok", "--model", model_dir, "--codebooks", "2").out
    assert Tokens.load(tmp_path / "tok/a.tok").num_codebooks == 2

    from codec import hub

    hub.save(tiny_seanet, tmp_path / "other")
    assert "3 files encoded" in run("encode", "in", "tok", "--model", "other", "--codebooks", "2").out


def test_one_note_for_all_rates_and_bands(run, record, model_dir):
    record("in/a.wav", rate=44100)
    record("in/b.wav", rate=44100)
    result = run("encode", "in", "tok", "--model", model_dir, "--bitrate", "0.7")
    assert result.code == 0
    assert result.err.splitlines() == [
        "note: 700 bit/s rounds down to 500 bit/s (1 codebooks)",
        "note: 2 files with much energy above 8 kHz, which is lost: in/a.wav and others",
    ]


def test_two_files_never_become_one(run, record, tree, model_dir):
    for name in ("in/a.wav", "in/a.flac", "in/b.wav"):
        record(name)
    assert run("encode", "in", "tok", "--model", model_dir).code == 0
    assert tree("tok") == ["a.flac.tok", "a.wav.tok", "b.tok"]


def test_names_of_outputs():
    def names(*inputs: str) -> list[str]:
        return [str(path) for path in output_names([Path(name) for name in inputs], ".tok")]

    assert names("a.wav", "x/a.flac", "b.c.wav") == ["a.tok", "x/a.tok", "b.c.tok"]
    assert names("a.wav", "a.flac") == ["a.wav.tok", "a.flac.tok"]
    assert names("a.wav", "A.wav") == ["a.wav.tok", "A.wav.tok"]
    assert names("a.wav", "a.flac", "a.wav.mp3") == ["a.wav.tok", "a.flac.tok", "a.wav.mp3.tok"]


def test_decoding_does_not_touch_other_recordings(run, record, tree, model_dir, tmp_path):
    record("in/a.wav")
    record("in/b.wav")
    assert run("encode", "in", "in", "--model", model_dir).code == 0
    assert tree("in") == ["a.tok", "a.wav", "b.tok", "b.wav"]
    record("in/b.wav", seconds=1)  # now of another length than b.tok
    before = (tmp_path / "in/a.wav").read_bytes(), (tmp_path / "in/b.wav").read_bytes()
    result = run("decode", "in", "in", "--model", model_dir)
    assert result.code == 1 and "1 done before, 1 failed" in result.err and "in/b.wav is there already" in result.err
    assert before == ((tmp_path / "in/a.wav").read_bytes(), (tmp_path / "in/b.wav").read_bytes())


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_wrong_folders(verb, run, record, model_dir, tmp_path):
    record("in/a.wav")
    (tmp_path / "in/a.txt").write_text("")
    (tmp_path / "none").mkdir()
    assert run(verb, "in", "-", "--model", model_dir).code == 2
    result = run(verb, "in", "in/a.wav", "--model", model_dir)
    assert result.code == 1 and "is a file, but in is a folder" in result.err
    result = run(verb, "none", "out", "--model", model_dir)
    assert result.code == 1 and "holds no ." in result.err
    assert run("encode", "in", "--model", model_dir).code == 2
