"""`codec encode --entropy` and what decodes it."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch

from codec import Tokens
from codec.entropy import prior_of
from codec.entropy.fitting import fit_prior


@pytest.fixture
def with_prior(run, record, model_dir, tmp_path):
    """The model's folder with a prior that knows a.wav by heart."""
    record(seconds=6)
    assert run("encode", "a.wav", "packed.tok", "--model", model_dir).code == 0
    shutil.copytree(model_dir, tmp_path / "model")
    tokens = Tokens.load("packed.tok")
    fit_prior([tokens.codes[0]], tokens.spec, codebooks=2, hidden=32, epochs=60, learning_rate=0.02).save("model")
    return "model"


def test_fewer_bytes_and_the_same_audio(run, spawn, with_prior):
    assert run("encode", "a.wav", "a.tok", "--model", with_prior, "--entropy").code == 0
    assert os.path.getsize("a.tok") < os.path.getsize("packed.tok") - 50
    assert torch.equal(Tokens.load("a.tok", prior=prior_of(with_prior)).codes, Tokens.load("packed.tok").codes)
    for name in ("a", "packed"):
        assert run("decode", f"{name}.tok", f"{name}.wav", "--model", with_prior).code == 0
    shutil.copy("a.tok", "again.tok")
    process = spawn("decode", "-", "-", "--model", with_prior, stdin=open("again.tok", "rb"), stdout=open("pipe.wav", "wb"))
    assert process.wait(60) == 0
    packed = soundfile.read("packed.wav")[0]
    assert np.array_equal(soundfile.read("a.wav")[0], packed) and np.array_equal(soundfile.read("pipe.wav")[0], packed)


def test_a_folder_is_coded_and_known_as_done(run, with_prior):
    os.mkdir("in")
    shutil.copy("a.wav", "in/a.wav")
    for words in ("1 file encoded", "1 done before"):
        result = run("encode", "in", "out", "--model", with_prior, "--entropy")
        assert result.code == 0 and words in result.out, result
    assert os.path.getsize("out/a.tok") < os.path.getsize("packed.tok") - 50


def test_what_is_missing_is_said(run, with_prior, model_dir):
    result = run("encode", "a.wav", "a.tok", "--model", model_dir, "--entropy")
    assert result.code == 1 and "no prior.safetensors" in result.err and result.err.count("\n") == 1
    assert run("encode", "a.wav", "a.tok", "--model", with_prior, "--entropy").code == 0
    result = run("info", "a.tok")  # what header and end say
    assert result.code == 0 and "entropy-coded with prior" in result.out and "--model" in result.out and "complete             yes" in result.out
    whole = json.loads(run("info", "a.tok", "--json", "--model", with_prior).out)
    partly = json.loads(run("info", "a.tok", "--json").out)
    assert whole["problem"] is None and partly["problem"] and whole | {"problem": 0, "payload_bitrate": 0} == partly | {"problem": 0, "payload_bitrate": 0}
    assert partly["payload_bitrate"] is None and 0 < whole["payload_bitrate"] < whole["bitrate"]
    result = run("decode", "a.tok", "b.wav", "--model", model_dir)  # the model, but without the prior
    assert result.code == 1 and "entropy-coded with prior" in result.err and result.err.count("\n") == 1
