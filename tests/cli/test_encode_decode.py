"""`codec encode` and `codec decode` on single files and pipes, and what bad input gets told."""

from __future__ import annotations

import os
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from codec import Tokens, hub
from codec.cli import encode


@pytest.fixture
def refused(run, tmp_path):
    """`refused("words", "encode", ...)`: exit 1, one line on stderr with these words, and the folder is as it was."""

    def check(words: str, *args: str) -> None:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        result = run(*args)
        assert (result.code, result.out) == (1, ""), result
        assert words in result.err and result.err.startswith("codec: ") and result.err.count("\n") == 1, result.err
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    return check


def test_there_and_back(run, record, model_dir):
    record(seconds=1.5, rate=22050, channels=2)
    result = run("encode", "a.wav", "a.tok", "--model", model_dir)
    assert result.code == 0
    size = f"{os.path.getsize('a.tok')} bytes"
    for words in ("1.5 s", "2 channels", "150 frames", "4 codebooks", "4 kbit/s", size, "x real"):
        assert words in result.out
    assert result.err.startswith("note: ") and "8 kHz" in result.err  # noise up to 11 kHz
    result = run("decode", "a.tok", "b.flac", "--model", model_dir)
    assert (result.code, result.err) == (0, "") and "2 channels at 22050 Hz" in result.out
    info = soundfile.info("b.flac")
    assert (info.format, info.samplerate, info.channels, info.frames) == ("FLAC", 22050, 2, 33075)


def test_a_thousandth_of_a_second(run, record, model_dir):
    record(seconds=0.001)
    assert run("encode", "a.wav", "a.tok", "--model", model_dir).code == 0
    assert run("decode", "a.tok", "b.wav", "--model", model_dir).code == 0
    assert soundfile.info("b.wav").frames == 16


def test_quality(run, record, model_dir):
    record()
    for option, value, codebooks, note in (
        ("--codebooks", "3", 3, ""), ("--bitrate", "1", 2, ""),
        ("--bitrate", "1.2", 2, "note: 1200 bit/s rounds down to 1000 bit/s (2 codebooks)\n"),
    ):
        result = run("encode", "a.wav", "a.tok", "--model", model_dir, option, value)
        assert (result.code, result.err) == (0, note)
        assert Tokens.load("a.tok").num_codebooks == codebooks


def test_a_beam(run, refused, record, model_dir, tmp_path):
    record()
    model = hub.load(model_dir)
    wav, rate = soundfile.read("a.wav", dtype="float32", always_2d=True)
    expected = {beam: model.encode(wav.T, rate, beam=beam).codes for beam in (1, 8)}
    for options, beam in (((), 1), (("--beam", "8"), 8)):
        assert run("encode", "a.wav", "a.tok", "--model", model_dir, *options).code == 0
        assert np.array_equal(Tokens.load("a.tok").codes, expected[beam])
    (tmp_path / "in").mkdir()
    os.replace("a.wav", "in/a.wav")
    assert run("encode", "in", "out", "--model", model_dir, "--beam", "8").code == 0
    assert np.array_equal(Tokens.load("out/a.tok").codes, expected[8])
    for source, target in (("in/a.wav", "b.tok"), ("in", "b")):
        refused("beam=0: it must be at least 1", "encode", source, target, "--model", model_dir, "--beam", "0")


def test_quality_that_the_model_has_not(refused, record, model_dir):
    record()
    for option, value, words in (
        ("--codebooks", "5", "1 to 4"), ("--codebooks", "0", "1 to 4"), ("--bitrate", "0.1", "the least is 500 bit/s"),
        ("--bitrate", "64", "the most is 2000 bit/s"), ("--bitrate", "nan", "the least is 500 bit/s"),
    ):
        refused(words, "encode", "a.wav", "a.tok", "--model", model_dir, option, value)


def test_without_a_name_for_the_output(run, refused, record, model_dir):
    record("talk.v2.wav")
    assert run("encode", "talk.v2.wav", "--model", model_dir).code == 0
    assert os.path.exists("talk.v2.tok")
    refused("there already", "encode", "talk.v2.wav", "--model", model_dir)
    assert run("encode", "talk.v2.wav", "talk.v2.tok", "--model", model_dir).code == 0  # a name is a wish
    assert run("encode", "-", "--model", model_dir).code == 2


def test_pipes(run, spawn, record, model_dir, tmp_path):
    record(seconds=11, channels=2)
    assert run("encode", "a.wav", "a.tok", "--model", model_dir).code == 0
    assert run("decode", "a.tok", "b.wav", "--model", model_dir).code == 0
    with open("a.wav", "rb") as file:
        encoding = spawn("encode", "-", "-", "--model", model_dir, stdin=file)
        decoding = spawn("decode", "-", "-", "--model", model_dir, stdin=encoding.stdout)
        encoding.stdout.close()
        out, err = decoding.communicate()
    assert decoding.returncode == 0 and encoding.wait() == 0 and b"11 s" in err and b"11 s" in encoding.stderr.read()
    piped = out[-11 * 16000 * 2 * 2 :]
    assert piped == (tmp_path / "b.wav").read_bytes()[-len(piped) :] and len(out) < len(piped) + 200


def make_bad_audio(tmp_path, record):
    whole = record("whole.wav").read_bytes()
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("This is not a recording.\n" * 40)
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "rate0.wav").write_bytes(whole[:24] + struct.pack("<I", 0) + whole[28:])
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        wav = np.zeros(40000, np.float32)
        wav[-1] = value
        soundfile.write(tmp_path / name, wav, 16000, subtype="FLOAT")


@pytest.mark.parametrize("name, words", [
    ("missing.wav", "no such file"), ("empty.wav", "empty"), ("text.wav", "not audio"), ("cut.wav", "cut short"),
    ("rate0.wav", "not audio"), ("none.wav", "no samples"), ("nan.wav", "NaN"), ("inf.wav", "infinite"),
])
def test_bad_recordings(name, words, refused, record, model_dir, tmp_path):
    make_bad_audio(tmp_path, record)
    refused(words, "encode", name, "a.tok", "--model", model_dir)
    (tmp_path / "a.tok").write_bytes(b"before")
    refused(words, "encode", name, "a.tok", "--model", model_dir)
    assert (tmp_path / "a.tok").read_bytes() == b"before"


def test_bad_outputs(run, refused, record, model_dir, tmp_path):
    record()
    (tmp_path / "folder").mkdir()
    assert run("encode", "a.wav", "a.tok", "--model", model_dir).code == 0
    for verb, source in (("encode", "a.wav"), ("decode", "a.tok")):
        refused("is a file, not a folder", verb, source, "a.wav/b.wav", "--model", model_dir)
        refused("does not exist", verb, source, "nowhere/b.wav", "--model", model_dir)
        refused("is a folder", verb, source, "folder", "--model", model_dir)
    refused("the input itself", "decode", "a.tok", "a.tok", "--model", model_dir)
    os.symlink("a.wav", "link.tok")
    refused("the input itself", "encode", "a.wav", "link.tok", "--model", model_dir)
    refused("'doc'", "decode", "a.tok", "b.doc", "--model", model_dir)


def test_a_second_recording_is_not_written_over(refused, record, model_dir):
    """`codec encode *.wav` in a folder of two."""
    record("a.wav")
    record("b.wav")
    refused("name a .tok file", "encode", "a.wav", "b.wav", "--model", model_dir)


@pytest.mark.parametrize("name", ["語" * 83, "n" * 250])
def test_the_longest_names(name, run, record, model_dir):
    record()
    assert run("encode", "a.wav", f"{name}.tok", "--model", model_dir).code == 0 and os.path.isfile(f"{name}.tok")


def test_bad_tokens(run, refused, record, model_dir, tmp_path):
    record(seconds=12)
    assert run("encode", "a.wav", "a.tok", "--model", model_dir).code == 0
    whole = (tmp_path / "a.tok").read_bytes()
    (tmp_path / "cut.tok").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.tok").write_bytes(whole[:-400] + bytes([whole[-400] ^ 1]) + whole[-399:])
    (tmp_path / "header.tok").write_bytes(whole[:40] + b"?" + whole[41:])
    (tmp_path / "empty.tok").write_bytes(b"")
    for name, words in (
        ("missing", "no such file"), ("cut", "cut short"), ("flipped", "damaged"), ("header", "damaged"),
        ("empty", "empty"),
    ):
        refused(words, "decode", f"{name}.tok", "b.wav", "--model", model_dir)
    refused("not a .tok file", "decode", "a.wav", "b.wav", "--model", model_dir)
    refused("is not in the box", "decode", "a.tok", "b.wav")


def test_tokens_of_another_model(run, refused, record, model_dir, tiny_seanet):
    record()
    hub.save(tiny_seanet, "other")
    assert run("encode", "a.wav", "a.tok", "--model", "other").code == 0
    refused("load the model that made them", "decode", "a.tok", "b.wav", "--model", model_dir)


def test_the_model_that_the_file_names(run, record, model_dir, monkeypatch):
    record()
    assert run("encode", "a.wav", "a.tok", "--model", model_dir).code == 0
    monkeypatch.setattr(hub, "PRETRAINED", type(hub.PRETRAINED)(model_dir).parent)
    assert run("decode", "a.tok", "b.wav").code == 0


def test_salvage(run, record, model_dir, tmp_path):
    record(seconds=16)
    assert run("encode", "a.wav", "a.tok", "--model", model_dir).code == 0
    whole = bytearray((tmp_path / "a.tok").read_bytes())
    (tmp_path / "cut.tok").write_bytes(whole[: len(whole) * 7 // 8])
    whole[len(whole) // 2] ^= 1
    (tmp_path / "bad.tok").write_bytes(whole)
    result = run("decode", "bad.tok", "b.wav", "--model", model_dir, "--salvage")
    assert (result.code, result.err) == (0, "note: bad.tok: lost 5.00 to 10.00 s; lost spans are silent\n")
    assert soundfile.info("b.wav").frames == 16 * 16000
    result = run("decode", "cut.tok", "c.wav", "--model", model_dir, "--salvage")
    assert result.code == 0 and result.err.count("\n") == 1
    assert result.err.startswith("note: cut.tok: lost what came after ")


@pytest.mark.parametrize("device, words", [("cuda", "use --device cpu"), ("tpu", "there is cpu and cuda")])
def test_devices(device, words, refused, record, model_dir, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    record()
    refused(words, "encode", "a.wav", "a.tok", "--model", model_dir, "--device", device)


def test_models_that_are_none(refused, record, tmp_path):
    record()
    (tmp_path / "folder").mkdir()
    refused("no model is named 'nonsense'", "encode", "a.wav", "a.tok", "--model", "nonsense")
    refused("holds no model", "encode", "a.wav", "a.tok", "--model", "folder")


def test_default_model_is_that_of_the_hub():
    assert encode.DEFAULT_MODEL == hub.DEFAULT


def test_the_box_works_without_options(run, record):
    record()
    assert run("encode", "a.wav", "a.tok").code == 0 and run("decode", "a.tok", "b.wav").code == 0
    assert soundfile.info("b.wav").frames == 8000


def test_a_named_pipe(run, record, model_dir, tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    record()
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE) as reader:
        assert run("encode", "a.wav", "pipe", "--model", model_dir).code == 0
        assert reader.stdout.read().startswith(b"\x93TOK")
    assert (tmp_path / "pipe").is_fifo()
